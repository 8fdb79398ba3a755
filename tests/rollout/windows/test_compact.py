"""Summaries: asked for where the window fills, trained where written, read in what follows."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlagents.config import CompactSection, ContextSection
from rlagents.errors import ConfigError, EnvironmentFailure
from rlagents.rollout.actors import ScriptedActor
from rlagents.rollout.context import clipper
from rlagents.rollout.windows.compact import CompactWindow
from rlagents.types import StopReason, TurnKind
from tests.rollout.properties import (
    CHATS,
    Answer,
    answers,
    assert_dropped,
    assert_exact,
    assert_repeats,
    in_turn,
    play,
    sections,
    spoken,
    texts,
)

RESERVE = 6
ACTION, SUMMARY = TurnKind.ACTION, TurnKind.SUMMARY


compacts = st.builds(
    CompactSection,
    tokens=st.integers(0, 16),
    prompt=st.sampled_from(["!", "sum up", "<|im_end|>"]),
    label=st.sampled_from(["", "so far: "]),
)


@pytest.mark.parametrize("name", CHATS)
@settings(max_examples=40)
@given(data=st.data(), compact=compacts)
def test_summaries_are_trained_where_they_were_sampled(
    name: str, data: st.DataObject, compact: CompactSection
) -> None:
    chat = CHATS[name]
    section = data.draw(sections("compact", least=40, compact=compact))
    try:
        window = CompactWindow(chat, section, RESERVE)
    except ConfigError:
        return  # no room for an observation: said at birth
    observations = data.draw(st.lists(texts, min_size=1, max_size=12))
    played = play(
        window,
        observations,
        lambda request: data.draw(answers(chat, request.sampling.max_tokens)),
        reserve=RESERVE,
    )
    assert_exact(played, limit=section.window)
    assert_dropped(played, chat)
    assert_repeats(played, CompactWindow(chat, section, RESERVE))
    turns = played.trajectory.turns
    for number, turn in enumerate(turns):
        if turn.kind is ACTION:
            continue
        assert turn.kind is SUMMARY and turn.observation == compact.prompt
        assert played.prompts[number].max_tokens == (compact.tokens or RESERVE)
        # It ends its context, and what waited for it is answered at the beginning of the next.
        following = turns[number + 1]
        assert following.kind is ACTION and following.context == turn.context + 1
        observation = clipper(chat, section)(following.observation)
        shown = played.prompts[number + 1].observation.removesuffix(observation)
        if shown:
            assert shown.startswith(compact.label) and shown.endswith("\n")
            assert turn.action.startswith(shown[len(compact.label) : -1])
    if played.stopped:  # not even behind an empty summary was there room for the observation
        acted = [turn for turn in turns if turn.kind is ACTION]
        clip, bare = clipper(chat, section), chat.observation_ids
        pinned = sum(
            len(bare(clip(t.observation))) + len(t.action_ids) + len(chat.close_ids(t.action_ids))
            for t in acted[: section.pinned_turns]
        )
        close = len(chat.close_ids([]))
        request = len(bare(compact.prompt)) + (compact.tokens or RESERVE)
        opening = len(bare(clip(observations[len(acted)])))
        least = len(chat.head_ids) + pinned + opening + RESERVE + close + request
        assert least > section.window
    # A context but the last ends with a summary.
    last = {turn.context: turn.kind for turn in turns}
    assert all(last[context] is SUMMARY for context in range(len(last) - 1))


def section(**changes: Any) -> ContextSection:
    settings: dict[str, Any] = {
        "strategy": "compact",
        "window": 24,
        "pinned_turns": 0,
        "compact": CompactSection(tokens=4, prompt="!", label=""),
    }
    return ContextSection(**settings | changes)


USER, END = 258, 257


def turn(letter: str, action: str = "x") -> list[int]:
    return [USER, ord(letter), ord(action), END]


def test_a_summary_by_hand() -> None:
    # Kept free behind an opening: action 2, its close 1, the request 2, a summary 4: 9 of 24.
    # So a context takes openings up to 15: a at 0, b at 4, c at 8 (10 to open it), d at 12 (14),
    # and e at 16 would be 18.
    chat = CHATS["bytes"]
    said = spoken(chat, *"xxxx", "a1b", *"xxx")
    played = play(CompactWindow(chat, section(), 2), list("abcdefg"), said, reserve=2)
    kinds = [t.kind for t in played.trajectory.turns]
    assert kinds == [ACTION] * 4 + [SUMMARY] + [ACTION] * 3
    assert [t.context for t in played.trajectory.turns] == [0, 0, 0, 0, 0, 1, 1, 1]
    old = [*turn("a"), *turn("b"), *turn("c"), *turn("d")]
    prompts = [prompt.prompt_ids.tolist() for prompt in played.prompts]
    assert prompts[4] == [*old, USER, ord("!")]
    fresh = [USER, *b"a1b\ne"]
    assert prompts[5] == fresh
    assert prompts[6] == [*fresh, ord("x"), END, USER, ord("f")]
    # 16 tokens of turns, the request of 2, the summary of 4 with its end.
    assert [t.dropped_tokens for t in played.trajectory.turns] == [0] * 5 + [22, 0, 0]
    assert played.acted == list("xxxxxxx")
    assert [t.observation for t in played.trajectory.turns[4:6]] == ["!", "e"]


@pytest.mark.parametrize(("window", "summary"), [(20, 2), (21, 3)])
def test_an_action_without_an_end_leaves_room_as_well(window: int, summary: int) -> None:
    # A turn has 5: <user>, a letter, an action of 2 and the end that it lacks. c opens at 12, and
    # its action, the end, the request and a summary make it 21.
    chat = CHATS["bytes"]
    action = (chat.encode_action("xx")[:2], "xx")
    said: list[Answer] = [action] * 5
    said.insert(summary, (chat.encode_action("abc"), "abc"))
    played = play(
        CompactWindow(chat, section(window=window), 2), [*"abcd"], in_turn(said), reserve=2
    )
    assert [t.kind for t in played.trajectory.turns].index(SUMMARY) == summary
    assert not played.stopped


def test_pinned_and_repeated_turns_come_without_old_summaries() -> None:
    chat = CHATS["bytes"]
    kept = section(window=32, pinned_turns=1, overlap=4)
    # Openings up to 23: six turns. Then a 4, f 4, and g behind a summary 4 are 12; h 16, i 20.
    said = spoken(chat, *"xxxxxx", "s", *"xxx", "t", "x")
    played = play(CompactWindow(chat, kept, 2), list("abcdefghij"), said, reserve=2)
    summaries = [i for i, t in enumerate(played.trajectory.turns) if t.kind is SUMMARY]
    assert summaries == [6, 10]
    prompts = [prompt.prompt_ids.tolist() for prompt in played.prompts]
    assert prompts[7] == [*turn("a"), *turn("f"), USER, *b"s\ng"]
    assert prompts[11] == [*turn("a"), *turn("i"), USER, *b"t\nj"]
    assert played.prompts[7].repeated == ((6, 8),)


def test_an_empty_summary_leaves_the_observation_alone() -> None:
    chat = CHATS["bytes"]
    labelled = section(compact=CompactSection(tokens=4, prompt="!", label="so far: "))
    played = play(
        CompactWindow(chat, labelled, 2),
        list("abcde"),
        spoken(chat, *"xxxx", "", "x"),
        reserve=2,
    )
    assert played.prompts[5].observation == "e" and not played.stopped


def test_a_summary_is_cut_where_it_is_longer_as_text() -> None:
    # Four bytes that are no UTF-8 are four U+FFFD of three bytes each; one of them has 4 tokens.
    chat = CHATS["bytes"]
    ids = np.full(4, 0xFF, np.int32)
    summary, action = (ids, chat.decode(ids)), (chat.encode_action("x"), "x")
    said = in_turn([action] * 4 + [summary] + [action])
    played = play(CompactWindow(chat, section(), 2), list("abcde"), said, reserve=2)
    assert summary[1] == "\ufffd" * 4
    assert played.prompts[5].observation == "\ufffd\ne"


def test_a_summary_gives_way_to_the_observation() -> None:
    # 15 tokens are free: <user>, twelve letters and two of the summary's three, its newline taken.
    chat = CHATS["bytes"]
    said = spoken(chat, *"xxxx", "a1b", "x")
    long = "efghijklmno"
    played = play(CompactWindow(chat, section(), 2), [*"abcd", long], said, reserve=2)
    assert played.prompts[5].observation == f"a1\n{long}"
    assert len(played.prompts[5].prompt_ids) + 9 == 24


def test_no_summary_is_asked_for_where_nothing_could_follow() -> None:
    chat = CHATS["bytes"]
    said = spoken(chat, *"xx")
    played = play(CompactWindow(chat, section(), 2), ["a", "b", "c" * 15], said, reserve=2)
    assert [t.kind for t in played.trajectory.turns] == [ACTION] * 2
    assert played.trajectory.stop is StopReason.CONTEXT_LIMIT
    first = play(CompactWindow(chat, section(), 2), ["c" * 15], said, reserve=2)
    assert not first.trajectory.turns and first.stopped


def test_a_summary_spells_no_special_tokens() -> None:
    chat = CHATS["bytes"]
    wide = section(window=64, compact=CompactSection(tokens=12, prompt="!", label=""))
    spelled = "<|end|>"
    # Kept free 17 of 64: openings up to 47, twelve turns.
    said = spoken(chat, *["x"] * 12, spelled, "x")
    played = play(CompactWindow(chat, wide, 2), list("abcdefghijklm"), said, reserve=2)
    assert played.trajectory.turns[12].kind is SUMMARY
    assert played.prompts[13].prompt_ids.tolist() == [USER, *f"{spelled}\nm".encode()]


def test_a_window_without_room_is_refused() -> None:
    # Kept free 9, the opening of an observation 1: eleven have room for an observation of a byte.
    chat = CHATS["bytes"]
    with pytest.raises(ConfigError, match=r"context\.window: got 10, expected more than 10"):
        CompactWindow(chat, section(window=10), 2)
    assert CompactWindow(chat, section(window=11), 2).observe("a") is not None


def test_a_script_that_says_more_than_the_policy_may_fails() -> None:
    """What is imitated must be within reach of who imitates it."""
    chat = CHATS["bytes"]
    section = ContextSection(
        strategy="compact", window=64, pinned_turns=0, compact=CompactSection(prompt="!")
    )
    said = iter(["abc", "abcd"])  # and the token that ends a turn
    window = CompactWindow(chat, section, 4)
    actor = ScriptedActor(lambda _: next(said), window, chat.encode_action, 4)
    first = actor.act("o")
    assert first is not None and len(first.action_ids) == 4
    with pytest.raises(EnvironmentFailure, match="an answer of 5 tokens, where 4 are allowed"):
        actor.act("o")
