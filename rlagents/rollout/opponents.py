"""Players of the other seats, made of actors: a match is an environment that others act in, too."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from typing import Any

from rlagents.errors import RlagentsError, SamplerError, boundary
from rlagents.rollout.episode import Actor, TextEnv
from rlagents.types import EpisodeKey, StopReason, Task, Trajectory, Turn, TurnKind

OTHERS = "@"
"""Stands between the stream of a match and the seat of another player: `train@1`."""


def key_of_seat(key: EpisodeKey, seat: int) -> EpisodeKey:
    """Names the trajectory of another seat in the match that `key` names."""
    return replace(key, stream=f"{key.stream}{OTHERS}{seat}")


class SeatPlayer:
    """Answers for a seat with an actor, and remembers its turns.

    What goes wrong here is the match's failure under the name of its boundary (`sampler`), never a
    loss of whoever sits there. A context that is full is no failure: the seat says nothing more.
    """

    def __init__(
        self,
        actor: Actor,
        *,
        name: str,
        key: EpisodeKey,
        task: Task,
        release: Callable[[], object] = lambda: None,
    ) -> None:
        """`key` and `task` are those of the seat; `release` is called once, after the actor's."""
        self.name = name
        self._actor = actor
        self._key = key
        self._task = task
        self._release = release
        self._turns: list[Turn] = []
        self._stop = StopReason.TERMINATED
        self._closed = False
        self._lock = threading.Lock()

    def act(self, observation: str) -> str:
        """The answer to what the game shows this seat; empty where it does not fit any more."""
        if self._stop is StopReason.CONTEXT_LIMIT:
            return ""
        action = self._actor.act(observation)
        while action is not None:
            inside = action.kind is not TurnKind.ACTION
            self._turns.append(action.turn(action.observation if inside else observation))
            if not inside:
                return action.text
            action = self._actor.proceed()
        self._stop = StopReason.CONTEXT_LIMIT
        return ""

    def close(self) -> None:
        """Free the actor. May be called twice."""
        with self._lock:  # the watchdog may close it, too
            closed, self._closed = self._closed, True
        if not closed:
            try:
                self._actor.close()
            finally:
                self._release()

    def trajectory(self, reward: float = 0.0) -> Trajectory:
        """Its turns so far; `reward`, of the whole match, stands at the last of them."""
        turns = list(self._turns)
        acted = [i for i, turn in enumerate(turns) if turn.kind is TurnKind.ACTION]
        if acted:
            turns[acted[-1]] = replace(turns[acted[-1]], reward=reward)
        return Trajectory(
            key=self._key,
            task=self._task,
            turns=tuple(turns),
            final_observation="",
            stop=self._stop,
            metrics={"return": reward},  # also where it had no turn
        )


class ScriptedPlayer:
    """A script of the game's own in another seat; what it does is seen by whoever it meets."""

    def __init__(self, name: str, make: Callable[[], Callable[[str], str]]) -> None:
        """`make` is called at the first turn: the game has been reset by then."""
        self.name = name
        self._make = make
        self._act: Callable[[str], str] | None = None

    def act(self, observation: str) -> str:
        """The script's answer."""
        if self._act is None:
            self._act = self._make()
        return self._act(observation)

    def close(self) -> None:
        """Nothing is held."""


class Seats:
    """The players of the other seats in one match."""

    def __init__(self, env: TextEnv, players: Mapping[int, SeatPlayer | ScriptedPlayer]) -> None:
        self._env: Any = env
        self._players = players

    def trajectories(self) -> tuple[Trajectory, ...]:
        """What those did that are made of actors, with what the game has paid them."""
        returns = self._env.unwrapped.returns
        return tuple(
            player.trajectory(float(returns[seat]))
            for seat, player in sorted(self._players.items())
            if isinstance(player, SeatPlayer)
        )

    def close(self) -> None:
        """Close each, whatever the others do; a failure to close voids no match."""
        for player in self._players.values():
            with suppress(RlagentsError), boundary(SamplerError, "closing a player"):
                player.close()
