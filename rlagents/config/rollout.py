"""Environments, how episodes are run, and limits that grow."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from rlagents.algos.configs import require
from rlagents.config.context import ContextSection


@dataclass(frozen=True, kw_only=True)
class EnvSection:
    """The environment and its tasks. Training and held-out seeds never meet."""

    id: str = "rlagents/KeyRooms-v0"
    """A Gymnasium id; `module:Id-v0` imports the module first."""
    kwargs: dict[str, Any] = field(default_factory=dict)
    """Keyword arguments of the environment, the same for training and evaluation."""
    options: dict[str, Any] = field(default_factory=dict)
    """Passed to `reset`."""
    train_tasks: int = 0
    """Number of different training tasks; 0 draws a new one each time."""

    def __post_init__(self) -> None:
        require(self.train_tasks >= 0, "env.train_tasks", self.train_tasks, "0 or more")


@dataclass(frozen=True, kw_only=True)
class RolloutSection:
    """How episodes are run."""

    executor: Literal["local", "ray"] = "local"
    workers: int = 1
    """Ray actors; each has its own engine and environments."""
    concurrency: int = 64
    """Episodes at once in each worker."""
    groups: int = 16
    """Tasks an iteration."""
    group_size: int = 8
    """Attempts of each task."""
    max_turns: int = 64
    max_tokens: int = 1_000_000
    """Sampled tokens a trajectory."""
    max_seconds: float = 600.0
    """Wall clock of an episode."""
    env_timeout_s: float = 60.0
    """One call of the environment."""
    sampler_timeout_s: float = 300.0
    """One turn's sampling."""
    cache_tokens: int = 0
    """Tokens the engine keeps cached in each worker; 0 is concurrency x window, and as much again
    for each level of `context.recursive.depth` with `context.strategy: recursive`, and for each
    further seat with `league.opponents`."""
    deterministic: bool = False
    """Repeat bit for bit: batch shape, padding and prefill depend on the conversation alone. With a
    budget that holds of turns that the same weights sample: the clock decides which those are."""
    budget_turns: int = 0
    """Partial rollouts: an iteration ends after so many turns with the environment, as soon as a
    group is complete; unfinished trajectories pause and go on first in the next. 0: no such
    budget; without any an iteration waits for all of its groups."""
    budget_tokens: int = 0
    """The same in sampled tokens."""
    budget_seconds: float = 0.0
    """The same in seconds of rollouts."""
    max_staleness: int = 0
    """Weight versions by which a turn may be old when it is sampled; 0 is synchronous."""
    gpus_per_worker: float = 0.0
    """GPUs (or a share of one) that Ray reserves for each worker's engine."""
    ray_address: str | None = None
    """`auto` or an address joins a running cluster; unset starts Ray here."""

    def __post_init__(self) -> None:
        for name in ("workers", "concurrency", "groups", "max_turns", "max_tokens"):
            require(getattr(self, name) >= 1, f"rollout.{name}", getattr(self, name), "1 or more")
        for name in ("max_seconds", "env_timeout_s", "sampler_timeout_s"):
            require(getattr(self, name) > 0, f"rollout.{name}", getattr(self, name), "above 0")
        for name in ("budget_turns", "budget_tokens", "budget_seconds"):
            require(getattr(self, name) >= 0, f"rollout.{name}", getattr(self, name), "0 or more")
        require(self.group_size >= 2, "rollout.group_size", self.group_size, "2 or more")
        require(self.cache_tokens >= 0, "rollout.cache_tokens", self.cache_tokens, "0 or more")
        require(
            self.gpus_per_worker >= 0, "rollout.gpus_per_worker", self.gpus_per_worker, "0 or more"
        )
        require(
            self.max_staleness == 0,
            "rollout.max_staleness",
            self.max_staleness,
            "0 (asynchronous rollouts are not in this version)",
        )

    @property
    def partial(self) -> bool:
        """Whether an iteration has a budget, at whose end trajectories pause."""
        return bool(self.budget_turns or self.budget_tokens or self.budget_seconds)

    def whole_cache(self, context: ContextSection, seats: int = 1) -> int:
        """Tokens of all contexts that a worker's episodes have open at once, at most.

        `seats` of each are played by one engine.
        """
        levels = 1 + context.recursive.depth if context.strategy == "recursive" else 1
        return self.concurrency * context.window * levels * seats


@dataclass(frozen=True, kw_only=True)
class StageSection:
    """A stage of a schedule: what differs from the run's own settings while it lasts."""

    iterations: int = 0
    """Length, with `schedule.advance: iterations`; 0 in the last stage: to the end."""
    env_kwargs: dict[str, Any] = field(default_factory=dict)
    """Changes of `env.kwargs`, such as a shorter horizon."""
    max_turns: int | None = None
    """Instead of `rollout.max_turns`; the following likewise."""
    max_tokens: int | None = None
    max_seconds: float | None = None
    window: int | None = None
    """Instead of `context.window`, which it may not exceed."""
    overlap: int | None = None

    def __post_init__(self) -> None:
        require(self.iterations >= 0, "schedule.stages.iterations", self.iterations, "0 or more")
        for name in ("max_turns", "max_tokens", "window"):
            value = getattr(self, name)
            require(value is None or value >= 1, f"schedule.stages.{name}", value, "1 or more")
        require(
            self.max_seconds is None or self.max_seconds > 0,
            "schedule.stages.max_seconds",
            self.max_seconds,
            "above 0",
        )
        require(
            self.overlap is None or self.overlap >= 0,
            "schedule.stages.overlap",
            self.overlap,
            "0 or more",
        )


@dataclass(frozen=True, kw_only=True)
class ScheduleSection:
    """Progressive RL (KLong, arXiv 2602.17547): training limits that grow in stages.

    Evaluations always have the run's own limits.
    """

    stages: tuple[StageSection, ...] = ()
    """In order; none: the run's own settings throughout."""
    advance: Literal["iterations", "plateau"] = "iterations"
    """`iterations`: each stage has its length. `plateau`: a stage ends when its mean training score
    has not risen by `min_gain` for `patience` iterations."""
    patience: int = 5
    min_gain: float = 0.01
    min_score: float | None = None
    """A score below this is no plateau, however long it lasts; unset, any score can be one."""

    def __post_init__(self) -> None:
        require(self.patience >= 1, "schedule.patience", self.patience, "1 or more")
        require(self.min_gain >= 0, "schedule.min_gain", self.min_gain, "0 or more")
