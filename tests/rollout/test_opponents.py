"""Players of other seats: what they say, what is remembered of it, what fails."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from rlagents.errors import SamplerError
from rlagents.rollout.episode import Action
from rlagents.rollout.opponents import ScriptedPlayer, SeatPlayer, key_of_seat
from rlagents.types import EpisodeKey, StopReason, Task, TurnKind

KEY = EpisodeKey(stream="train", iteration=3, group=1, member=2)


def said(text: str, kind: TurnKind = TurnKind.ACTION) -> Action:
    return Action(
        text=text,
        context=0,
        observation_ids=np.zeros(1, np.int32),
        action_ids=np.ones(2, np.int32),
        logprobs=np.zeros(2, np.float32),
        temperature=1.0,
        weights_version=7,
        kind=kind,
        observation="from the window" if kind is not TurnKind.ACTION else "",
    )


class Actor:
    """Answers one thing after another; an exception is raised, None does not fit."""

    def __init__(self, answers: Sequence[Action | Exception | None]) -> None:
        self._answers = list(answers)
        self.closed = 0

    def act(self, observation: str) -> Action | None:
        return self.proceed()

    def proceed(self) -> Action | None:
        answer = self._answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    def close(self) -> None:
        self.closed += 1


def player(*answers: Action | Exception | None) -> tuple[SeatPlayer, Actor, list[str]]:
    actor, given_back = Actor(answers), []
    task = Task(env_id="e", seed=5, seat=1)
    seat = SeatPlayer(
        actor,
        name="past:3",
        key=key_of_seat(KEY, 1),
        task=task,
        release=lambda: given_back.append("model"),
    )
    return seat, actor, given_back


def test_turns_become_a_trajectory_of_the_seat() -> None:
    seat, _, _ = player(said("a"), said("b"))
    assert [seat.act("one"), seat.act("two")] == ["a", "b"]
    trajectory = seat.trajectory(reward=-1.0)
    assert str(trajectory.key) == "train@1/3/1/2"
    assert [(t.observation, t.action, t.reward) for t in trajectory.turns] == [
        ("one", "a", 0.0),
        ("two", "b", -1.0),
    ]
    assert trajectory.task.seat == 1
    assert trajectory.turns[0].weights_version == 7


def test_what_the_window_wants_is_answered_before_the_game() -> None:
    seat, _, _ = player(said("sum", TurnKind.SUMMARY), said("b"))
    assert seat.act("two") == "b"
    first, second = seat.trajectory(1.0).turns
    assert (first.kind, first.observation, first.reward) == (
        TurnKind.SUMMARY,
        "from the window",
        0.0,
    )
    assert (second.observation, second.reward) == ("two", 1.0)


def test_a_full_context_says_nothing_more() -> None:
    seat, _, _ = player(said("a"), None)
    assert [seat.act("one"), seat.act("two"), seat.act("three")] == ["a", "", ""]
    assert seat.trajectory().stop is StopReason.CONTEXT_LIMIT


def test_a_failure_keeps_its_name() -> None:
    seat, _, _ = player(SamplerError("the engine is closed"))
    with pytest.raises(SamplerError, match="the engine is closed"):
        seat.act("one")
    assert seat.trajectory(1.0).turns == ()


def test_closing_twice_gives_the_model_back_once() -> None:
    seat, actor, given_back = player()
    seat.close()
    seat.close()
    assert (actor.closed, given_back) == (1, ["model"])


def test_a_script_is_made_at_its_first_turn() -> None:
    made = []

    def make():
        made.append("made")
        return lambda observation: observation.upper()

    script = ScriptedPlayer("scripted:x", make)
    assert made == []
    assert [script.act("a"), script.act("b")] == ["A", "B"]
    assert made == ["made"]
