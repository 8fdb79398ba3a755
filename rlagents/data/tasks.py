"""Where tasks come from. Stateless: a task is a function of the run's seed and its place.

Training seeds are even and held-out seeds odd, so the two never meet.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from rlagents.config import EnvSection
from rlagents.types import Task


class TaskSource:
    """Training and held-out tasks of one environment."""

    def __init__(self, section: EnvSection, seed: int) -> None:
        self._section = section
        self._seed = seed

    def train(self, iteration: int, group: int) -> Task:
        """Task `group` of an iteration.

        With `env.train_tasks` = K the K tasks are dealt in a new order each iteration.
        """
        count = self._section.train_tasks
        if count:
            order = np.random.default_rng([self._seed, 2, iteration]).permutation(count)
            word = [self._seed, 0, int(order[group % count])]
        else:
            word = [self._seed, 1, iteration, group]
        return self._task(2 * _draw(word), self._section.kwargs)

    def held_out(self, index: int) -> Task:
        """Held-out task number `index`: the same for every run of this environment and seed."""
        return self._task(2 * _draw([self._seed, 3, index]) + 1, self._section.kwargs)

    def demonstration(self, index: int, changes: Mapping[str, Any]) -> Task:
        """A training task for the expert, with `changes` to the environment's arguments."""
        return self._task(2 * _draw([self._seed, 4, index]), {**self._section.kwargs, **changes})

    def _task(self, seed: int, kwargs: Mapping[str, Any]) -> Task:
        return Task(
            env_id=self._section.id,
            seed=seed,
            kwargs=dict(kwargs),
            options=dict(self._section.options),
            task_id=f"{self._section.id}:{seed}",
        )


def _draw(words: list[int]) -> int:
    """30 bits: environments may want a seed that fits into 32 after doubling."""
    return int(np.random.SeedSequence(words).generate_state(1)[0] >> np.uint32(2))
