"""What the lab environments share: validation of arguments, turn counting, exact returns."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import gymnasium
import numpy as np

from rlagents.envs.spaces import UnicodeText

Act = Callable[[str], str]
"""A scripted policy in one episode: observation -> action."""

MAX_HORIZON = 10_000
_STREAM = 0x1AB


class LabEnv(gymnasium.Env[str, str], ABC):
    """A deterministic text environment with a turn budget.

    A subclass draws a task (`_draw`), answers actions (`_answer`) and keeps a running score
    (`_score`); the reward of a turn is what the score changed by, so that the sum of the rewards
    is the score exactly. Only `terminated` is ever set: the task is over when it is done or when
    its budget is gone. Every action is legal text; one that means nothing costs its turn. A
    subclass may say how much a state promises (`_potential`), for potential-based shaping.
    """

    metadata: dict[str, Any] = {"render_modes": []}  # noqa: RUF012 - Gymnasium's declaration
    scripted: ClassVar[Mapping[str, Callable[[Any, np.random.Generator], Act]]] = {}
    """Scripted policies: name -> factory(environment, rng) -> act."""
    windowed: ClassVar[tuple[str, ...]] = ()
    """Those that play through the context window, and answer what it says itself: a request for a
    summary, what a block of code printed."""
    known_scores: ClassVar[Mapping[str, float]] = {}
    """Expected score of each scripted policy with the default arguments."""

    def __init__(self, *, turns: int, observation_limit: int) -> None:
        self.turns = turns
        self.observation_space = UnicodeText(observation_limit)
        self.action_space = UnicodeText()
        self.rng = np.random.default_rng(0)
        self._turn = 0
        self._total = 0.0
        self._done: bool | None = None
        self._last = ""

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[str, dict[str, Any]]:
        """Draw a task from the seed alone.

        Raises:
            ValueError: for any option: lab environments have none.
        """
        super().reset(seed=seed)
        if options:
            raise ValueError(f"options: {type(self).__name__} has none, got {sorted(options)}")
        # A stream of its own: a policy whose generator is made from the task's seed would otherwise
        # draw the very numbers the task is made of (a "random" policy opened every lock that way).
        self.rng = np.random.default_rng([_STREAM, int(self.np_random.integers(2**63))])
        self._turn, self._total, self._done = 0, 0.0, False
        self._last = self._draw()
        return self._last, self._info()

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        """Answer one action. After the end of the episode nothing changes any more.

        Raises:
            TypeError: for an action that is not a string.
            gymnasium.error.ResetNeeded: before the first reset.
        """
        if not isinstance(action, str):
            raise TypeError(f"action: expected a string, got {type(action).__name__}")
        if self._done is None:
            raise gymnasium.error.ResetNeeded("call reset before step")
        if self._done:
            return self._last, 0.0, True, False, self._info()
        self._turn += 1
        self._last, self._done = self._answer(action.strip())
        if self._turn >= self.turns and not self._done:
            self._last, self._done = "out of turns", True
        # The difference from what was already paid, so that rounding never accumulates.
        reward = self._score() - self._total
        self._total += reward
        return self._last, reward, self._done, False, self._info()

    def _info(self) -> dict[str, Any]:
        info: dict[str, Any] = {"metrics": {"turns": float(self._turn), **self._metrics()}}
        potential = self._potential()
        if potential is not None:
            # Nothing is still to come after the end, whatever the state looks like.
            info["potential"] = 0.0 if self._done else potential
        return info

    def _potential(self) -> float | None:
        """What this state promises, for `info["potential"]`; None where that is not known.

        A function of the state alone: never of how good the last action was.
        """
        return None

    @abstractmethod
    def _draw(self) -> str:
        """Draw the task with `self.rng`; the first observation."""

    @abstractmethod
    def _answer(self, action: str) -> tuple[str, bool]:
        """The next observation for a stripped action, and whether the task is over."""

    @abstractmethod
    def _score(self) -> float:
        """The score so far: the return of an episode that ended now."""

    @abstractmethod
    def _metrics(self) -> dict[str, float]:
        """Counts of the episode so far, for `info["metrics"]`."""


def whole(name: str, value: object, low: int, high: int) -> int:
    """Check a whole number.

    Raises:
        ValueError: naming the argument, when `value` is not an integer from `low` to `high`.
    """
    if isinstance(value, bool) or not isinstance(value, int | np.integer):
        raise ValueError(f"{name}: expected a whole number, got {value!r}")
    if not low <= value <= high:
        raise ValueError(f"{name}: expected a number from {low} to {high}, got {value!r}")
    return int(value)


def real(name: str, value: object, low: float, high: float) -> float:
    """Check a number.

    Raises:
        ValueError: naming the argument, when `value` is not a number from `low` to `high`.
    """
    number = isinstance(value, int | float | np.integer | np.floating)
    if not number or isinstance(value, bool) or not low <= value <= high:
        raise ValueError(f"{name}: expected a number from {low:g} to {high:g}, got {value!r}")
    return float(value)


def choice(name: str, value: object, allowed: tuple[str, ...]) -> str:
    """Check one of a few words.

    Raises:
        ValueError: naming the argument and the words it may be.
    """
    if not isinstance(value, str) or value not in allowed:
        raise ValueError(f"{name}: expected one of {', '.join(allowed)}, got {value!r}")
    return value


def flag(name: str, value: object) -> bool:
    """Check a truth value.

    Raises:
        ValueError: naming the argument, when `value` is not true or false.
    """
    if not isinstance(value, bool):
        raise ValueError(f"{name}: expected true or false, got {value!r}")
    return value
