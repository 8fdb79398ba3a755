"""Notes: edited by command, shown in every context, kept by nothing else."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlagents.config import ContextSection, MemorySection
from rlagents.rollout.windows.notes import Notes, NotesWindow, shown
from rlagents.types import StopReason, TurnKind
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

RESERVE = 16
ACTION, MEMORY = TurnKind.ACTION, TurnKind.MEMORY

commands = st.sampled_from(
    ["note+ red", "note+a\nb", "note= 鍵🔑", "note=", "note- 1", "note- 7", "note+", "note"]
)
memories = st.builds(
    MemorySection, tokens=st.integers(1, 48), edits=st.integers(1, 3), rules=st.booleans()
)


@pytest.mark.parametrize("name", CHATS)
@settings(max_examples=40)
@given(data=st.data(), memory=memories)
def test_edits_are_trained_where_they_were_sampled(
    name: str, data: st.DataObject, memory: MemorySection
) -> None:
    chat = CHATS[name]
    section = data.draw(sections("notes", least=60, memory=memory))
    observations = data.draw(st.lists(texts, min_size=1, max_size=9))
    said = answers(chat, RESERVE, texts | commands | commands)
    played = play(
        NotesWindow(chat, section, RESERVE),
        observations,
        lambda request: data.draw(said),
        reserve=RESERVE,
    )
    assert_exact(played, limit=section.window)
    assert_dropped(played, chat)
    assert_repeats(played, NotesWindow(chat, section, RESERVE))
    # The same edits again, aside: what they leave is what each fresh context shows.
    bare = len(chat.observation_ids(""))
    notes = Notes(memory.tokens, lambda text: len(chat.observation_ids(text)) - bare)
    contexts: set[int] = set()
    edits = 0
    for turn, prompt in zip(played.trajectory.turns, played.prompts, strict=True):
        if turn.context not in contexts:
            rules = Notes.rules if memory.rules else ""
            assert prompt.observation.startswith(rules + shown(notes.lines))
        contexts.add(turn.context)
        edits = edits + 1 if turn.kind is MEMORY else 0
        assert edits <= memory.edits
        if turn.kind is MEMORY:
            assert notes.command(turn.action) is not None


def notes(*said: str, limit: int = 100) -> tuple[tuple[str, ...], list[str | None]]:
    """What is noted in the end, and the replies; every character is a token."""
    kept = Notes(limit, len)
    replies = [kept.command(text) for text in said]
    return kept.lines, replies


def test_commands() -> None:
    assert notes("note+ a3", "note+b7") == (("a3", "b7"), ["noted"] * 2)
    assert notes("note+ a\n\n b ") == (("a", "b"), ["noted"])
    assert notes("note+ a", "note= b\nc") == (("b", "c"), ["noted"] * 2)
    assert notes("note+ a", "note=") == ((), ["noted"] * 2)
    assert notes("note+ a", "note+ b", "note+ c", "note- 2") == (("a", "c"), ["noted"] * 4)
    assert notes(" note+ a\n") == (("a",), ["noted"])
    for other in ("", "note", "notes+ a", "note a", "Note+ a", "go", "a note+ b"):
        assert notes(other) == ((), [None])


@pytest.mark.parametrize("number", ["0", "2", "-1", "", "x", "1.0", "9" * 5000, "²"])
def test_a_number_that_no_note_has(number: str) -> None:
    lines, replies = notes("note+ a", f"note- {number}")
    assert lines == ("a",)
    assert replies[1] == "error: there are 1 notes, none with that number"


def test_what_would_be_too_much_is_refused_and_changes_nothing() -> None:
    # "Your notes:\n1. ab\n" has 18 characters, and " 2. c" with its newline 5 more.
    assert notes("note+ ab", limit=18) == (("ab",), ["noted"])
    refused = "error: the notes would have {} tokens, at most 18 are kept"
    assert notes("note+ ab", "note+ c", limit=18) == (("ab",), ["noted", refused.format(23)])
    assert notes("note+ ab", "note= abc", limit=18) == (("ab",), ["noted", refused.format(19)])
    assert notes("note+") == ((), ["error: nothing to note"])


def section(**changes: Any) -> ContextSection:
    memory = MemorySection(tokens=20, edits=2)
    settings: dict[str, Any] = {"strategy": "notes", "window": 40, "memory": memory}
    return ContextSection(**settings | changes)


USER, END = 258, 257


def test_notes_by_hand() -> None:
    chat = CHATS["bytes"]
    window = NotesWindow(chat, section(pinned_turns=1), 8)
    # a 2, note+ k 8, noted 6, x 2: 18; four more turns: 34. f and an action would make it 44.
    said = spoken(chat, "note+ k", *"xxxxxx")
    played = play(window, list("abcdef"), said, reserve=8)
    assert [t.kind for t in played.trajectory.turns] == [MEMORY] + [ACTION] * 6
    assert [t.context for t in played.trajectory.turns] == [0] * 6 + [1]
    prompts = [prompt.prompt_ids.tolist() for prompt in played.prompts]
    edit = [USER, ord("a"), *b"note+ k", END]
    assert prompts[1] == [*edit, USER, *b"noted"]
    assert prompts[2] == [*edit, USER, *b"noted", ord("x"), END, USER, ord("b")]
    # The pinned turn comes without the edit, the notes before the observation.
    assert prompts[6] == [USER, ord("a"), ord("x"), END, USER, *b"Your notes:\n1. k\nf"]
    assert played.trajectory.turns[0].observation == "a"
    assert played.trajectory.turns[1].observation == "a"  # what the action answers


def test_more_edits_than_allowed_go_to_the_environment() -> None:
    chat = CHATS["bytes"]
    window = NotesWindow(chat, section(window=100), 8)
    played = play(window, ["a", "b"], spoken(chat, *["note+ k"] * 3, "x"), reserve=8)
    assert [t.kind for t in played.trajectory.turns] == [MEMORY, MEMORY, ACTION, ACTION]
    assert played.acted == ["note+ k", "x"]


def test_an_edit_that_fills_the_window_begins_anew_with_the_observation() -> None:
    chat = CHATS["bytes"]
    # a 2, the edit 11, noted 6, the other edit 6: 25; noted and an action would make it 47.
    window = NotesWindow(chat, section(window=46), 16)
    played = play(window, ["a", "b"], spoken(chat, "note+ kkkk", "note=", "x", "x"), reserve=16)
    turns = played.trajectory.turns
    assert [t.kind for t in turns] == [MEMORY, MEMORY, ACTION, ACTION]
    assert [t.context for t in turns] == [0, 0, 1, 1]
    assert played.prompts[2].prompt_ids.tolist() == [USER, *b"noted\na"]
    assert played.prompts[2].dropped_tokens == 2 + 11 + 6 + 6


def test_notes_that_leave_no_room_end_the_episode() -> None:
    chat = CHATS["bytes"]
    # Behind the notes, 18, the observation, 9, leaves 3 of 9 for an action.
    window = NotesWindow(chat, section(window=30, memory=MemorySection(tokens=18)), 9)
    played = play(window, ["a" * 8, "b"], spoken(chat, "note+ kk"), reserve=9)
    assert played.trajectory.stop is StopReason.CONTEXT_LIMIT
    assert [t.kind for t in played.trajectory.turns] == [MEMORY]
