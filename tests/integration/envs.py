"""Environments for whole runs: one that is easy to learn, ones that break, one that pulls a trap.

Import this module through `env.id`: `tests.integration.envs:test/Copy-v0`.
"""

import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import gymnasium
import numpy as np

LETTERS = "abcd"
released = threading.Event()
"""Set at the end of a test: whatever hangs in `step` returns."""

_calls = {"reset": 0, "step": 0}
_mutex = threading.Lock()


def counted(name: str) -> int:
    """Number of this call in the process, from 1."""
    with _mutex:
        _calls[name] += 1
        return _calls[name]


def forget_calls() -> None:
    _calls.update(reset=0, step=0)


class Copy(gymnasium.Env[str, str]):
    """Say the letter that is shown, `turns` times; each right one pays `1 / turns`."""

    def __init__(self, turns: int = 3, expert_error: float = 0.3) -> None:
        self.turns = turns
        self.expert_error = expert_error
        self.action_space = self.observation_space = gymnasium.spaces.Text(99)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[str, dict[str, Any]]:
        super().reset(seed=seed)
        self.turn, self.right = 0, 0
        return self.show(), {}

    def show(self) -> str:
        self.letter = LETTERS[self.np_random.integers(len(LETTERS))]
        return self.letter

    def step(self, action: str) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        right = action == self.letter
        self.right += right
        self.turn += 1
        metrics = {"right": float(self.right), "empty": float(action == "")}
        return self.show(), right / self.turns, self.turn == self.turns, False, {"metrics": metrics}

    def _random(self, rng: np.random.Generator) -> Callable[[str], str]:
        return lambda observation: LETTERS[rng.integers(len(LETTERS))]

    def _oracle(self, rng: np.random.Generator) -> Callable[[str], str]:
        return lambda observation: observation

    def _expert(self, rng: np.random.Generator) -> Callable[[str], str]:
        wrong = self._random(rng)
        return lambda observation: (
            wrong(observation) if rng.random() < self.expert_error else observation
        )

    def _mute(self, rng: np.random.Generator) -> Callable[[str], str]:
        return lambda observation: ""

    scripted: ClassVar[dict[str, Any]] = {
        "random": _random,
        "oracle": _oracle,
        "expert": _expert,
        "mute": _mute,
    }


class Trap(Copy):
    """At call number `at` of `call` in this process: a signal, if the file `armed` exists.

    The file is removed first, so that the resumed run walks through.
    """

    def __init__(
        self, armed: str, at: int, call: str = "step", sign: str = "SIGKILL", turns: int = 3
    ) -> None:
        super().__init__(turns)
        self.armed, self.at, self.call, self.sign = Path(armed), at, call, sign

    def spring(self, call: str) -> None:
        if counted(call) == self.at and call == self.call and self.armed.exists():
            self.armed.unlink()
            os.kill(os.getpid(), getattr(signal, self.sign))

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[str, dict[str, Any]]:
        self.spring("reset")
        return super().reset(seed=seed, options=options)

    def step(self, action: str) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.spring("step")
        return super().step(action)


class Flawed(Copy):
    """Breaks in one way: in every call, or in `every`-th ones only."""

    def __init__(self, flaw: str = "none", every: int = 1, turns: int = 3) -> None:
        super().__init__(turns)
        self.flaw, self.every = flaw, every

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        if self.flaw == "reset" and (seed or 0) % self.every == 0:
            raise OSError("the disk of the environment\nis full")
        return super().reset(seed=seed)

    def step(self, action: str) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        observation, reward, *rest = super().step(action)
        if counted("step") % self.every == 0:
            if self.flaw == "step":
                raise KeyError("door")
            if self.flaw == "text":
                return (7, reward, *rest)
            if self.flaw == "nan":
                return (observation, float("nan"), *rest)
            if self.flaw == "hang":
                released.wait(60)
        return (observation, reward, *rest)


for kind in (Copy, Trap, Flawed):
    gymnasium.register(f"test/{kind.__name__}-v0", kind)
