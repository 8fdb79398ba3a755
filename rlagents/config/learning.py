"""Supervised start and optimizer."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from rlagents.algos.configs import require
from rlagents.config.run import is_path


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
        require(self.path is None or is_path(self.path), "warm_start.path", self.path, "a path")
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
