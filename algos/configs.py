"""Configuration of the algorithms. Torch-free: the command line reads it in milliseconds.

The defaults are the recommended values. `algo.name` chooses the class below by the table at the
end, and with it the keys that its YAML section may have.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from rlagents.errors import ConfigError, nearest


def require(ok: bool, key: str, value: object, expected: str) -> None:
    """Reject a value, naming the full key, what was expected and what came.

    Raises:
        ConfigError: when `ok` is false.
    """
    if not ok:
        raise ConfigError(f"{key}: expected {expected}, got {value!r}")


@dataclass(frozen=True, kw_only=True)
class TruncationConfig:
    """What a trajectory that we cut (turn, token, time or context limit) still counts for.

    Three separate facts, never one mask.
    """

    statistics: bool = True
    """It counts in its group's mean and deviation."""
    reward: bool = True
    """Its score counts; false scores it as zero."""
    gradient: bool = True
    """Its tokens get gradient."""


@dataclass(frozen=True, kw_only=True)
class OverlongConfig:
    """Soft overlong punishment, arXiv 2503.14476 (DAPO), on sampled tokens of a trajectory."""

    limit: int = 0
    """Sampled tokens at which the punishment reaches -factor. 0 switches it off."""
    cache: int = 0
    """Length of the ramp before the limit."""
    factor: float = 1.0

    def __post_init__(self) -> None:
        require(self.limit >= 0, "algo.overlong.limit", self.limit, "0 or more")
        require(
            0 <= self.cache <= self.limit, "algo.overlong.cache", self.cache, "between 0 and limit"
        )


@dataclass(frozen=True, kw_only=True)
class GRPOConfig:
    """GRPO, arXiv 2402.03300, as published: group mean and std, sequence mean, symmetric clip."""

    name: Literal["grpo"] = "grpo"
    scale: Literal["group", "batch", "none"] = "group"
    """Which standard deviation divides the centred scores."""
    aggregation: Literal["token_mean", "sequence_mean"] = "sequence_mean"
    """How token terms add up: over the whole batch, or a mean of each trajectory's mean."""
    clip_low: float = 0.2
    clip_high: float = 0.2
    kl_coef: float = 0.0
    """Weight of the k3 divergence from the reference policy; 0 keeps no reference."""
    filter_zero_variance: bool = False
    """Drop groups whose scores are all equal and sample others in their place."""
    max_refills: int = 2
    """How many times an iteration may sample a full set of new groups to replace dropped ones."""
    updates: int = 1
    """Optimizer steps an iteration: its groups are dealt into this many batches."""
    truncation: TruncationConfig = field(default_factory=TruncationConfig)
    overlong: OverlongConfig = field(default_factory=OverlongConfig)

    def __post_init__(self) -> None:
        require(0 < self.clip_low < 1, "algo.clip_low", self.clip_low, "between 0 and 1")
        require(self.clip_high > 0, "algo.clip_high", self.clip_high, "above 0")
        require(self.kl_coef >= 0, "algo.kl_coef", self.kl_coef, "0 or more")
        require(self.max_refills >= 0, "algo.max_refills", self.max_refills, "0 or more")
        require(self.updates >= 1, "algo.updates", self.updates, "1 or more")


@dataclass(frozen=True, kw_only=True)
class GRPOPlusPlusConfig(GRPOConfig):
    """GRPO++: clip-higher, token-level loss, batch std, no KL, zero-variance groups refilled."""

    name: Literal["grpo_pp"] = "grpo_pp"  # type: ignore[assignment]
    scale: Literal["group", "batch", "none"] = "batch"
    aggregation: Literal["token_mean", "sequence_mean"] = "token_mean"
    clip_high: float = 0.28
    filter_zero_variance: bool = True


ALGORITHM_CONFIGS: dict[str, type[GRPOConfig]] = {
    "grpo": GRPOConfig,
    "grpo_pp": GRPOPlusPlusConfig,
}
"""What `algo.name` may be."""


def algorithm_config(name: object) -> type[GRPOConfig]:
    """The schema of an algorithm's section.

    Raises:
        ConfigError: for an unknown name, with the nearest known one.
    """
    if name not in ALGORITHM_CONFIGS:
        hint = nearest(str(name), ALGORITHM_CONFIGS)
        raise ConfigError(f"algo.name: unknown algorithm {name!r}{hint}")
    return ALGORITHM_CONFIGS[str(name)]
