"""Trajectories as text: nothing an agent writes reaches the terminal as a command."""

from __future__ import annotations

import io
import unicodedata
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from rlagents.errors import ConfigError
from rlagents.telemetry.show import (
    escape,
    in_stream,
    listing,
    parse_key,
    trajectory_text,
    trajectory_view,
)
from rlagents.types import EpisodeKey, ErrorRecord, StopReason, Task, Trajectory, Turn


@dataclass
class Stored:
    trajectory: Trajectory
    notes: dict[str, Any] = field(default_factory=dict)

    @property
    def key(self) -> EpisodeKey:
        return self.trajectory.key


def turn(observation: str, action: str, context: int, reward: float = 0.0) -> Turn:
    return Turn(
        observation=observation,
        action=action,
        observation_ids=np.zeros(5, np.int32),
        action_ids=np.zeros(2, np.int32),
        behaviour_logprobs=np.zeros(2, np.float32),
        context=context,
        reward=reward,
        weights_version=3,
    )


def trajectory(*turns: Turn, **fields: Any) -> Trajectory:
    defaults: dict[str, Any] = {
        "key": EpisodeKey(stream="train", iteration=4, group=1, member=0),
        "task": Task(env_id="rlagents/Lock-v0", seed=9),
        "final_observation": "You are out.",
        "stop": StopReason.TERMINATED,
    }
    return Trajectory(turns=turns, **{**defaults, **fields})


def printed(what: Any, width: int = 120) -> str:
    console = Console(file=io.StringIO(), width=width, force_terminal=False)
    console.print(what)
    return console.file.getvalue()  # type: ignore[attr-defined]


def test_a_trajectory_turn_by_turn() -> None:
    text = trajectory_text(
        trajectory(
            turn("Door 1.\nIt is locked.", "open 7", 0),
            turn("summary so far", "wait", 1),
            turn("Door 2.", "open 3", 0, reward=0.5),
            metrics={"env/doors": 2.0},
        ),
        score=0.5,
    )
    assert text.split("\n") == [
        "== train/4/1/0  rlagents/Lock-v0  seed 9",
        "score 0.5  return 0.5  turns 3  contexts 2  tokens 6  stop terminated",
        "env/doors 2",
        "== context 0",
        "-- turn 0  5 tokens read",
        "  Door 1.",
        "  It is locked.",
        "> open 7",
        "  [reward 0, 2 tokens sampled, weights 3]",
        "== context 1",
        "-- turn 1  5 tokens read",
        "  summary so far",
        "> wait",
        "  [reward 0, 2 tokens sampled, weights 3]",
        "== context 0 (continued)",
        "-- turn 2  5 tokens read",
        "  Door 2.",
        "> open 3",
        "  [reward 0.5, 2 tokens sampled, weights 3]",
        "-- end",
        "  You are out.",
    ]


def test_a_failure_says_where_it_came_from() -> None:
    failed = trajectory(
        stop=StopReason.ENVIRONMENT_ERROR,
        error=ErrorRecord(boundary="environment", kind="KeyError", message="a\nb\x1b[2J"),
    )
    lines = trajectory_text(failed).split("\n")
    assert lines[1].startswith("score -  return 0  turns 0")
    assert lines[2] == "!! environment: KeyError: a b\\x1b[2J"


def test_control_characters_become_visible() -> None:
    assert escape("a\tb\nc") == "a\tb\nc"
    assert escape("\x1b[31m\r\x00\x7f\x9b\x85") == r"\x1b[31m\x0d\x00\x7f\x9b\x85"
    assert escape("\u202egpj.exe\u2028\u200d\ufeff") == r"\u202egpj.exe\u2028\u200d\ufeff"
    assert escape("\ud800 é 漢 🙂 \U000e0041") == r"\ud800 é 漢 🙂 \U000e0041"


@given(st.text(st.characters(exclude_categories=[])))
def test_no_text_reaches_the_terminal_as_a_command(text: str) -> None:
    hostile = trajectory(turn(text, text, 0), final_observation=text)
    record = Stored(hostile, {"disposition": text, "other": text, "score": 1.0})
    for shown in (
        trajectory_text(hostile),
        printed(trajectory_view(record)),
        printed(listing([record])),
    ):
        strange = {c for c in shown if unicodedata.category(c) in ("Cc", "Cf", "Cs", "Zl", "Zp")}
        assert strange <= {"\n", "\t"}
        shown.encode()


def test_brackets_are_no_markup() -> None:
    record = Stored(trajectory(turn("[red]x[/red]", "[/]", 0)), {"disposition": "[bold]y"})
    assert "[red]x[/red]" in printed(trajectory_view(record))
    assert "[bold]y" in printed(listing([record]))


def test_the_list_has_a_row_a_trajectory() -> None:
    first = trajectory(turn("o", "a", 0, reward=0.25), turn("o", "a", 1))
    second = trajectory(
        stop=StopReason.SAMPLER_ERROR,
        key=EpisodeKey(stream="eval/rl", iteration=0, group=0, member=0),
    )
    table = printed(
        listing([Stored(first, {"score": 0.25, "disposition": "trained"}), Stored(second)])
    )
    rows = [line.split() for line in table.splitlines()]
    assert rows[0][:4] == ["key", "score", "return", "turns"]
    assert rows[0][4:] == ["contexts", "tokens", "stop", "disposition"]
    assert rows[1] == ["train/4/1/0", "0.25", "0.25", "2", "2", "4", "terminated", "trained"]
    assert rows[2] == ["eval/rl/0/0/0", "-", "0", "0", "0", "0", "sampler_error"]


def test_keys_are_read_as_they_are_printed() -> None:
    for key in (
        EpisodeKey(stream="train", iteration=12, group=0, member=3),
        EpisodeKey(stream="eval/rl", iteration=40, group=5, member=0),
    ):
        assert parse_key(str(key)) == key
    for wrong in ("", "train", "train/1/2", "/1/2/3", "train/1/2/x", "train/1/-2/3", "train/1/2/³"):
        with pytest.raises(ConfigError, match="is not a key like train/ITERATION/GROUP/MEMBER"):
            parse_key(wrong)


def test_a_stream_contains_its_parts() -> None:
    key = EpisodeKey(stream="eval/rl", iteration=0, group=0, member=0)
    assert in_stream(key, None) and in_stream(key, "eval") and in_stream(key, "eval/rl")
    assert not in_stream(key, "eval/r") and not in_stream(key, "train")
