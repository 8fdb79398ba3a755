"""Demonstrations as segments: cut as rollouts are, each action once, and all of it counted."""

from __future__ import annotations

import json
import tracemalloc
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlagents.algos.chunking import chunk
from rlagents.config import ContextSection, WarmStartSection
from rlagents.data.demonstrations import Demonstration, read
from rlagents.errors import ConfigError
from rlagents.learner.rows import IGNORED, spool
from rlagents.policy.chat import Chat
from rlagents.policy.tiny import byte_tokenizer
from rlagents.rollout.context import ContextWindow, Prompt, Step
from rlagents.rollout.splitting import Dropped, SplitReport, Splitter, with_repeats
from rlagents.types import EpisodeKey, Segment, StopReason, Task, Trajectory, Turn, TurnKind
from tests.policy.toys import bpe_tokenizer

BYTES = Chat(byte_tokenizer())
MERGES = Chat(bpe_tokenizer())
RESERVE = 6


def shown(*turns: tuple[str, str]) -> Demonstration:
    return Demonstration(task=Task(env_id="x", seed=0), turns=turns)


def splitter(chat: Chat = BYTES, *, warm: Any = None, reserve: int = 2, **context: Any) -> Splitter:
    section = ContextSection(**{"window": 16, "pinned_turns": 1, **context})
    made = WarmStartSection(**(warm or {}))
    return Splitter(made, chat, lambda: ContextWindow(chat, section, reserve), reserve)


def text(segment: Segment) -> str:
    """The segment in bytes: `^` opens a user's message, `$` ends an action."""
    return BYTES.decode(segment.token_ids).replace("<|user|>", "^").replace("<|end|>", "$")


def trained(segment: Segment) -> str:
    return BYTES.decode(segment.token_ids[segment.loss_mask]).replace("<|end|>", "$")


# Five turns of 4, 4, 4, 4, 5 tokens: `<|user|>`, a letter, a digit, `<|end|>`.
FIVE = shown(("a", "1"), ("b", "2"), ("c", "3"), ("d", "4"), ("ee", "5"))


def test_pinned_and_overlapping_by_hand():
    """A window of 16 holds four turns; the fifth finds the first, and one to be read again."""
    split = splitter(overlap=4)
    first, second = split.split(FIVE)
    assert (text(first), trained(first)) == ("^a1$^b2$^c3$^d4$", "1$2$3$4$")
    assert (text(second), trained(second)) == ("^a1$^d4$^ee5$", "5$")
    assert split.report == SplitReport(
        demonstrations=1, turns=5, split=1, contexts=2, trained_tokens=10, repeated_tokens=8
    )


def test_the_overlap_trained_twice_is_an_option():
    """What is repeated is trained again, what is pinned is not."""
    split = splitter(overlap=4, warm={"train_overlap": True})
    assert [trained(s) for s in split.split(FIVE)] == ["1$2$3$4$", "4$5$"]
    assert split.report.trained_tokens == 12


def test_what_the_template_adds_is_never_trained():
    """ChatML ends a turn with a newline that no policy samples."""
    split = splitter(MERGES, overlap=40, window=96, reserve=4, warm={"train_overlap": True})
    segments = list(split.split(shown(*(("door", "go") for _ in range(9)))))
    actions = [MERGES.decode(s.token_ids[s.loss_mask]) for s in segments]
    assert len(segments) > 2
    assert all(set(said.split("<|im_end|>")) == {"go", ""} for said in actions)
    assert sum(said.count("go") for said in actions) > 9


@pytest.mark.parametrize(
    ("mode", "kept", "reason", "turns"),
    [
        ("keep_head", "^a1$^b2$^c3$^d4$", "after the first window", 1),
        # 16 tokens: the last three turns have 13, with a fourth it would be 17.
        ("keep_tail", "^c3$^d4$^ee5$", "before the last window", 2),
    ],
)
def test_one_window_kept_by_hand(mode, kept, reason, turns):
    split = splitter(overlap=4, warm={"long": mode})
    (segment,) = split.split(FIVE)
    assert text(segment) == kept
    assert split.report.dropped == {reason: Dropped(turns=turns, tokens=2 * turns)}
    assert (split.report.split, split.report.repeated_tokens) == (0, 0)
    # One that fits is kept whole.
    assert [text(s) for s in split.split(shown(("a", "1")))] == ["^a1$"]


@pytest.mark.parametrize("mode", ["split", "keep_head", "keep_tail"])
@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (("a" * 20, "1"), "it does not fit into context.window"),
        (("a", "123"), "its action is longer than policy.max_tokens"),
    ],
)
def test_a_misfit_is_an_error_or_the_end(mode, bad, reason):
    demonstration = shown(("a", "1"), ("b", "2"), bad)
    with pytest.raises(ConfigError, match=rf"turn 2 of demonstration 0 can't be shown: {reason}"):
        list(splitter(warm={"long": mode}).split(demonstration))
    split = splitter(warm={"long": mode, "misfits": "drop"})
    kept = list(split.split(demonstration))
    assert [text(s) for s in kept] == ([] if mode == "keep_tail" else ["^a1$^b2$"])
    lost = split.report.dropped[reason]
    assert (lost.turns, lost.demonstrations) == (1, mode == "keep_tail")
    assert list(split.split(shown(bad))) == []
    assert split.report.dropped[reason].demonstrations == 1 + (mode == "keep_tail")


def test_a_transcript_is_named_by_its_line(tmp_path):
    path = tmp_path / "chats.jsonl"
    messages = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "long" * 9}]
    path.write_text(json.dumps({"messages": messages}))
    (demonstration,) = read(str(path))
    with pytest.raises(ConfigError, match=r"turn 0 of .*chats.jsonl, line 1 can't be shown"):
        list(splitter().split(demonstration))


def test_odd_lines_are_counted_or_an_error(tmp_path):
    path = tmp_path / "chats.jsonl"
    good = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "1"}]
    path.write_text("".join(json.dumps({"messages": m}) + "\n" for m in (good, good[1:], good[:1])))
    split = splitter(warm={"misfits": "drop"})
    kept = [text(s) for d in read(str(path), BYTES, split.odd) for s in split.split(d)]
    assert (kept, split.report.odd_lines, split.report.demonstrations) == (["^a1$"], 2, 1)
    assert "line 2: an assistant message must follow" in split.report.first_odd
    assert split.report.lines()[1].startswith("dropped: 2 lines that are no demonstrations, the f")
    with pytest.raises(ConfigError, match=r"chats.jsonl, line 2: an assistant message"):
        list(read(str(path), BYTES, splitter().odd))


class Closing(ContextWindow):
    """Counts those that are open."""

    open = 0

    def __init__(self) -> None:
        super().__init__(BYTES, ContextSection(window=16), 2)
        Closing.open += 1

    def close(self) -> None:
        Closing.open -= 1


@pytest.mark.parametrize("mode", ["split", "keep_head", "keep_tail"])
def test_windows_are_closed(mode):
    split = Splitter(WarmStartSection(long=mode), BYTES, Closing, 2)
    assert list(split.split(FIVE))
    with pytest.raises(ConfigError, match="can't be shown"):
        list(split.split(shown(("a", "123"))))
    assert Closing.open == 0


class Summing(ContextWindow):
    """Asks for a summary before the third turn."""

    asked = 0

    def observe(self, text: str) -> Prompt | None:
        self.asked += 1
        return super().observe("sum up" if self.asked == 3 else text)

    def act(self, action_ids: Any, text: str) -> Step:
        step = super().act(action_ids, text)
        return Step(kind=TurnKind.SUMMARY, text="") if self.asked == 3 else step


def test_what_a_demonstration_does_not_show_ends_it():
    section = ContextSection(window=64)
    warm = WarmStartSection(misfits="drop")
    split = Splitter(warm, BYTES, lambda: Summing(BYTES, section, 2), 2)
    assert [text(s) for s in split.split(FIVE)] == ["^a1$^b2$"]
    (reason,) = split.report.dropped
    assert reason == "context.strategy asks for something else there than an action"


def test_a_sampled_segment_never_trains_its_overlap():
    (segment, *_) = splitter().split(FIVE)
    sampled = EpisodeKey(stream="train", iteration=0, group=0, member=0)
    for changes in (
        {"source": (sampled, 0)},
        {"behaviour_logprobs": np.full(len(segment), -1, np.float32)},
    ):
        with pytest.raises(ValueError, match="repeated actions are trained in demonstrations only"):
            with_repeats(replace(segment, **changes), ((1, 2),))


def test_an_episode_played_through_a_window_is_taken_as_it_was():
    turn = Turn(
        observation="a",
        action="1",
        observation_ids=BYTES.observation_ids("a"),
        action_ids=BYTES.encode_action("1"),
        behaviour_logprobs=np.zeros(2, np.float32),
    )
    episode = Trajectory(
        key=EpisodeKey(stream="demonstrations", iteration=0, group=0, member=0),
        task=FIVE.task,
        turns=(turn,),
        final_observation="",
        stop=StopReason.TERMINATED,
    )
    assert [text(s) for s in splitter().recorded(FIVE, episode)] == ["^a1$"]
    for warm in ({"train_overlap": True}, {"long": "keep_head"}):
        with pytest.raises(ConfigError, match="the expert plays through the context window"):
            list(splitter(warm=warm).recorded(FIVE, episode))


@pytest.mark.parametrize("chat", [BYTES, MERGES], ids=["bytes", "merges"])
@settings(max_examples=40, deadline=None)
@given(
    turns=st.lists(
        st.tuples(st.text("abé<|end|>", max_size=9), st.text("xy1", min_size=1, max_size=4)),
        min_size=1,
        max_size=40,
    ),
    pinned=st.integers(0, 2),
    overlap=st.integers(0, 40),
    truncation=st.sampled_from(["sliding", "progressive"]),
)
def test_segments_are_the_chunkers_contexts(chat, turns, pinned, overlap, truncation):
    """Cut where the chunker cuts, every action trained once, token for token."""
    window = 128  # three of the largest turns, two of them pinned
    split = splitter(
        chat,
        window=window,
        pinned_turns=pinned,
        overlap=overlap,
        truncation=truncation,
        reserve=RESERVE,
    )
    openings = [chat.observation_ids(o) for o, _ in turns]
    actions = [chat.encode_action(a) for _, a in turns]
    bodies = [
        np.concatenate([o, a, chat.close_ids(a)]) for o, a in zip(openings, actions, strict=True)
    ]
    segments = list(split.split(shown(*turns)))
    chunks = chunk(
        [len(o) for o in openings],
        [len(b) for b in bodies],
        head=len(chat.head_ids),
        reserve=RESERVE,
        pinned=pinned,
        window=window,
        overlap=overlap,
        truncation=truncation,
    )
    assert len(segments) == len(chunks) == split.report.contexts
    for segment, cut in zip(segments, chunks, strict=True):
        before = [*bodies[: pinned if cut.start else 0], *bodies[cut.repeat : cut.start]]
        context = np.concatenate([chat.head_ids, *before, *bodies[cut.start : cut.stop]])
        assert len(segment) <= window
        # A segment ends with its last action: what closes it is nobody's context.
        np.testing.assert_array_equal(segment.token_ids, context[: len(segment)])
        assert segment.loss_mask[-1]
        np.testing.assert_array_equal(
            segment.token_ids[segment.loss_mask], np.concatenate(actions[cut.start : cut.stop])
        )
    assert split.report.trained_tokens == sum(map(len, actions))
    repeated = sum(
        sum(map(len, bodies[:pinned])) + sum(map(len, bodies[c.repeat : c.start]))
        for c in chunks[1:]
    )
    assert split.report.repeated_tokens == repeated


def test_the_report_in_words():
    split = splitter(overlap=4, warm={"long": "keep_head"})
    list(split.split(FIVE))
    assert split.report.lines() == [
        "demonstrations: 1 with 5 turns, 0 split, 1 contexts, 8 tokens to train, 0 repeated",
        "dropped: 1 turns (2 tokens, 0 whole demonstrations): after the first window",
    ]


def test_memory_does_not_grow_with_the_demonstrations(tmp_path):
    """From the file to the trainer's rows; ten times as many lines, the same peak."""

    def peak(count: int) -> tuple[int, int]:
        path = tmp_path / f"{count}.jsonl"
        turns = [["observation " * 4, "act"]] * 100
        line = json.dumps({"task": {"env_id": "x", "seed": 0}, "turns": turns}) + "\n"
        path.write_text(line * count)
        split = splitter(window=256, overlap=60, reserve=5)
        tracemalloc.start()
        rows = spool((s for d in read(str(path)) for s in split.split(d)), str(tmp_path), keep=16)
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert rows.tokens == split.report.trained_tokens == count * 100 * 4
        return most, split.report.contexts

    peak(1)  # what is made once
    (small, few), (large, many) = peak(8), peak(80)
    assert many == 10 * few > 3_000
    assert large < 1.3 * small


def test_rows_hold_the_masks_token_for_token(tmp_path):
    split = splitter(overlap=4)
    segments = list(split.split(FIVE))
    rows = spool(iter(segments), str(tmp_path), keep=1)
    assert (rows.tokens, rows.longest) == (10, (16,))
    for row, segment in zip(rows.dataset(), segments, strict=True):
        row = dict(row)
        assert row["input_ids"].tolist() == segment.token_ids.tolist()
        labels = [
            int(i) if m else IGNORED
            for i, m in zip(segment.token_ids, segment.loss_mask, strict=True)
        ]
        assert row["labels"].tolist() == labels
        assert row["trained"] == segment.loss_mask.sum()
