"""One episode: a Gymnasium environment and an actor, turn by turn.

Whatever fails becomes a trajectory with a `StopReason` and an error named by its boundary.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from rlagents.errors import EnvironmentFailure, RlagentsError, SamplerError, boundary
from rlagents.types import (
    EpisodeKey,
    ErrorRecord,
    FloatArray,
    IntArray,
    StopReason,
    Task,
    Trajectory,
    Turn,
)


class TextEnv(Protocol):
    """A Gymnasium environment with text in and text out."""

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]: ...

    def step(self, action: str) -> tuple[Any, Any, bool, bool, dict[str, Any]]: ...

    def close(self) -> None: ...


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Action:
    """What an actor answers: text for the environment, ids for training."""

    text: str
    context: int
    observation_ids: IntArray
    """[O]"""
    action_ids: IntArray
    """[A]"""
    logprobs: FloatArray
    """[A]"""
    temperature: float
    weights_version: int


class Actor(Protocol):
    """Chooses actions for one episode."""

    def act(self, observation: str) -> Action | None:
        """The next action; None where the observation does not fit into the window."""
        ...

    def close(self) -> None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """When an episode is cut, and how long a wait may last."""

    max_turns: int
    max_tokens: int
    max_seconds: float
    env_timeout_s: float
    sampler_timeout_s: float


@dataclass(slots=True, kw_only=True)
class Progress:
    """How far an episode is, shared with the watchdog that may end it from outside."""

    key: EpisodeKey
    task: Task
    turns: list[Turn] = field(default_factory=list)
    observation: str = ""
    waits_for: str = "a thread"
    since: float = field(default_factory=time.monotonic)
    deadline: float = math.inf
    started: float = field(default_factory=time.monotonic)
    metrics: dict[str, float] = field(default_factory=dict)
    abandoned: bool = False
    """Set by the watchdog when it has given up on this episode: its thread should stop."""

    @contextmanager
    def waiting(self, what: str, seconds: float) -> Iterator[None]:
        """Name a wait and bound it: the watchdog ends the episode at the deadline."""
        self.waits_for, self.since = what, time.monotonic()
        self.deadline = self.since + seconds
        yield
        self.waits_for, self.deadline = "itself", math.inf

    def finish(self, stop: StopReason, error: ErrorRecord | None = None) -> Trajectory:
        """The trajectory as far as it came."""
        return Trajectory(
            key=self.key,
            task=self.task,
            turns=tuple(self.turns),
            final_observation=self.observation,
            stop=stop,
            error=error,
            metrics={**self.metrics, "seconds": time.monotonic() - self.started},
        )


STOP_OF_BOUNDARY = {
    "environment": StopReason.ENVIRONMENT_ERROR,
    "sandbox": StopReason.ENVIRONMENT_ERROR,
    "sampler": StopReason.SAMPLER_ERROR,
    "worker": StopReason.WORKER_LOST,
}


def run_episode(
    progress: Progress,
    make_env: Callable[[Task], TextEnv],
    make_actor: Callable[[TextEnv], Actor],
    limits: Limits,
    on_turn: Callable[[int, Turn], None] = lambda number, turn: None,
) -> Trajectory:
    """Play one episode to its end. Never raises for a failure of environment or sampler."""
    env: TextEnv | None = None
    actor: Actor | None = None
    task = progress.task
    try:
        with progress.waiting("env.reset", limits.env_timeout_s):
            with boundary(EnvironmentFailure, "making the environment"):
                env = make_env(task)
            with boundary(EnvironmentFailure, "reset"):
                observation, info = env.reset(seed=task.seed, options=dict(task.options) or None)
        progress.observation = _text(observation, "reset")
        actor = make_actor(env)
        while (stop := _limit_reached(progress, limits)) is None:
            begun = time.monotonic()
            with progress.waiting("sampler", limits.sampler_timeout_s):
                action = actor.act(progress.observation)
            if action is None:
                return progress.finish(StopReason.CONTEXT_LIMIT)
            sampled = time.monotonic()
            with (
                progress.waiting("env.step", limits.env_timeout_s),
                boundary(EnvironmentFailure, f"step {len(progress.turns)}"),
            ):
                observation, reward, terminated, truncated, info = env.step(action.text)
                reward = _number(reward)
                following = _text(observation, "step")
            progress.turns.append(
                Turn(
                    observation=progress.observation,
                    action=action.text,
                    observation_ids=action.observation_ids,
                    action_ids=action.action_ids,
                    behaviour_logprobs=action.logprobs,
                    reward=reward,
                    context=action.context,
                    temperature=action.temperature,
                    weights_version=action.weights_version,
                    sampled_s=sampled - begun,
                    environment_s=time.monotonic() - sampled,
                )
            )
            on_turn(len(progress.turns) - 1, progress.turns[-1])
            progress.observation = following
            if terminated or truncated:
                progress.metrics.update(_metrics(info))
                return progress.finish(
                    StopReason.TERMINATED if terminated else StopReason.TRUNCATED
                )
        return progress.finish(stop)
    except RlagentsError as error:
        stop = STOP_OF_BOUNDARY.get(error.boundary, StopReason.SAMPLER_ERROR)
        return progress.finish(stop, error.record())
    finally:
        _close(progress, env, actor, limits)


def _limit_reached(progress: Progress, limits: Limits) -> StopReason | None:
    if len(progress.turns) >= limits.max_turns:
        return StopReason.TURN_LIMIT
    if progress.abandoned or time.monotonic() - progress.started >= limits.max_seconds:
        return StopReason.TIME_LIMIT
    if sum(len(turn.action_ids) for turn in progress.turns) >= limits.max_tokens:
        return StopReason.TOKEN_LIMIT
    return None


def _text(observation: object, call: str) -> str:
    if not isinstance(observation, str):
        raise EnvironmentFailure(
            f"{call} returned an observation of type {type(observation).__name__}, expected str"
        )
    return observation


def _number(reward: object) -> float:
    value = float(reward)  # type: ignore[arg-type]
    if not math.isfinite(value):
        raise ValueError(f"reward must be a finite number, got {value}")
    return value


def _metrics(info: Mapping[str, Any]) -> dict[str, float]:
    """The documented `info["metrics"]`, numbers only, prefixed."""
    found = info.get("metrics", {})
    if not isinstance(found, Mapping):
        return {}
    return {
        f"env/{name}": float(value)
        for name, value in found.items()
        if isinstance(value, int | float | np.number) and math.isfinite(value)
    }


def _close(progress: Progress, env: TextEnv | None, actor: Actor | None, limits: Limits) -> None:
    """Close both; a failure to close does not void a finished episode."""
    try:
        if actor is not None:
            actor.close()
        if env is not None:
            with (
                progress.waiting("env.close", limits.env_timeout_s),
                boundary(EnvironmentFailure, "close"),
            ):
                env.close()
    except (EnvironmentFailure, SamplerError):
        progress.waits_for = "nothing (close failed)"
