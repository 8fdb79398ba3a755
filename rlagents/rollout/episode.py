"""One episode: a Gymnasium environment and an actor, turn by turn.

Whatever fails becomes a trajectory with a `StopReason` and an error named by its boundary.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, Protocol, SupportsFloat

import numpy as np

from rlagents.errors import (
    ConfigError,
    EnvironmentFailure,
    RlagentsError,
    SamplerError,
    boundary,
)
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

LARGEST_NUMBER = float(np.finfo(np.float32).max)
"""Of a reward or a potential."""
LARGEST_METRIC = float(np.finfo(np.float64).max)


class TextEnv(Protocol):
    """A Gymnasium environment with text in and text out.

    Of an `info` two keys are read, both optional: `metrics`, named numbers of the episode so far,
    and `potential`, one finite number that says how much the state promises.
    """

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
    potential: float = 0.0
    """Of the state that `observation` shows."""
    waits_for: str = "a thread"
    since: float = field(default_factory=time.monotonic)
    deadline: float = math.inf
    started: float = field(default_factory=time.monotonic)
    metrics: dict[str, float] = field(default_factory=dict)
    outcome: Trajectory | None = None
    """Set once, by the episode's thread or by the watchdog that has given up on it."""
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @contextmanager
    def waiting(self, what: str, seconds: float) -> Iterator[None]:
        """Name a wait and bound it: the watchdog ends the episode at the deadline."""
        self.waits_for, self.since = what, time.monotonic()
        self.deadline = self.since + seconds
        try:
            yield
        finally:
            self.waits_for, self.deadline = "itself", math.inf

    def finish(self, stop: StopReason, error: ErrorRecord | None = None) -> Trajectory:
        """The trajectory as far as it came. The first call decides; later ones change nothing."""
        with self._lock:
            if self.outcome is None:
                self.outcome = Trajectory(
                    key=self.key,
                    task=self.task,
                    turns=tuple(self.turns),
                    final_observation=self.observation,
                    final_potential=0.0 if stop is StopReason.TERMINATED else self.potential,
                    stop=stop,
                    error=error,
                    metrics={**self.metrics, "seconds": time.monotonic() - self.started},
                )
            return self.outcome


STOP_OF_BOUNDARY = {
    "environment": StopReason.ENVIRONMENT_ERROR,
    "sandbox": StopReason.ENVIRONMENT_ERROR,
    "judge": StopReason.ENVIRONMENT_ERROR,
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
    """Play one episode to its end. A failure of environment or sampler ends it, as data.

    Raises:
        ConfigError: when there is no such actor, for example no scripted policy of that name.
    """
    env: TextEnv | None = None
    actor: Actor | None = None
    task = progress.task
    try:
        with progress.waiting("env.reset", limits.env_timeout_s):
            with _environment("making the environment"):
                env = make_env(task)
            with _environment("reset"):
                observation, info = env.reset(seed=task.seed, options=dict(task.options) or None)
                progress.observation = plain_text(observation, "an observation")
                _metrics(info)
                progress.potential = _potential(info)
        with (
            progress.waiting("env.actor", limits.env_timeout_s),
            boundary(EnvironmentFailure, "making the actor"),
        ):
            actor = make_actor(env)
        while (stop := _limit_reached(progress, limits)) is None:
            begun = time.monotonic()
            with (
                progress.waiting("sampler", limits.sampler_timeout_s),
                boundary(SamplerError, "choosing an action"),
            ):
                action = actor.act(progress.observation)
            if action is None:
                return progress.finish(StopReason.CONTEXT_LIMIT)
            sampled = time.monotonic()
            with (
                progress.waiting("env.step", limits.env_timeout_s),
                _environment(f"step {len(progress.turns)}"),
            ):
                observation, reward, terminated, truncated, info = env.step(action.text)
                reward = _number(reward, "a reward")
                following = plain_text(observation, "an observation")
                terminated, truncated = bool(terminated), bool(truncated)
                metrics, potential = _metrics(info), _potential(info)
            if progress.outcome is not None:
                return progress.outcome
            turn = _turn(action, progress, reward, begun, sampled)
            progress.turns.append(turn)
            on_turn(len(progress.turns) - 1, turn)
            progress.observation, progress.potential = following, potential
            progress.metrics = metrics
            if terminated or truncated:
                return progress.finish(
                    StopReason.TERMINATED if terminated else StopReason.TRUNCATED
                )
        return progress.finish(stop)
    except ConfigError:
        raise
    except RlagentsError as error:
        stop = STOP_OF_BOUNDARY.get(error.boundary, StopReason.SAMPLER_ERROR)
        return progress.finish(stop, error.record())
    finally:
        _close(progress, env, actor, limits)


class _environment(boundary):
    """Whatever comes out of an environment is its failure, exits included.

    Errors of a sandbox or a judge that it uses keep their names.
    """

    def __init__(self, doing: str) -> None:
        super().__init__(EnvironmentFailure, doing)

    def __exit__(self, kind: object, cause: BaseException | None, traceback: object) -> None:
        foreign = isinstance(cause, RlagentsError) and cause.boundary not in STOP_OF_BOUNDARY
        if cause is not None and (foreign or isinstance(cause, SystemExit)):
            raise self.named(cause) from cause
        super().__exit__(kind, cause, traceback)


def _limit_reached(progress: Progress, limits: Limits) -> StopReason | None:
    if progress.outcome is not None:
        return progress.outcome.stop
    if len(progress.turns) >= limits.max_turns:
        return StopReason.TURN_LIMIT
    if time.monotonic() - progress.started >= limits.max_seconds:
        return StopReason.TIME_LIMIT
    if sum(len(turn.action_ids) for turn in progress.turns) >= limits.max_tokens:
        return StopReason.TOKEN_LIMIT
    return None


def _turn(action: Action, progress: Progress, reward: float, begun: float, sampled: float) -> Turn:
    with boundary(SamplerError, "recording the turn"):
        return Turn(
            observation=progress.observation,
            action=action.text,
            observation_ids=action.observation_ids,
            action_ids=action.action_ids,
            behaviour_logprobs=action.logprobs,
            reward=reward,
            potential=progress.potential,
            context=action.context,
            temperature=action.temperature,
            weights_version=action.weights_version,
            sampled_s=sampled - begun,
            environment_s=time.monotonic() - sampled,
        )


def plain_text(value: object, what: str) -> str:
    """The value as an exact `str` (NumPy's subclass, for one, can't be written to a journal).

    Raises:
        TypeError: for anything else; `what` says what it is.
        ValueError: for lone surrogates, which neither a tokenizer nor a file takes.
    """
    if not isinstance(value, str):
        raise TypeError(f"expected {what} of type str, got {type(value).__name__}")
    text = str.__str__(value)
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(
            f"expected {what} that UTF-8 can hold, got a lone surrogate at character {error.start}"
        ) from None
    return text


def _number(value: object, what: str) -> float:
    """The value as a finite float.

    Raises:
        TypeError: for anything else; `what` says what it is.
        ValueError: when it is not finite, or too large for float32.
    """
    # NumPy's text converts itself to a number, so text is refused first.
    if isinstance(value, str | bytes) or not isinstance(value, SupportsFloat):
        raise TypeError(f"expected {what} that is a number, got {type(value).__name__}")
    number = float(value)
    if not abs(number) <= LARGEST_NUMBER:
        raise ValueError(f"expected {what} that is a finite float32, got {number}")
    return number


def _potential(info: Mapping[str, Any]) -> float:
    """The documented `info["potential"]`: how much the state promises; 0 where there is none."""
    return _number(info.get("potential", 0.0), "an info['potential']")


def _metrics(info: Mapping[str, Any]) -> dict[str, float]:
    """The documented `info["metrics"]`, finite numbers only, prefixed.

    Raises:
        TypeError: when `info` is no mapping.
    """
    if not isinstance(info, Mapping):
        raise TypeError(f"expected info to be a dict, got {type(info).__name__}")
    found = info.get("metrics", {})
    if not isinstance(found, Mapping):
        return {}
    return {
        f"env/{name}": float(value)
        for name, value in found.items()
        if isinstance(value, int | float | np.integer | np.floating)
        and (abs(value) <= LARGEST_METRIC if isinstance(value, int) else math.isfinite(value))
    }


def _close(progress: Progress, env: TextEnv | None, actor: Actor | None, limits: Limits) -> None:
    """Close both; a failure to close does not void a finished episode."""
    if actor is not None:
        with suppress(RlagentsError), boundary(SamplerError, "closing the actor"):
            actor.close()
    if env is not None:
        with (
            suppress(RlagentsError),
            progress.waiting("env.close", limits.env_timeout_s),
            _environment("close"),
        ):
            env.close()
