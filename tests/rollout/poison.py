"""What the workers of the tests with Ray import: an environment that can kill its process.

No torch here: a worker that needs none starts in a second.
"""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np

from rlagents.errors import ConfigError
from rlagents.rollout.actors import ScriptedActor
from rlagents.rollout.episode import Limits
from rlagents.rollout.worker import RolloutWorker
from rlagents.types import IntArray


class Walk(gymnasium.Env[str, str]):
    """Six turns of random words. With `marker`, the first process to come to turn 3 of seed
    `victim` makes that file and kills itself. With `barrier`, turn 2 waits until that file is
    there."""

    def __init__(
        self,
        marker: str | None = None,
        victim: int = -1,
        always: bool = False,
        barrier: str | None = None,
    ) -> None:
        self._marker, self._victim, self._always = marker, victim, always
        self._barrier = barrier

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[str, dict[str, Any]]:
        self._rng, self._seed, self._turn = np.random.default_rng(seed), seed, 0
        return self._say(), {}

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        self._turn += 1
        while self._turn == 2 and self._barrier and not Path(self._barrier).exists():
            threading.Event().wait(0.01)
        if self._turn == 3 and self._marker and self._seed == self._victim:
            marker = Path(self._marker)
            if self._always or not marker.exists():
                with marker.open("a", encoding="utf-8") as file:
                    file.write(f"{os.getpid()}\n")
                os.kill(os.getpid(), signal.SIGKILL)
        return self._say(), float(len(action)), self._turn == 6, False, {}

    def _say(self) -> str:
        return "".join(self._rng.choice(list("abcdef"), 5))


gymnasium.register(id="Walk-v0", entry_point="tests.rollout.poison:Walk")


def scripted_worker() -> RolloutWorker:
    """Plays `Walk` without a model."""

    def encode(text: str) -> IntArray:
        return np.frombuffer(text.encode(), np.uint8).astype(np.int32)

    return RolloutWorker(
        sampler=None,
        make_env=lambda task: Walk(**task.kwargs),
        make_actor=lambda job, env: ScriptedActor(lambda observation: "go", None, encode),
        limits=Limits(
            max_turns=9, max_tokens=99, max_seconds=60, env_timeout_s=60, sampler_timeout_s=60
        ),
    )


def refuse() -> RolloutWorker:
    """A policy that can't be loaded."""
    raise ConfigError("policy.model: no such thing")
