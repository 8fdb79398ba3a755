"""Where a run writes, how long it is, and what is written for people."""

from __future__ import annotations

from dataclasses import dataclass

from rlagents.algos.configs import require


@dataclass(frozen=True, kw_only=True)
class RunSection:
    """Where the run writes."""

    name: str = "run"
    dir: str | None = None
    """The run folder. Unset: `runs/NAME/` and a new id."""
    seed: int = 0

    def __post_init__(self) -> None:
        require(0 <= self.seed < 2**31, "run.seed", self.seed, "between 0 and 2**31 - 1")
        plain = self.name.isprintable() and self.name.strip(" .") and "/" not in self.name
        require(bool(plain), "run.name", self.name, "a plain folder name")
        require(self.dir is None or is_path(self.dir), "run.dir", self.dir, "a path")


@dataclass(frozen=True, kw_only=True)
class TrainSection:
    """The length of the run."""

    iterations: int = 10
    max_tokens: int = 0
    """Sampled tokens, those of discarded groups included, after which the run ends early; 0 is no
    limit. Runs with the same limit have had the same cost."""
    max_turns: int = 0
    """The same in turns with the environment."""

    def __post_init__(self) -> None:
        require(self.max_turns >= 0, "train.max_turns", self.max_turns, "0 or more")
        require(self.iterations >= 0, "train.iterations", self.iterations, "0 or more")
        require(self.max_tokens >= 0, "train.max_tokens", self.max_tokens, "0 or more")


@dataclass(frozen=True, kw_only=True)
class FaultSection:
    """Faults of the sampler, put in on purpose, to measure what a correction is worth."""

    logit_noise: float = 0.0
    """Standard deviation of Gaussian noise on the logits that training turns are sampled from; the
    recorded log-probabilities are those of the noisy distribution, as another engine's would be."""
    weight_lag: int = 0
    """Weights reach the samplers this many iterations late."""

    def __post_init__(self) -> None:
        require(self.logit_noise >= 0, "faults.logit_noise", self.logit_noise, "0 or more")
        require(self.weight_lag >= 0, "faults.weight_lag", self.weight_lag, "0 or more")


@dataclass(frozen=True, kw_only=True)
class EvalSection:
    """Scores on held-out tasks."""

    episodes: int = 64
    every: int = 0
    """Iterations between evaluations; 0 only before and after each stage."""
    greedy: bool = False
    """Also score the most probable actions (not before a warm start)."""
    temperature: float | None = None
    """Unset: that of the policy section."""

    def __post_init__(self) -> None:
        require(self.episodes >= 0, "eval.episodes", self.episodes, "0 or more")
        require(self.every >= 0, "eval.every", self.every, "0 or more")
        require(
            self.temperature is None or self.temperature > 0,
            "eval.temperature",
            self.temperature,
            "above 0",
        )


@dataclass(frozen=True, kw_only=True)
class CheckpointSection:
    """What survives a crash."""

    every: int = 10
    """Iterations between checkpoints; 0 only at the end and on Ctrl-C."""
    keep: int = 2

    def __post_init__(self) -> None:
        require(self.every >= 0, "checkpoint.every", self.every, "0 or more")
        require(self.keep >= 1, "checkpoint.keep", self.keep, "1 or more")


@dataclass(frozen=True, kw_only=True)
class TelemetrySection:
    """What is written for people."""

    tensorboard: bool = True
    trajectories: int = 1
    """Best and worst trajectories an iteration, as text in TensorBoard."""
    depth: bool = True
    """Score, entropy, ratio and KL by turn and by segment."""
    figures_every: int = 10
    """Iterations between figures (survival against turns and tokens); 0 draws none."""
    watchdog_s: float = 60.0
    """After this long without a finished episode, say who waits for what."""

    def __post_init__(self) -> None:
        require(self.trajectories >= 0, "telemetry.trajectories", self.trajectories, "0 or more")
        require(self.figures_every >= 0, "telemetry.figures_every", self.figures_every, "0 or more")
        require(self.watchdog_s > 0, "telemetry.watchdog_s", self.watchdog_s, "above 0")


def is_path(text: str) -> bool:
    """Whether a text can be a path, or a name like one."""
    return bool(text.strip()) and text.isprintable()
