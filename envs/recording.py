"""Episodes exactly as an environment gave them, and what can be said about them afterwards.

The checks here are the pure half of `rlagents.envs.conformance`: they look at recorded values of
unknown types and raise `Broken` with the reason in one line.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import gymnasium
import numpy as np
from gymnasium.utils.env_checker import data_equivalence

from rlagents.errors import EnvironmentFailure, boundary


class Broken(EnvironmentFailure):
    """The environment breaks its contract; the message is the reason."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Played:
    """An episode, as the environment gave it; nothing about its types is known yet."""

    seed: int
    first: Any
    """The first observation."""
    actions: tuple[str, ...]
    steps: tuple[Any, ...]
    """[N] what `step` returned; one less than actions where it raised."""
    error: str = ""
    """Why the episode broke off; empty when it did not."""
    ended: bool = False

    def results(self) -> Iterator[tuple[str, tuple[Any, ...]]]:
        """(where, step result) for each turn; those that are no 5-tuple are reported elsewhere."""
        for turn, step in enumerate(self.steps):
            if is_step(step):
                yield f"turn {turn + 1} of seed {self.seed}", step


def play(
    env: gymnasium.Env[Any, Any],
    seed: int,
    *,
    max_turns: int,
    actions: tuple[str, ...] | None = None,
) -> Played:
    """One episode of the random policy, or of given actions. Failures of `env` are recorded."""
    steps: list[Any] = []
    said: list[str] = []
    first: Any = None
    error, ended = "", False
    limit = max_turns if actions is None else len(actions)
    try:
        with answering(f"reset(seed={seed})"):
            first = observation = env.reset(seed=seed)[0]
            act = policy(env, "random", seed)
        while len(steps) < limit and not ended:
            doing = f"turn {len(steps) + 1} of seed {seed}"
            with answering(f"{doing}: the random policy"):
                action = actions[len(steps)] if actions is not None else act(observation)
            said.append(action)
            with answering(f"{doing}: step({show(action)})"):
                steps.append(env.step(action))
                if not is_step(steps[-1]):
                    break
                observation = steps[-1][0]
                ended = bool(steps[-1][2] or steps[-1][3])
    except EnvironmentFailure as failure:
        error = str(failure)
    return Played(
        seed=seed,
        first=first,
        actions=tuple(said),
        steps=tuple(steps),
        error=error,
        ended=ended,
    )


def policy(env: gymnasium.Env[Any, Any], name: str, seed: int) -> Callable[[str], str]:
    """A scripted policy; for the random policy of an environment without one, short strings."""
    rng = np.random.default_rng([seed, 1])
    factory = getattr(env.unwrapped, "scripted", {}).get(name)
    if factory is not None:
        return factory(env.unwrapped, rng)
    words = ("0", "1", "7", "a", "b", "?", "yes", "go north", "submit a", "")
    return lambda observation: words[rng.integers(len(words))]


def check_shape(played: Played) -> None:
    """The episode did not break off, and each step gave a 5-tuple."""
    if played.error:
        raise Broken(played.error)
    for step in played.steps:
        if not is_step(step):
            raise Broken(
                "step must return (observation, reward, terminated, truncated, info), "
                f"got {show(step)}"
            )


def check_observations(played: Played, space: gymnasium.Space[Any]) -> None:
    """Every observation is a string inside of the space."""
    shown = [(f"reset(seed={played.seed})", played.first)]
    shown += [(where, step[0]) for where, step in played.results()]
    for where, observation in shown:
        check_text(observation, where)
        if observation not in space:
            raise Broken(f"{where}: {show(observation)} is outside of {space}")


def check_text(observation: Any, where: str) -> None:
    """The observation is a string."""
    if not isinstance(observation, str):
        raise Broken(f"{where}: the observation must be a string, got {show(observation)}")


def check_rewards(played: Played) -> None:
    """Every reward is a finite Python number (`numpy.float32` is none, `numpy.float64` is one)."""
    for where, (_, reward, *_rest) in played.results():
        if isinstance(reward, bool) or not isinstance(reward, int | float):
            raise Broken(f"{where}: reward must be a Python float, got {show(reward)}")
        if not math.isfinite(reward):
            raise Broken(f"{where}: reward must be finite, got {reward!r}")


def check_flags(played: Played) -> None:
    """Flags are Python bools, and never both set."""
    for where, (_, _, terminated, truncated, _) in played.results():
        for name, value in (("terminated", terminated), ("truncated", truncated)):
            if not isinstance(value, bool):
                raise Broken(f"{where}: {name} must be a bool, got {show(value)}")
        if terminated and truncated:
            raise Broken(
                f"{where}: terminated and truncated are both set; the task ended (terminated) "
                "or was cut (truncated), never both"
            )


def check_info(played: Played) -> None:
    """`info` is a dict, and its `metrics` (if any) are finite numbers under strings."""
    for where, (*_, info) in played.results():
        if not isinstance(info, dict):
            raise Broken(f"{where}: info must be a dict, got {show(info)}")
        metrics = info.get("metrics", {})
        if not isinstance(metrics, dict):
            raise Broken(f"{where}: info['metrics'] must be a dict, got {show(metrics)}")
        for name, value in metrics.items():
            number = isinstance(value, int | float) and not isinstance(value, bool)
            if not isinstance(name, str) or not number or not math.isfinite(value):
                raise Broken(
                    f"{where}: info['metrics'][{name!r}] must be a finite float under a string, "
                    f"got {show(value)}"
                )


def check_same(old: Played, new: Played) -> None:
    """Two episodes of the same seed and actions are the same."""
    if not _same(old.first, new.first):
        raise Broken(f"reset(seed={old.seed}) gave {show(old.first)}, then {show(new.first)}")
    names = ("observation", "reward", "terminated", "truncated")
    for (where, was), (_, now) in zip(old.results(), new.results(), strict=False):
        for name, a, b in zip(names, was[:4], now[:4], strict=True):
            if not _same(a, b):
                raise Broken(
                    f"{where}: the same seed and actions gave {name} {show(a)}, then {show(b)}"
                )
    if new.error or len(new.steps) != len(old.steps):
        raise Broken(new.error or f"seed {old.seed} took another number of turns")


@contextmanager
def answering(doing: str) -> Iterator[None]:
    """Whatever the environment raises becomes an `EnvironmentFailure` that says what was tried."""
    with boundary(EnvironmentFailure, doing):
        yield


def is_step(step: Any) -> bool:
    """Whether `step` has the shape of what `Env.step` returns."""
    return isinstance(step, tuple) and len(step) == 5


def show(value: Any) -> str:
    """A short repr on one line, with the type where it is no string."""
    text = repr(value)
    text = text if len(text) <= 60 else text[:50] + f"... ({len(text)} characters)"
    return text if isinstance(value, str) else f"{type(value).__name__} {text}"


def _same(a: Any, b: Any) -> bool:
    """Equal; NaN equals NaN (a NaN reward is another check's finding)."""
    if isinstance(a, float) and isinstance(b, float) and a != a and b != b:
        return True
    return data_equivalence(a, b, exact=True)
