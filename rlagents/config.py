"""The configuration of a run, as frozen dataclasses.

Defaults live here; a YAML states only differences; `key=value` overrides. `rlagents.load` reads
both, `rlagents.rules` checks what no section can know alone. Every error names the full key.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from rlagents.algos.chunking import Truncation
from rlagents.algos.configs import AlgoConfig, require


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
        require(self.dir is None or _is_path(self.dir), "run.dir", self.dir, "a path")


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
class TinySection:
    """Sizes of the embedded default model, a Qwen3-style causal LM over bytes."""

    layers: int = 2
    width: int = 64
    heads: int = 4
    kv_heads: int = 2
    mlp: int = 192
    """Width of the feed-forward layer."""

    def __post_init__(self) -> None:
        for name in ("layers", "width", "heads", "kv_heads", "mlp"):
            value = getattr(self, name)
            require(value >= 1, f"policy.tiny.{name}", value, "1 or more")
        require(
            self.width % self.heads == 0 and (self.width // self.heads) % 2 == 0,
            "policy.tiny.heads",
            self.heads,
            f"a number that divides policy.tiny.width ({self.width}) into even parts",
        )
        require(
            self.heads % self.kv_heads == 0,
            "policy.tiny.kv_heads",
            self.kv_heads,
            f"a divisor of policy.tiny.heads ({self.heads})",
        )


@dataclass(frozen=True, kw_only=True)
class PolicySection:
    """The policy and how it is sampled."""

    model: str = "tiny"
    """`tiny`, or a Hugging Face folder or name (safetensors only, no remote code)."""
    tiny: TinySection = field(default_factory=TinySection)
    """Only for `model: tiny`."""
    system: str = ""
    """System message at the head of every conversation."""
    history: Literal["keep", "template"] = "keep"
    """`keep` never changes what was sampled. `template` lets a chat template rewrite history (some
    strip earlier thinking): each rewrite opens a new context."""
    temperature: float = 1.0
    top_p: float = 1.0
    """Below 1 in evaluation only: trained rollouts need the full distribution."""
    max_tokens: int = 64
    """Sampled tokens a turn."""
    stop: tuple[str, ...] = ()
    """Strings that end an action. The environment does not see them; training does."""
    fp32_head: bool = True
    """With `learner.dtype: bfloat16`, sampling computes logits in fp32 all the same, as the learner
    always does."""

    def __post_init__(self) -> None:
        require(
            _is_path(self.model), "policy.model", self.model, "tiny, a folder or a model's name"
        )
        require(self.temperature > 0, "policy.temperature", self.temperature, "above 0")
        require(0 < self.top_p <= 1, "policy.top_p", self.top_p, "above 0, at most 1")
        require(self.max_tokens >= 1, "policy.max_tokens", self.max_tokens, "1 or more")
        require(all(self.stop), "policy.stop", self.stop, "strings that are not empty")


SUMMARY_PROMPT = (
    "The window is full. Write down, in your own words, everything that you will still need; "
    "nothing else of the past will be shown to you."
)


@dataclass(frozen=True, kw_only=True)
class CompactSection:
    """`strategy: compact`: the policy sums up its own history where the window is full."""

    tokens: int = 0
    """Sampled tokens of a summary, at most; 0 is `policy.max_tokens`."""
    prompt: str = SUMMARY_PROMPT
    """What the policy is told then, as a message of the user's."""
    label: str = "Your summary of what came before:\n"
    """Stands in front of the summary, and both in front of the observation."""

    def __post_init__(self) -> None:
        require(self.tokens >= 0, "context.compact.tokens", self.tokens, "0 or more")
        require(bool(self.prompt), "context.compact.prompt", self.prompt, "a text")


@dataclass(frozen=True, kw_only=True)
class MemorySection:
    """`strategy: notes` (always shown) and `reset_with_memory` (read by tool)."""

    tokens: int = 256
    """Of the notes, or of all entries of the memory; an edit beyond it is refused."""
    edits: int = 4
    """Edits and look-ups before each action, at most."""
    rules: bool = False
    """Explain the commands in front of each context, to policies that were not trained on them."""
    sitting_turns: int = 0
    """`reset_with_memory`: actions of a sitting, after which only the memory is left; 0 ends one
    where the window is full."""

    def __post_init__(self) -> None:
        require(self.tokens >= 1, "context.memory.tokens", self.tokens, "1 or more")
        require(self.edits >= 1, "context.memory.edits", self.edits, "1 or more")
        require(
            self.sitting_turns >= 0, "context.memory.sitting_turns", self.sitting_turns, "0 or more"
        )


@dataclass(frozen=True, kw_only=True)
class RecursiveSection:
    """`strategy: recursive`: long observations are variables of a sandboxed Python.

    The policy may call itself from there (Recursive Language Models, arXiv 2512.24601).
    """

    turns: int = 30
    """Blocks of code before each action, at most."""
    calls: int = 50
    """Calls of the policy to itself in an episode, at most."""
    depth: int = 1
    """1: a call is a plain one. 2 and more: a call of the root may have a REPL of its own."""
    output: int = 500
    """Characters of a block's output that the policy is shown, head and tail."""
    sandbox: dict[str, Any] = field(default_factory=dict)
    """Tier and limits, by the names of `SandboxConfig`."""

    def __post_init__(self) -> None:
        for name in ("turns", "depth", "output"):
            value = getattr(self, name)
            require(value >= 1, f"context.recursive.{name}", value, "1 or more")
        require(self.calls >= 0, "context.recursive.calls", self.calls, "0 or more")


@dataclass(frozen=True, kw_only=True)
class ContextSection:
    """How a history longer than the window becomes contexts (rollouts and SFT alike)."""

    strategy: Literal[
        "pinned_window", "full", "compact", "notes", "recursive", "reset_with_memory"
    ] = "pinned_window"
    """`pinned_window`: the pinned turns, the latest turns and the new one. `full` never cuts: the
    episode ends when the window is full. `compact`: the pinned turns and a summary by the policy.
    `notes`: the pinned turns and a scratchpad that the policy edits. `recursive`: long observations
    in a REPL. `reset_with_memory`: sittings, and a memory that outlasts them."""
    window: int = 512
    """Tokens of a context, and of a training segment."""
    pinned_turns: int = 1
    """This many first turns, observation and action, start every context, after the system
    message. 1 pins the task card."""
    overlap: int = 0
    """Tokens of the latest whole turns that a new context repeats, at most."""
    truncation: Truncation = "sliding"
    """`sliding` repeats as much at every cut; `progressive` the less the later the cut: the n-th
    repeats overlap / n."""
    max_observation: int = 0
    """Tokens of an observation; of a longer one head and tail are shown, with a mark between. 0
    never clips: an observation that does not fit ends the episode."""
    compact: CompactSection = field(default_factory=CompactSection)
    memory: MemorySection = field(default_factory=MemorySection)
    recursive: RecursiveSection = field(default_factory=RecursiveSection)

    def __post_init__(self) -> None:
        require(self.window >= 8, "context.window", self.window, "8 or more")
        require(self.pinned_turns >= 0, "context.pinned_turns", self.pinned_turns, "0 or more")
        require(
            0 <= self.overlap < self.window,
            "context.overlap",
            self.overlap,
            f"between 0 and context.window ({self.window})",
        )
        require(
            0 <= self.max_observation < self.window,
            "context.max_observation",
            self.max_observation,
            f"between 0 and context.window ({self.window})",
        )


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
    for each level of `context.recursive.depth` with `context.strategy: recursive`."""
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

    def whole_cache(self, context: ContextSection) -> int:
        """Tokens of all contexts that a worker's episodes have open at once, at most."""
        levels = 1 + context.recursive.depth if context.strategy == "recursive" else 1
        return self.concurrency * context.window * levels


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


@dataclass(frozen=True, kw_only=True)
class ScoringSection:
    """How trajectories get the number they are ranked by."""

    name: Literal["return", "function"] = "return"
    """`return`: the sum of the environment's rewards. `function`: your own."""
    function: str | None = None
    """`module:name` of a function (Group) -> [G] numbers, NaN where a member has none. It runs in
    this process, in `concurrency` threads, beside the rollouts. In an evaluation a group has one
    member: a score that compares members says nothing there."""
    concurrency: int = 4
    """Groups that are scored at once."""
    queue: int = 64
    """While so many groups wait for their scores, no new ones are started."""
    timeout_s: float = 300.0
    """Of one group; without an answer it has no scores."""

    def __post_init__(self) -> None:
        require(self.concurrency >= 1, "scoring.concurrency", self.concurrency, "1 or more")
        require(self.queue >= 1, "scoring.queue", self.queue, "1 or more")
        require(self.timeout_s > 0, "scoring.timeout_s", self.timeout_s, "above 0")
        require(
            self.name != "function" or self.function is not None,
            "scoring.function",
            self.function,
            "module:name with scoring.name: function",
        )


@dataclass(frozen=True, kw_only=True)
class WarmStartSection:
    """Supervised start on demonstrations, cut by the same chunker as rollouts."""

    episodes: int = 0
    """Demonstrations to make with the environment's expert; 0 makes none."""
    expert: str = "expert"
    """Name of a scripted policy of the environment (`rlagents envs list` shows them)."""
    env_kwargs: dict[str, Any] = field(default_factory=dict)
    """Changes of `env.kwargs` for demonstrations, such as a shorter horizon."""
    path: str | None = None
    """A JSONL of demonstrations to read instead."""
    long: Literal["split", "keep_head", "keep_tail"] = "split"
    """What becomes of a demonstration longer than the window: the chunker splits it; or only the
    first window is kept; or only the last, without what is pinned."""
    train_overlap: bool = False
    """Also train the actions that a context repeats from the one before: they count twice."""
    misfits: Literal["error", "drop"] = "error"
    """A turn that fits into no window, or whose action is longer than `policy.max_tokens`: stop, or
    leave out the rest of its demonstration."""
    epochs: float = 1.0
    optimizer: Literal["adamw", "muon"] = "adamw"
    """`muon` takes a larger `lr` (0.02) and learns to look things up in half the steps."""
    lr: float = 3e-3
    batch_segments: int = 16
    """Segments an optimizer step."""

    def __post_init__(self) -> None:
        require(self.episodes >= 0, "warm_start.episodes", self.episodes, "0 or more")
        require(self.epochs > 0, "warm_start.epochs", self.epochs, "above 0")
        require(self.lr > 0, "warm_start.lr", self.lr, "above 0")
        require(
            self.batch_segments >= 1, "warm_start.batch_segments", self.batch_segments, "1 or more"
        )
        require(self.path is None or _is_path(self.path), "warm_start.path", self.path, "a path")
        require(
            not (self.path and self.episodes),
            "warm_start.path",
            self.path,
            "either a path or warm_start.episodes, not both",
        )

    @property
    def enabled(self) -> bool:
        return self.episodes > 0 or self.path is not None

    def check_windowed(self) -> None:
        """For an expert that plays through the context window, with contexts of its own.

        Raises:
            ConfigError: for what only demonstrations that are split can have.
        """
        why = "as the expert plays through the context window: its contexts are as they were played"
        require(self.long == "split", "warm_start.long", self.long, f"split, {why}")
        key = "warm_start.train_overlap"
        require(not self.train_overlap, key, self.train_overlap, f"false, {why}")


@dataclass(frozen=True, kw_only=True)
class LearnerSection:
    """The optimizer and how a batch is laid out. The learner knows no algorithm."""

    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    dtype: Literal["float32", "bfloat16"] = "float32"
    lr: float = 1e-3
    warmup_steps: int = 0
    """Steps over which the learning rate rises from 0."""
    optimizer: Literal["adamw", "muon"] = "adamw"
    """`muon` is for hidden matrices; AdamW at a fifth of `lr` trains the rest."""
    betas: tuple[float, float] = (0.9, 0.95)
    weight_decay: float = 0.0
    grad_clip: float = 1.0
    """Global norm of the gradient."""
    clip_adaptive: float = 0.0
    """Clip at this factor of the gradient's usual norm as well (2 is a start); 0 is off."""
    skip_outliers: float = 0.0
    """Skip a step whose norm is above this factor of the usual one (10 is a start), up to 5 in a
    row; 0 is off."""
    norm_report: int = 0
    """Every so many steps, measure the gradient norm of each trajectory: such a step costs twice
    the time. 0 never does."""
    row_tokens: int = 0
    """Tokens of a packed row; 0 is the window."""
    micro_rows: int = 8
    """Rows a forward pass; the gradient does not depend on it."""
    logprob_chunk: int = 1024
    """Tokens whose logits exist at once."""
    share_prefixes: bool = True
    """Compute a prefix that several segments of a forward pass begin with once; the gradient is the
    same."""
    activation_checkpointing: bool = False
    threads: int = 1
    """Torch threads of this process."""

    def __post_init__(self) -> None:
        for name in ("micro_rows", "logprob_chunk", "threads"):
            require(getattr(self, name) >= 1, f"learner.{name}", getattr(self, name), "1 or more")
        for name in ("warmup_steps", "row_tokens", "weight_decay", "norm_report"):
            require(getattr(self, name) >= 0, f"learner.{name}", getattr(self, name), "0 or more")
        require(self.lr > 0, "learner.lr", self.lr, "above 0")
        require(self.grad_clip > 0, "learner.grad_clip", self.grad_clip, "above 0")
        for name in ("clip_adaptive", "skip_outliers"):
            factor = getattr(self, name)
            require(factor == 0 or factor > 1, f"learner.{name}", factor, "0, or above 1")
        require(all(0 <= b < 1 for b in self.betas), "learner.betas", self.betas, "between 0 and 1")


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


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """Everything a run is made from."""

    run: RunSection = field(default_factory=RunSection)
    env: EnvSection = field(default_factory=EnvSection)
    policy: PolicySection = field(default_factory=PolicySection)
    context: ContextSection = field(default_factory=ContextSection)
    rollout: RolloutSection = field(default_factory=RolloutSection)
    scoring: ScoringSection = field(default_factory=ScoringSection)
    schedule: ScheduleSection = field(default_factory=ScheduleSection)
    algo: AlgoConfig = field(default_factory=AlgoConfig)
    faults: FaultSection = field(default_factory=FaultSection)
    warm_start: WarmStartSection = field(default_factory=WarmStartSection)
    learner: LearnerSection = field(default_factory=LearnerSection)
    train: TrainSection = field(default_factory=TrainSection)
    eval: EvalSection = field(default_factory=EvalSection)
    checkpoint: CheckpointSection = field(default_factory=CheckpointSection)
    telemetry: TelemetrySection = field(default_factory=TelemetrySection)


def _is_path(text: str) -> bool:
    return bool(text.strip()) and text.isprintable()
