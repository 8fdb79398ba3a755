"""Where tasks come from. Stateless: a task is a function of the run's seed and its place.

Training seeds are even and held-out seeds odd, so the two never meet.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import numpy as np

from rlagents.config import EnvSection, LeagueSection
from rlagents.types import Task


class TaskSource:
    """Training and held-out tasks of one environment."""

    def __init__(self, section: EnvSection, seed: int, league: LeagueSection | None = None) -> None:
        """`league` says who has which seat in held-out tasks and demonstrations."""
        self._section = section
        self._seed = seed
        self._league = league or LeagueSection()

    def train(
        self,
        iteration: int,
        group: int,
        index: int | None = None,
        changes: Mapping[str, Any] = MappingProxyType({}),
        seat: int = 0,
        opponents: tuple[str, ...] = (),
    ) -> Task:
        """Task number `index` of `env.train_tasks`; without one, a fresh task for this place.

        Another seat, or other opponents, make another task of the same seed.

        `changes` to the environment's arguments (of a stage of `schedule.stages`) leave the seed as
        it is. What is known of a task under others does not hold for it: a lock of 4 letters that
        is solved says nothing of one of 24.

        Raises:
            ValueError: when `index` is not one of `env.train_tasks`, or there is none although
                they are given.
        """
        count = self._section.train_tasks
        if index is None and not count:
            word = [self._seed, 1, iteration, group]
        elif index is not None and 0 <= index < count:
            word = [self._seed, 0, index]
        else:
            expected = f"a number below {count}" if count else "None"
            raise ValueError(
                f"index, with env.train_tasks = {count}: expected {expected}, got {index}"
            )
        kwargs = {**self._section.kwargs, **changes}
        return self._task(2 * _draw(word), kwargs, seat, opponents)

    def held_out(self, index: int) -> Task:
        """Held-out task number `index`: the same for every run of this environment and seed.

        With `league.eval_opponents` the policy has each of its seats in turn, against each of them:
        index 0 and 1 are two seats against the first, and so on.
        """
        seat, opponents = self._seating(index)
        seed = 2 * _draw([self._seed, 3, index]) + 1
        return self._task(seed, self._section.kwargs, seat, opponents)

    def match(self, number: int, seat: int, opponents: tuple[str, ...]) -> Task:
        """Held-out game number `number`, for players that are compared: the same from any seat."""
        seed = 2 * _draw([self._seed, 5, number]) + 1
        return self._task(seed, self._section.kwargs, seat, opponents)

    def demonstration(self, index: int, changes: Mapping[str, Any]) -> Task:
        """A training task for the expert, with `changes` to the environment's arguments."""
        seat, opponents = self._seating(index)
        kwargs = {**self._section.kwargs, **changes}
        return self._task(2 * _draw([self._seed, 4, index]), kwargs, seat, opponents)

    def _seating(self, index: int) -> tuple[int, tuple[str, ...]]:
        """Who sits where without a matchmaker."""
        league = self._league
        if not league.opponents and not league.eval_opponents:
            return 0, ()
        seats = league.learned
        seat, players = seats[index % len(seats)], league.eval_opponents
        if not players:
            return seat, ()
        first = index // len(seats)
        return seat, tuple(players[(first + i) % len(players)] for i in range(league.seats - 1))

    def _task(
        self,
        seed: int,
        kwargs: Mapping[str, Any],
        seat: int = 0,
        opponents: tuple[str, ...] = (),
    ) -> Task:
        """The id names the arguments that differ from the run's own: another task has another."""
        ours = self._section.kwargs
        changed = {k: v for k, v in kwargs.items() if k not in ours or ours[k] != v}
        suffix = "".join(f":{k}={json.dumps(v, default=str)}" for k, v in sorted(changed.items()))
        suffix += (f":seat={seat}" if seat else "") + "".join(f":vs={name}" for name in opponents)
        return Task(
            env_id=self._section.id,
            seed=seed,
            kwargs=dict(kwargs),
            options=dict(self._section.options),
            task_id=f"{self._section.id}:{seed}{suffix}",
            seat=seat,
            opponents=opponents,
        )


def _draw(words: list[int]) -> int:
    """30 bits: environments may want a seed that fits into 32 after doubling."""
    return int(np.random.SeedSequence(words).generate_state(1)[0] >> np.uint32(2))
