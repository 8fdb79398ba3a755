"""The chunker, by hand, in closed form, and as a property."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from rlagents.algos.chunking import (
    Chunk,
    chunk,
    clip_text,
    overlap_at,
    repeat_from,
    segment_count,
)

TRUNCATIONS = st.sampled_from(["sliding", "progressive"])


def cut(bodies, *, head=0, reserve=1, pinned=0, window=10, overlap=0, truncation="sliding"):
    """Turns whose action is `reserve` tokens: the opening is the rest of the body."""
    return chunk(
        [b - reserve for b in bodies],
        bodies,
        head=head,
        reserve=reserve,
        pinned=pinned,
        window=window,
        overlap=overlap,
        truncation=truncation,
    )


def test_history_that_fits_is_one_chunk():
    assert cut([3, 3, 4]) == [Chunk(0, 0, 3)]


def test_cuts_between_turns_without_overlap():
    # 4+4 fill 8 of 10; the third turn opens the next window.
    assert cut([4, 4, 4, 4, 4]) == [Chunk(0, 0, 2), Chunk(2, 2, 4), Chunk(4, 4, 5)]


def test_pinned_turn_takes_room_in_every_window():
    # Pinned turn 0 is 4 tokens: it leaves 6 for turns of 3.
    assert cut([4, 3, 3, 3, 3, 3], pinned=1) == [
        Chunk(0, 0, 3),
        Chunk(3, 3, 5),
        Chunk(5, 5, 6),
    ]


def test_overlap_repeats_the_latest_whole_turns():
    # Window 10, overlap 5: one turn of 3 is repeated (two would be 6 > 5).
    assert cut([3, 3, 3, 3, 3], overlap=5) == [Chunk(0, 0, 3), Chunk(2, 3, 5)]


def test_overlap_gives_way_to_a_large_observation():
    # The coming opening (8) and its action (1) leave room for 1: nothing is repeated.
    first = repeat_from([3, 3, 3], 8, head=0, reserve=1, pinned=0, window=10, overlap=5)
    assert first == 3


def test_prefix_that_fills_the_window_is_an_error():
    assert repeat_from([9], 2, head=0, reserve=1, pinned=1, window=10, overlap=0) is None
    with pytest.raises(ValueError, match="turn 1 .* does not fit"):
        cut([9, 3], pinned=1)


def test_turn_larger_than_the_window_is_an_error():
    with pytest.raises(ValueError, match="turn 0"):
        cut([11])


def test_progressive_truncation_repeats_less_at_each_cut():
    # Turns of 1 in a window of 10 with overlap 6: contexts 1, 2, 3, ... repeat 6, 3, 2, 1, 1, 1, 0.
    assert [overlap_at(n, 6, "progressive") for n in range(9)] == [0, 6, 3, 2, 1, 1, 1, 0, 0]
    chunks = cut([1] * 60, overlap=6, truncation="progressive")
    assert [c.start - c.repeat for c in chunks] == [0, 6, 3, 2, 1, 1, 1, 0]
    # They own 10, 4, 7, 8, 9, 9, 9 of 60 turns, which leaves 4.
    assert [c.stop - c.start for c in chunks] == [10, 4, 7, 8, 9, 9, 9, 4]


def test_segment_count_by_hand():
    # W = 10 - 2 = 8, stride 8 - 3 = 5: 8, 13, 18, ... tokens.
    sizes = {"prefix": 2, "window": 10, "overlap": 3}
    assert [segment_count(rest, **sizes) for rest in (0, 8, 9, 13, 14, 18)] == [1, 1, 2, 2, 3, 3]
    # Progressive: O_n = 3, 1, 1, 0, ...: 8, 8+5, 13+7, 20+7, 27+8 tokens.
    counts = [
        segment_count(rest, **sizes, truncation="progressive") for rest in (8, 13, 14, 20, 27, 35)
    ]
    assert counts == [1, 2, 3, 3, 4, 5]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"prefix": 10}, "prefix: expected less than the window .10., got 10"),
        ({"prefix": 4, "overlap": 6}, r"overlap: expected less than window - prefix \(6\), got 6"),
        ({"overlap": -1}, "expected 0 or more, got 5, 0 and -1"),
        ({"rest": -1}, "expected 0 or more"),
    ],
)
def test_sizes_that_leave_no_room_are_errors(changes, message):
    with pytest.raises(ValueError, match=message):
        segment_count(**{"rest": 5, "prefix": 0, "window": 10, "overlap": 0, **changes})


@given(
    turns=st.integers(1, 200),
    pinned=st.integers(0, 3),
    room=st.integers(2, 20),
    overlap=st.integers(0, 19),
    truncation=TRUNCATIONS,
)
def test_closed_form_for_turns_of_one_token(turns, pinned, room, overlap, truncation):
    overlap, window = min(overlap, room - 1), pinned + room
    chunks = cut([1] * turns, pinned=pinned, window=window, overlap=overlap, truncation=truncation)
    assert len(chunks) == segment_count(
        max(0, turns - pinned),
        prefix=pinned,
        window=window,
        overlap=overlap,
        truncation=truncation,
    )


@given(
    bodies=st.lists(st.integers(1, 12), min_size=1, max_size=60),
    head=st.integers(0, 3),
    pinned=st.integers(0, 2),
    overlap=st.integers(0, 30),
    truncation=TRUNCATIONS,
)
def test_every_turn_once_and_every_context_fits(bodies, head, pinned, overlap, truncation):
    window = head + 12 * (pinned + 1) + 5
    chunks = cut(
        bodies, head=head, pinned=pinned, window=window, overlap=overlap, truncation=truncation
    )
    owned = [turn for c in chunks for turn in range(c.start, c.stop)]
    assert owned == list(range(len(bodies)))
    for index, c in enumerate(chunks):
        prefix = sum(bodies[:pinned]) if index else 0
        assert head + prefix + sum(bodies[c.repeat : c.stop]) <= window
        if index:
            assert pinned <= c.repeat <= c.start
            assert sum(bodies[c.repeat : c.start]) <= overlap_at(index, overlap, truncation)


def test_a_long_text_keeps_its_head_and_tail():
    # 100 letters into 60: the mark has 32, so that 28 are kept and 72 left out.
    text = "a" * 50 + "z" * 50
    mark = "[... 72 characters left out ...]"
    assert clip_text(text, 60, len) == "a" * 14 + mark + "z" * 14
    assert clip_text(text, 100, len) == text


def test_thousands_are_easy_to_read():
    assert "[... 9,96" in clip_text("x" * 10_000, 70, len)


def test_a_mark_that_does_not_fit_is_an_error():
    with pytest.raises(ValueError, match="expected room for .* 100 characters left out"):
        clip_text("x" * 100, 30, len)


@given(
    text=st.text(max_size=300),
    limit=st.integers(40, 200),
    bumps=st.lists(st.integers(0, 3), min_size=7, max_size=7),
)
@example(text="x" * 41, limit=40, bumps=[0] * 7)
def test_what_is_clipped_fits_for_a_size_that_is_nearly_monotone(text, limit, bumps):
    calls = []

    def size(part):
        calls.append(part)
        return len(part) + bumps[len(part) % 7]  # as merges of tokens move a count up and down

    clipped = clip_text(text, limit, size)
    assert size(clipped) <= limit
    assert len(calls) < 20
    head, mark, tail = clipped.partition("[... ")
    tail = tail.partition(" left out ...]")[2]
    if mark and clipped != text:
        assert text.startswith(head) and text.endswith(tail) and len(head) - len(tail) in (0, 1)
        assert f"{len(text) - len(head) - len(tail):,} characters" in clipped
    else:
        assert clipped == text


def test_few_long_strings_are_measured():
    """A token has four characters: 2,000 of 200,000 are kept, and besides the text little more."""
    measured = []

    def size(part):
        measured.append(len(part))
        return -(-len(part) // 4)

    clipped = clip_text("x" * 200_000, 500, size)
    assert 1997 <= len(clipped) <= 2000
    assert sum(length > 3000 for length in measured) == 1  # a bisection needs seven
    assert len(measured) < 20


@given(text=st.text(min_size=120, max_size=300), seed=st.integers(0, 1000))
def test_clipping_ends_for_any_size(text, seed):
    """Even where size means nothing; then the result still fits by that size, or is refused."""

    def size(part):
        return (len(part) * 7919 + seed * 104729) % 100

    try:
        assert size(clip_text(text, 50, size)) <= 50
    except ValueError:
        assert size(f"[... {len(text):,} characters left out ...]") > 50
