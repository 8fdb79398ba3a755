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
from rlagents.rollout.gate import Gate
from rlagents.rollout.recorded import repeated
from rlagents.types import (
    EpisodeKey,
    ErrorRecord,
    FloatArray,
    IntArray,
    StopReason,
    Task,
    Trajectory,
    Turn,
    TurnKind,
)

LARGEST_NUMBER = float(np.finfo(np.float32).max)
"""Of a reward or a potential."""
LARGEST_METRIC = float(np.finfo(np.float64).max)
AT_THE_GATE = "the next iteration"
"""What a paused episode waits for."""


class TextEnv(Protocol):
    """A Gymnasium environment with text in and text out.

    Of an `info` three keys are read, all optional: `metrics`, named numbers of the episode so far;
    `potential`, one finite number that says how much the state promises; and `reference`, a good
    answer for judges to compare with, which no player is shown.
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
    """For the environment, where the kind is `ACTION`."""
    context: int
    observation_ids: IntArray
    """[O]"""
    action_ids: IntArray
    """[A]"""
    logprobs: FloatArray
    """[A]"""
    temperature: float
    weights_version: int
    kind: TurnKind = TurnKind.ACTION
    observation: str = ""
    """What it answers, where the kind is another: then the environment has not said it."""
    dropped_tokens: int = 0

    def turn(self, observation: str, **known: Any) -> Turn:
        """The turn that it makes of an observation; `known` are further fields of it."""
        return Turn(
            observation=observation,
            action=self.text,
            observation_ids=self.observation_ids,
            action_ids=self.action_ids,
            behaviour_logprobs=self.logprobs,
            context=self.context,
            kind=self.kind,
            dropped_tokens=self.dropped_tokens,
            temperature=self.temperature,
            weights_version=self.weights_version,
            **known,
        )


class Seating(Protocol):
    """Players of ours on the other seats of an environment."""

    def trajectories(self) -> tuple[Trajectory, ...]:
        """What they have done so far."""
        ...

    def close(self) -> None: ...


class Actor(Protocol):
    """Chooses actions for one episode."""

    def act(self, observation: str) -> Action | None:
        """An answer to the observation; None where it does not fit into the window."""
        ...

    def proceed(self) -> Action | None:
        """The next answer after one that was not for the environment."""
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
    recorded: tuple[Turn, ...] = ()
    """Turns that were played before, and must repeat themselves."""
    gate: Gate = field(default_factory=Gate)
    turns: list[Turn] = field(default_factory=list)
    actions: int = 0
    """Turns with the environment."""
    tokens: int = 0
    """Sampled so far."""
    observation: str = ""
    potential: float = 0.0
    """Of the state that `observation` shows."""
    waits_for: str = "a thread"
    since: float = field(default_factory=time.monotonic)
    deadline: float = math.inf
    started: float = field(default_factory=time.monotonic)
    metrics: dict[str, float] = field(default_factory=dict)
    reference: str = ""
    seating: Seating | None = None
    """Players of ours on the other seats."""
    outcome: Trajectory | None = None
    """Set once, by the episode's thread or by the watchdog that has given up on it."""
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def record(self, turn: Turn) -> int:
        """Append a turn; its number.

        Raises:
            EnvironmentFailure: when the turn was played before, and was another.
        """
        number = len(self.turns)
        if number < len(self.recorded):
            turn = repeated(number, self.recorded[number], turn)
        self.turns.append(turn)
        self.actions += turn.kind is TurnKind.ACTION
        self.tokens += len(turn.action_ids)
        if number + 1 == len(self.recorded):  # the time of then counts, that of repeating not
            spent = sum(t.sampled_s + t.environment_s for t in self.recorded)
            self.started = time.monotonic() - spent
        return number

    @contextmanager
    def sampling(self, seconds: float) -> Iterator[None]:
        """Wait while the episode is paused, which counts for nothing; then for the sampler."""
        self.waits_for, self.since = AT_THE_GATE, time.monotonic()
        with self.gate.through():
            self.started += time.monotonic() - self.since
            with self.waiting("sampler", seconds):
                yield

    def so_far(self, known: int = 0) -> Trajectory:
        """What there is of an episode that is not over, without its first `known` turns."""
        turns = tuple(self.turns)
        if len(turns) < len(self.recorded):
            turns = self.recorded
        return Trajectory(
            key=self.key,
            task=self.task,
            turns=turns[known:],
            final_observation=self.observation,
            stop=StopReason.PAUSED,
        )

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
                    reference=self.reference,
                    others=self.seating.trajectories() if self.seating is not None else (),
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
    seat: Callable[[TextEnv], Seating | None] = lambda env: None,
) -> Trajectory:
    """Play one episode to its end. A failure of environment or sampler ends it, as data.

    Args:
        progress: what the watchdog sees of it.
        make_env: from the task.
        make_actor: for the environment, after its `reset`.
        limits: when it is cut.
        on_turn: told of each turn.
        seat: puts players on the other seats of the environment, before its `reset`.

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
            with _environment("seating players"):
                progress.seating = seat(env)
            with _environment("reset"):
                observation, info = env.reset(seed=task.seed, options=dict(task.options) or None)
                progress.observation = plain_text(observation, "an observation")
                _metrics(info)
                progress.potential = _potential(info)
                progress.reference = _reference(info)
        with (
            progress.waiting("env.actor", limits.env_timeout_s),
            boundary(EnvironmentFailure, "making the actor"),
        ):
            actor = make_actor(env)
        inside = False  # whether it is the window that is to be answered
        while (stop := _limit_reached(progress, limits)) is None:
            with (
                progress.sampling(limits.sampler_timeout_s),
                boundary(SamplerError, "choosing an action"),
            ):
                begun = time.monotonic()
                action = actor.proceed() if inside else actor.act(progress.observation)
            if action is None:
                return progress.finish(StopReason.CONTEXT_LIMIT)
            sampled = time.monotonic()
            inside = action.kind is not TurnKind.ACTION
            if inside:
                if progress.outcome is not None:
                    return progress.outcome
                turn = _turn(action, action.observation, 0.0, 0.0, begun, sampled)
                on_turn(progress.record(turn), turn)
                continue
            with (
                progress.waiting("env.step", limits.env_timeout_s),
                _environment(f"step {progress.actions}"),
            ):
                observation, reward, terminated, truncated, info = env.step(action.text)
                reward = _number(reward, "a reward")
                following = plain_text(observation, "an observation")
                terminated, truncated = bool(terminated), bool(truncated)
                metrics, potential = _metrics(info), _potential(info)
            if progress.outcome is not None:
                return progress.outcome
            turn = _turn(action, progress.observation, progress.potential, reward, begun, sampled)
            on_turn(progress.record(turn), turn)
            progress.observation, progress.potential = following, potential
            progress.metrics = metrics
            progress.reference = _reference(info) or progress.reference
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
        if progress.seating is not None:
            progress.seating.close()
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
    if progress.actions >= limits.max_turns:
        return StopReason.TURN_LIMIT
    if time.monotonic() - progress.started >= limits.max_seconds:
        return StopReason.TIME_LIMIT
    if progress.tokens >= limits.max_tokens:
        return StopReason.TOKEN_LIMIT
    return None


def _turn(
    action: Action,
    observation: str,
    potential: float,
    reward: float,
    begun: float,
    sampled: float,
) -> Turn:
    with boundary(SamplerError, "recording the turn"):
        return action.turn(
            observation,
            reward=reward,
            potential=potential,
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


def _reference(info: Mapping[str, Any]) -> str:
    """The documented `info["reference"]`: a good answer, for judges; empty where there is none."""
    found = info.get("reference", "")
    return plain_text(found, "an info['reference']") if found else ""


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
