"""Where tasks come from. Stateless: a task is a function of the run's seed and its place.

Training seeds are even and held-out seeds odd, so the two never meet.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import numpy as np

from rlagents.config import EnvSection
from rlagents.types import Task


class TaskSource:
    """Training and held-out tasks of one environment."""

    def __init__(self, section: EnvSection, seed: int) -> None:
        self._section = section
        self._seed = seed

    def train(
        self,
        iteration: int,
        group: int,
        index: int | None = None,
        changes: Mapping[str, Any] = MappingProxyType({}),
    ) -> Task:
        """Task number `index` of `env.train_tasks`; without one, a fresh task for this place.

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
        return self._task(2 * _draw(word), {**self._section.kwargs, **changes})

    def held_out(self, index: int) -> Task:
        """Held-out task number `index`: the same for every run of this environment and seed."""
        return self._task(2 * _draw([self._seed, 3, index]) + 1, self._section.kwargs)

    def demonstration(self, index: int, changes: Mapping[str, Any]) -> Task:
        """A training task for the expert, with `changes` to the environment's arguments."""
        return self._task(2 * _draw([self._seed, 4, index]), {**self._section.kwargs, **changes})

    def _task(self, seed: int, kwargs: Mapping[str, Any]) -> Task:
        """The id names the arguments that differ from the run's own: another task has another."""
        ours = self._section.kwargs
        changed = {k: v for k, v in kwargs.items() if k not in ours or ours[k] != v}
        suffix = "".join(f":{k}={json.dumps(v, default=str)}" for k, v in sorted(changed.items()))
        return Task(
            env_id=self._section.id,
            seed=seed,
            kwargs=dict(kwargs),
            options=dict(self._section.options),
            task_id=f"{self._section.id}:{seed}{suffix}",
        )


def _draw(words: list[int]) -> int:
    """30 bits: environments may want a seed that fits into 32 after doubling."""
    return int(np.random.SeedSequence(words).generate_state(1)[0] >> np.uint32(2))
