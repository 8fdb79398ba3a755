"""The chunker, by hand, in closed form, and as a property."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlagents.algos.chunking import Chunk, chunk, repeat_from


def cut(bodies, *, head=0, reserve=1, pinned=0, window=10, overlap=0):
    """Turns whose action is `reserve` tokens: the opening is the rest of the body."""
    return chunk(
        [b - reserve for b in bodies],
        bodies,
        head=head,
        reserve=reserve,
        pinned=pinned,
        window=window,
        overlap=overlap,
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


@given(
    turns=st.integers(1, 200),
    pinned=st.integers(0, 3),
    room=st.integers(2, 20),
    overlap=st.integers(0, 19),
)
def test_closed_form_for_turns_of_one_token(turns, pinned, room, overlap):
    """K = 1 + ceil(max(0, T - W) / (W - O)), T the rest after the prefix, W what it leaves."""
    overlap = min(overlap, room - 1)
    chunks = cut([1] * turns, pinned=pinned, window=pinned + room, overlap=overlap)
    rest = turns - pinned
    assert len(chunks) == 1 + math.ceil(max(0, rest - room) / (room - overlap))


@given(
    bodies=st.lists(st.integers(1, 12), min_size=1, max_size=60),
    head=st.integers(0, 3),
    pinned=st.integers(0, 2),
    overlap=st.integers(0, 30),
)
def test_every_turn_once_and_every_context_fits(bodies, head, pinned, overlap):
    window = head + 12 * (pinned + 1) + 5
    chunks = cut(bodies, head=head, pinned=pinned, window=window, overlap=min(overlap, window))
    owned = [turn for c in chunks for turn in range(c.start, c.stop)]
    assert owned == list(range(len(bodies)))
    for index, c in enumerate(chunks):
        prefix = sum(bodies[:pinned]) if index else 0
        assert head + prefix + sum(bodies[c.repeat : c.stop]) <= window
        if index:
            assert pinned <= c.repeat <= c.start
            assert sum(bodies[c.repeat : c.start]) <= overlap
