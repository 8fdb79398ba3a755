"""Sittings: everything is forgotten but what was put into the memory."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlagents.config import ContextSection, MemorySection
from rlagents.rollout.windows.edits import TOO_LONG
from rlagents.rollout.windows.memory import Memory, SittingsWindow, memory_use
from rlagents.types import TurnKind
from tests.rollout.properties import (
    CHATS,
    answers,
    assert_dropped,
    assert_exact,
    assert_repeats,
    play,
    sections,
    spoken,
    texts,
)

RESERVE = 24
ACTION, MEMORY = TurnKind.ACTION, TurnKind.MEMORY

commands = st.sampled_from(
    [
        "memory.write a: 鍵🔑",
        "memory.write b: red key",
        "memory.update a: <|end|>",
        "memory.read a",
        "memory.read b",
        "memory.search red",
        "memory.delete a",
        "memory.list",
        "memory.eat",
        "memory.",
    ]
)
memories = st.builds(
    MemorySection,
    tokens=st.integers(1, 48),
    edits=st.integers(1, 3),
    rules=st.booleans(),
    sitting_turns=st.integers(0, 3),
)


@pytest.mark.parametrize("name", CHATS)
@settings(max_examples=40)
@given(data=st.data(), memory=memories)
def test_commands_are_trained_where_they_were_sampled(
    name: str, data: st.DataObject, memory: MemorySection
) -> None:
    chat = CHATS[name]
    section = data.draw(sections("reset_with_memory", least=90, memory=memory))
    observations = data.draw(st.lists(texts, min_size=1, max_size=9))
    said = answers(chat, RESERVE, texts | commands | commands)
    played = play(
        SittingsWindow(chat, section, RESERVE),
        observations,
        lambda request: data.draw(said),
        reserve=RESERVE,
    )
    assert_exact(played, limit=section.window)
    assert_dropped(played, chat)
    assert_repeats(played, SittingsWindow(chat, section, RESERVE))
    # A sitting begins with the head and one message, and nothing of what was before.
    contexts: set[int] = set()
    actions = edits = 0
    for turn, prompt in zip(played.trajectory.turns, played.prompts, strict=True):
        if turn.context not in contexts:
            opening = [*chat.head_ids, *chat.observation_ids(prompt.observation)]
            assert prompt.prompt_ids.tolist() == opening
            assert bool(contexts) == ("A new sitting begins" in prompt.observation)
            actions = 0
        contexts.add(turn.context)
        actions += turn.kind is ACTION
        edits = edits + 1 if turn.kind is MEMORY else 0
        assert actions <= (memory.sitting_turns or actions) and edits <= memory.edits


def memory(*said: str, limit: int = 100) -> list[str | None]:
    """The replies; every character is a token."""
    kept = Memory(limit, len)
    return [kept.command(text) for text in said]


def test_entries_are_written_read_changed_and_deleted() -> None:
    assert memory(
        "memory.write door a: code 3: brass",
        "memory.read door a",
        "memory.update door a : 4",
        " memory.read  door a\n",
        "memory.delete door a",
        "memory.read door a",
    ) == ["done", "code 3: brass", "done", "4", "done", "error: no such entry"]


def test_search_and_list_are_in_the_order_of_writing() -> None:
    replies = memory(
        "memory.list",
        "memory.write b: Red key",
        "memory.write a: red door",
        "memory.update b: Red KEY",
        "memory.list",
        "memory.search red",
        "memory.search key red",
        "memory.search green",
        "memory.search",
    )
    assert replies[0] == "nothing" and replies[4] == "b\na"
    everything = "b: Red KEY\na: red door"
    assert replies[5:] == [everything, "b: Red KEY", "nothing", everything]


def test_what_can_not_be_done_is_an_error_and_changes_nothing() -> None:
    names = "error: there are write, read, search, update, delete and list"
    assert memory("memory.write a", "memory.write : x") == ["error: write KEY: TEXT"] * 2
    assert memory("memory.update a: x", "memory.delete a") == ["error: no such entry"] * 2
    twice = memory("memory.write a: x", "memory.write a: y", "memory.read a")
    assert twice == ["done", "error: there is such an entry", "x"]
    assert memory("memory.eat a", "memory.Write a: x") == [names] * 2
    assert memory("go", "", "memory", "memory.", "see memory.list") == [None] * 5


def test_the_quota_counts_keys_and_texts() -> None:
    # "a: 1234" has 7 characters, "\nb: 5" 5 more.
    refused = "error: the memory would have 12 tokens, at most 11 are kept"
    replies = memory("memory.write a: 1234", "memory.write b: 5", "memory.list", limit=11)
    assert replies == ["done", refused, "a"]
    longer = memory("memory.write a: 1234", "memory.update a: 12345678", "memory.read a", limit=10)
    assert longer[1:] == ["error: the memory would have 11 tokens, at most 10 are kept", "1234"]


def section(**changes: Any) -> ContextSection:
    memory = MemorySection(tokens=20, sitting_turns=2, edits=2)
    settings: dict[str, Any] = {"strategy": "reset_with_memory", "window": 120, "memory": memory}
    return ContextSection(**settings | changes)


USER = 258
AGAIN = b"A new sitting begins. Entries in your memory: 1.\n"


def test_sittings_by_hand() -> None:
    chat = CHATS["bytes"]
    said = spoken(chat, "memory.write k: 3", "x", "x", "memory.read k", "3", "x")
    played = play(SittingsWindow(chat, section(), 20), list("abcd"), said, reserve=20)
    turns = played.trajectory.turns
    assert [t.kind for t in turns] == [MEMORY, ACTION, ACTION, MEMORY, ACTION, ACTION]
    assert [t.context for t in turns] == [0, 0, 0, 1, 1, 1]
    prompts = [prompt.prompt_ids.tolist() for prompt in played.prompts]
    assert prompts[3] == [USER, *AGAIN, ord("c")]
    assert prompts[4] == [*prompts[3], *chat.encode_action("memory.read k"), USER, ord("3")]
    # a 2, the command 18, done 5, x 2, and b and x 4.
    assert turns[3].dropped_tokens == 31
    assert played.acted == ["x", "x", "3", "x"]
    assert memory_use(turns) == {"writes": 1.0, "reads": 1.0, "searches": 0.0}


def test_a_window_that_is_full_ends_a_sitting() -> None:
    chat = CHATS["bytes"]
    endless = section(window=76, memory=MemorySection(tokens=40))
    # a 2, the command 18, done 5, x 2: 27. Seven turns more; the eighth would be 57 and 20.
    # Then <user>, the line 49, i and x 2: 53, and one more.
    said = spoken(chat, "memory.write k: 3", *"x" * 10)
    played = play(SittingsWindow(chat, endless, 20), list("abcdefghij"), said, reserve=20)
    assert [t.context for t in played.trajectory.turns] == [0] * 9 + [1, 1]
    assert played.prompts[9].observation == AGAIN.decode() + "i"


@pytest.mark.parametrize(
    ("window", "shown"), [(172, "v" * 50 + "\n"), (168, TOO_LONG + "\n"), (167, "")]
)
def test_an_answer_that_does_not_fit_is_left_out(window: int, shown: str) -> None:
    # In a new sitting: <user>, the line 49, the answer 50 or the error 46 and a newline, a; and 70.
    chat = CHATS["bytes"]
    tight = section(window=window, memory=MemorySection(tokens=60))
    said = spoken(chat, "memory.write k: " + "v" * 50, "memory.read k", "x")
    played = play(SittingsWindow(chat, tight, 70), ["a"], said, reserve=70)
    assert [t.context for t in played.trajectory.turns] == [0, 0, 1]
    assert played.prompts[2].observation == AGAIN.decode() + shown + "a"


def test_rules_are_told_in_every_sitting() -> None:
    chat = CHATS["bytes"]
    told = section(window=400, memory=MemorySection(sitting_turns=1, rules=True))
    played = play(SittingsWindow(chat, told, 8), list("ab"), spoken(chat, "x", "x"), reserve=8)
    assert [p.observation.startswith(Memory.rules) for p in played.prompts] == [True, True]
