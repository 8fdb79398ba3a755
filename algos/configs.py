"""Configuration of the algorithm: independent switches. Torch-free, so that it reads in no time.

The defaults are plain GRPO, arXiv 2402.03300. A preset (`experiments/presets/NAME.yaml`, chosen by
`algo.name`) is a few lines of differences from them, and a user's YAML goes on top.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from typing import Literal

from rlagents.errors import ConfigError

Objective = Literal["clip", "gspo", "gspo_token", "gmpo", "cispo", "sapo", "luspo", "vespo"]
Aggregation = Literal[
    "token_mean", "sequence_mean", "segment_mean", "sequence_sum", "constant", "prompt_mean"
]

SEQUENCE_OBJECTIVES = ("gspo", "gspo_token", "gmpo", "luspo", "vespo")
"""Objectives that read a statistic of the whole sequence."""


def require(ok: bool, key: str, value: object, expected: str) -> None:
    """Reject a value, naming the full key, what was expected and what came.

    Raises:
        ConfigError: when `ok` is false.
    """
    if not ok:
        raise ConfigError(f"{key}: expected {expected}, got {value!r}")


@dataclass(frozen=True, kw_only=True)
class ClipConfig:
    """Bounds of the ratio r between the policy and the proximal policy.

    The objective says what it does with them: `clip`, `gspo`, `gspo_token`, `luspo` and `cispo`
    bound r to [1 - low, 1 + high]; `gmpo` bounds log r to [-low, high]; `sapo` and `vespo` have no
    bounds. A `low` of 1 is no lower bound.
    """

    low: float = 0.2
    high: float = 0.2
    dual: float = 0.0
    """Dual clip: with a negative advantage a term is at most dual x |A| (3 is usual); 0 is off."""
    ceiling: float = 0.0
    """Two-sided clip: bound of r in the *unclipped* term (4 is usual); 0 is off."""

    def __post_init__(self) -> None:
        require(0 < self.low <= 1, "algo.clip.low", self.low, "above 0, at most 1")
        require(self.high > 0, "algo.clip.high", self.high, "above 0")
        require(self.dual == 0 or self.dual > 1, "algo.clip.dual", self.dual, "0, or above 1")
        require(
            self.ceiling == 0 or self.ceiling > 1 + self.high,
            "algo.clip.ceiling",
            self.ceiling,
            f"0, or above 1 + algo.clip.high ({1 + self.high:g})",
        )


@dataclass(frozen=True, kw_only=True)
class SapoConfig:
    """Temperatures of SAPO's gate, arXiv 2511.20347."""

    positive: float = 1.0
    negative: float = 1.05

    def __post_init__(self) -> None:
        require(self.positive > 0, "algo.sapo.positive", self.positive, "above 0")
        require(self.negative > 0, "algo.sapo.negative", self.negative, "above 0")


@dataclass(frozen=True, kw_only=True)
class VespoConfig:
    """Shape of VESPO's weight, arXiv 2602.10693, by the sign of the advantage."""

    k_positive: float = 2.0
    lambda_positive: float = 3.0
    k_negative: float = 3.0
    lambda_negative: float = 2.0

    def __post_init__(self) -> None:
        for name in ("k_positive", "lambda_positive", "k_negative", "lambda_negative"):
            require(getattr(self, name) > 0, f"algo.vespo.{name}", getattr(self, name), "above 0")


@dataclass(frozen=True, kw_only=True)
class CovarianceConfig:
    """Clip-Cov and KL-Cov, arXiv 2505.22617: tokens whose log-probability follows the advantage."""

    method: Literal["none", "clip", "kl"] = "none"
    """`clip` drops them, `kl` penalises their distance from the proximal policy."""
    fraction: float = 2e-4
    """Of the batch's trained tokens."""
    low: float = 1.0
    """`clip` draws from covariances between these."""
    high: float = 5.0
    coef: float = 1.0
    """Weight of `kl`'s penalty."""

    def __post_init__(self) -> None:
        key = "algo.covariance"
        require(0 < self.fraction <= 1, f"{key}.fraction", self.fraction, "above 0, at most 1")
        require(self.low < self.high, f"{key}.low", self.low, f"below {key}.high ({self.high:g})")
        require(self.coef >= 0, f"{key}.coef", self.coef, "0 or more")


@dataclass(frozen=True, kw_only=True)
class KLConfig:
    """Divergence from a reference policy, added to each token's term."""

    coef: float = 0.0
    """0 keeps no reference."""
    estimator: Literal["k1", "k2", "k3", "unbiased"] = "k3"
    """`unbiased` is k3 times the ratio, arXiv 2512.02556."""
    reference: Literal["frozen", "moving"] = "frozen"
    """`moving` follows the policy: after each iteration reference = decay x reference +
    (1 - decay) x policy."""
    decay: float = 0.9

    def __post_init__(self) -> None:
        require(self.coef >= 0, "algo.kl.coef", self.coef, "0 or more")
        require(0 <= self.decay < 1, "algo.kl.decay", self.decay, "at least 0, below 1")


@dataclass(frozen=True, kw_only=True)
class EntropyConfig:
    """Entropy of the next-token distribution: a bonus, and which tokens are trained."""

    coef: float = 0.0
    """Bonus; with a target, where the coefficient begins."""
    target: float = 0.0
    """Nats a token. Above 0 the coefficient rises by `delta` a step while entropy is at or below
    the target and falls while it is above, and acts only below it: Skywork-OR1, arXiv 2505.22312.
    """
    delta: float = 0.005
    limit: float = 1.0
    """Largest coefficient."""
    top: float = 1.0
    """Train only this fraction of the batch's tokens, those of highest entropy (0.2 in arXiv
    2506.01939)."""

    def __post_init__(self) -> None:
        require(self.coef >= 0, "algo.entropy.coef", self.coef, "0 or more")
        require(self.target >= 0, "algo.entropy.target", self.target, "0 or more")
        require(self.delta > 0, "algo.entropy.delta", self.delta, "above 0")
        require(
            self.target == 0 or self.limit >= self.coef,
            "algo.entropy.limit",
            self.limit,
            f"at least algo.entropy.coef ({self.coef:g})",
        )
        require(0 < self.top <= 1, "algo.entropy.top", self.top, "above 0, at most 1")


@dataclass(frozen=True, kw_only=True)
class AdvantageConfig:
    """From the scores of a group to one advantage a trajectory."""

    baseline: Literal["group", "leave_one_out", "length_weighted", "none"] = "group"
    """What is subtracted: the group's mean, that of the others, or the mean weighted by sampled
    tokens (arXiv 2505.23585)."""
    scale: Literal["group", "batch", "whiten", "mean", "none"] = "group"
    """What divides: the deviation of the group's scores, of the batch's, whitening of the centred
    scores over the batch (REINFORCE++), or the group's mean score (MaxRL, arXiv 2602.02710: scores
    of 0 or more)."""
    rewards: dict[str, float] = field(default_factory=dict[str, float])
    """GDPO, arXiv 2601.05242: several rewards, each normalised in its group, then added with these
    weights and whitened. Keys are `score`, parts of the score, or metrics such as `env/looks`."""

    def __post_init__(self) -> None:
        for name, weight in self.rewards.items():
            ok = isinstance(weight, int | float) and math.isfinite(weight) and weight != 0
            require(ok, f"algo.advantage.rewards.{name}", weight, "a finite number that is not 0")


@dataclass(frozen=True, kw_only=True)
class CreditConfig:
    """From advantages of trajectories to those of turns: A = trajectory x A_i + turn x A_it."""

    trajectory: float = 1.0
    """Weight of the trajectory's advantage, the same for each of its turns."""
    turn: float = 0.0
    """Weight of the turn's own: its discounted return, compared within `grouping`. What a score
    has beyond the environment's rewards comes with the last turn."""
    grouping: Literal["index", "anchor"] = "index"
    """Which turns of the group are compared (and divided by their deviation, unless
    `advantage.scale` is `none`): those of the same number, or those that answered the
    same observation (GiGPO's anchor states, arXiv 2505.10978)."""
    discount: float = 1.0
    """By which a reward counts less for each turn that it lies ahead."""
    summaries: bool = True
    """The policy's own summaries get gradient, like the actions that they made possible."""
    sub_calls: bool = False
    """So do its answers to its own calls (`context.strategy: recursive`), with the advantage of the
    trajectory. Off: the root alone is trained."""

    def __post_init__(self) -> None:
        require(self.trajectory >= 0, "algo.credit.trajectory", self.trajectory, "0 or more")
        require(self.turn >= 0, "algo.credit.turn", self.turn, "0 or more")
        require(
            self.trajectory + self.turn > 0,
            "algo.credit.turn",
            self.turn,
            "above 0 where algo.credit.trajectory is 0",
        )
        require(0 <= self.discount <= 1, "algo.credit.discount", self.discount, "between 0 and 1")


@dataclass(frozen=True, kw_only=True)
class TruncationConfig:
    """What a trajectory that we cut (turn, token, time or context limit) still counts for.

    Three separate facts, never one mask; each may be set apart from the behaviour's.
    """

    behaviour: Literal["keep", "rllm", "rllm_drop", "skyrl"] = "keep"
    """`keep`: it counts for all. `rllm`: the compact filtering of rLLM's first version (DeepSWE):
    in the statistics with a score of 0, no gradient. `rllm_drop`: rLLM of 2026: in nothing.
    `skyrl`: true score in the statistics, no gradient."""
    statistics: bool | None = None
    """It counts in its group's mean and deviation."""
    reward: bool | None = None
    """Its score counts; false scores it as zero."""
    gradient: bool | None = None
    """Its tokens get gradient."""

    @property
    def resolved(self) -> tuple[bool, bool, bool]:
        """(statistics, reward, gradient)."""
        ours = (self.statistics, self.reward, self.gradient)
        theirs = TRUNCATIONS[self.behaviour]
        a, b, c = (t if o is None else o for o, t in zip(ours, theirs, strict=True))
        return a, b, c


TRUNCATIONS: dict[str, tuple[bool, bool, bool]] = {
    "keep": (True, True, True),
    "rllm": (True, False, False),
    "rllm_drop": (False, True, False),
    "skyrl": (True, True, False),
}
"""Behaviour -> (statistics, reward, gradient)."""


@dataclass(frozen=True, kw_only=True)
class OverlongConfig:
    """Soft overlong punishment, arXiv 2503.14476 (DAPO), on sampled tokens of a trajectory."""

    limit: int = 0
    """Sampled tokens at which the punishment reaches -factor. 0 switches it off."""
    cache: int = 0
    """Length of the ramp before the limit."""
    factor: float = 1.0

    def __post_init__(self) -> None:
        key = "algo.shaping.overlong"
        require(self.limit >= 0, f"{key}.limit", self.limit, "0 or more")
        within = self.limit == 0 or 0 <= self.cache <= self.limit
        require(within, f"{key}.cache", self.cache, "between 0 and limit")


@dataclass(frozen=True, kw_only=True)
class CosineConfig:
    """Cosine length reward, arXiv 2502.03373: replaces the score by one that depends on length."""

    limit: int = 0
    """Sampled tokens at which the curve ends. 0 switches it off."""
    threshold: float = 0.5
    """A score at or above it counts as correct."""
    correct: tuple[float, float] = (2.0, 1.0)
    """Reward of a correct trajectory of length 0 and of length `limit`."""
    wrong: tuple[float, float] = (-10.0, 0.0)
    exceeded: float = -10.0
    """Reward beyond the limit."""

    def __post_init__(self) -> None:
        require(self.limit >= 0, "algo.shaping.cosine.limit", self.limit, "0 or more")


@dataclass(frozen=True, kw_only=True)
class RepetitionConfig:
    """Penalty for repeated n-grams of sampled tokens, arXiv 2502.03373."""

    penalty: float = 0.0
    """Taken off in proportion to the share of n-grams that occurred before; 0 switches it off."""
    ngram: int = 3

    def __post_init__(self) -> None:
        key = "algo.shaping.repetition"
        require(self.penalty >= 0, f"{key}.penalty", self.penalty, "0 or more")
        require(self.ngram >= 1, f"{key}.ngram", self.ngram, "1 or more")


@dataclass(frozen=True, kw_only=True)
class FormatConfig:
    """Penalty for each turn whose action is not of the wanted form."""

    pattern: str = ""
    """A regular expression that the whole action must match; empty switches it off. Nested
    repetition such as `(a+)+` can take for ever, `(a+)++` can't; an action of over 10,000
    characters does not match."""
    penalty: float = 0.1
    """Taken off the reward of such a turn."""

    def __post_init__(self) -> None:
        key = "algo.shaping.format"
        require(self.penalty >= 0, f"{key}.penalty", self.penalty, "0 or more")
        try:
            re.compile(self.pattern)
        except re.error as error:
            raise ConfigError(
                f"{key}.pattern: expected a regular expression, got {self.pattern!r}: {error}"
            ) from None


@dataclass(frozen=True, kw_only=True)
class ShapingConfig:
    """What changes scores and turn rewards before advantages; evaluation never sees it."""

    overlong: OverlongConfig = field(default_factory=OverlongConfig)
    cosine: CosineConfig = field(default_factory=CosineConfig)
    repetition: RepetitionConfig = field(default_factory=RepetitionConfig)
    format: FormatConfig = field(default_factory=FormatConfig)
    potential: float = 0.0
    """Weight of potential-based shaping (Ng et al. 1999) with the environment's
    `info["potential"]`: it moves credit between turns and leaves the best policy what it was."""
    clip: tuple[float, float] | None = None
    """Bounds of the shaped score."""
    running: bool = False
    """Divide scores by their running standard deviation over the run."""

    def __post_init__(self) -> None:
        key = "algo.shaping"
        require(self.potential >= 0, f"{key}.potential", self.potential, "0 or more")
        require(
            self.clip is None or self.clip[0] < self.clip[1],
            f"{key}.clip",
            self.clip,
            "a lower and a higher bound",
        )


@dataclass(frozen=True, kw_only=True)
class CorrectionConfig:
    """Corrects for a sampler that is not the policy: another engine, older weights.

    Everything here compares the proximal policy, recomputed by the learner, with the recorded
    behaviour log-probabilities: rho = proximal / behaviour. Weights carry no gradient.
    """

    weight: Literal["none", "truncate", "mask"] = "none"
    """`truncate` multiplies terms by rho bounded to [low, high] (TIS), `mask` by rho where it is
    within the bounds and by 0 elsewhere (IcePop)."""
    level: Literal["token", "sequence"] = "token"
    """Whether rho is a token's or the product over the sequence."""
    low: float = 0.0
    high: float = 2.0
    reject: Literal["none", "geometric", "k3"] = "none"
    """Drop whole sequences: the geometric mean of rho outside [reject_low, reject_high], or the
    mean of k3 above `reject_k3`."""
    reject_low: float = 0.999
    reject_high: float = 1.001
    reject_k3: float = 0.01
    normalise: bool = False
    """Divide the weights by their mean over the batch's trained tokens."""
    off_policy: float = 0.0
    """Drop sequences of negative advantage whose mean log(behaviour / policy) is above this
    (DeepSeek-V3.2, arXiv 2512.02556); 0 is off."""

    def __post_init__(self) -> None:
        key = "algo.correction"
        require(
            0 <= self.low < self.high, f"{key}.low", self.low, f"0 to {key}.high ({self.high:g})"
        )
        require(
            0 <= self.reject_low < self.reject_high,
            f"{key}.reject_low",
            self.reject_low,
            f"0 to {key}.reject_high ({self.reject_high:g})",
        )
        require(self.reject_k3 > 0, f"{key}.reject_k3", self.reject_k3, "above 0")
        require(self.off_policy >= 0, f"{key}.off_policy", self.off_policy, "0 or more")


@dataclass(frozen=True, kw_only=True)
class SamplingConfig:
    """Which tasks are attempted, how often, and which groups are trained on.

    What looks at a task's history needs tasks that come back (`env.train_tasks` above 0).
    """

    filter: Literal["none", "zero_variance", "band"] = "none"
    """Drop groups whose scores are all equal, or whose mean score is outside `band`, and sample
    others in their place."""
    band: tuple[float, float] = (0.3, 0.7)
    """arXiv 2504.03380."""
    max_refills: int = 2
    """How many times an iteration may sample a full set of new groups to replace dropped ones."""
    skip: float = 0.0
    """GRESO, arXiv 2506.02177: a task whose last z groups had no variance is passed over with
    probability 1 - skip**z. 0 is off, 0.5 is usual."""
    retire: float = 0.0
    """ScaleRL, arXiv 2510.13786: a task whose mean score has reached this is not sampled again;
    0 is off."""
    curriculum: Literal["none", "uncertain", "easy_first"] = "none"
    """`uncertain` prefers tasks whose pass rate is near one half; `easy_first` deals the tasks of
    highest known score before the others."""
    group_sizes: tuple[int, int] | None = None
    """Fewest and most attempts of a task; their number follows the spread of its scores so far,
    with the same total."""
    replay: int = 0
    """A group without success gets up to this many of its task's earlier successes as further
    members, with the behaviour log-probabilities of then."""
    success: float = 1.0
    """Score from which a trajectory is a success worth replaying."""
    replay_window: int = 20
    """Iterations after which a success is too old to be replayed."""

    def __post_init__(self) -> None:
        key = "algo.sampling"
        require(self.band[0] < self.band[1], f"{key}.band", self.band, "a lower and a higher bound")
        require(self.max_refills >= 0, f"{key}.max_refills", self.max_refills, "0 or more")
        require(0 <= self.skip < 1, f"{key}.skip", self.skip, "at least 0, below 1")
        require(self.retire >= 0, f"{key}.retire", self.retire, "0 or more")
        require(self.replay >= 0, f"{key}.replay", self.replay, "0 or more")
        require(self.replay_window >= 1, f"{key}.replay_window", self.replay_window, "1 or more")
        require(
            self.group_sizes is None or 2 <= self.group_sizes[0] <= self.group_sizes[1],
            f"{key}.group_sizes",
            self.group_sizes,
            "the fewest (2 or more) and the most attempts",
        )


@dataclass(frozen=True, kw_only=True)
class AlgoConfig:
    """Group-relative policy optimisation as independent switches."""

    name: str = "grpo"
    """The preset that the other settings start from; `grpo_pp` where a YAML names none."""
    objective: Objective = "clip"
    """What is done with ratio and advantage."""
    sequence_unit: Literal["segment", "trajectory"] = "trajectory"
    """What a sequence is, for objectives and corrections that have one."""
    proximal: Literal["behaviour", "recomputed"] = "behaviour"
    """The policy that the ratio is taken to: the one that sampled, as recorded, or the learner's
    at the beginning of the iteration (three policies, with `correction` between the other two)."""
    clip: ClipConfig = field(default_factory=ClipConfig)
    sapo: SapoConfig = field(default_factory=SapoConfig)
    vespo: VespoConfig = field(default_factory=VespoConfig)
    covariance: CovarianceConfig = field(default_factory=CovarianceConfig)
    kl: KLConfig = field(default_factory=KLConfig)
    entropy: EntropyConfig = field(default_factory=EntropyConfig)
    advantage: AdvantageConfig = field(default_factory=AdvantageConfig)
    credit: CreditConfig = field(default_factory=CreditConfig)
    aggregation: Aggregation = "sequence_mean"
    """How token terms add up, always over the whole batch: the mean over tokens; the mean over
    trajectories, or over segments, of their means; the mean over trajectories of their sums; the
    sum over `length_constant` a trajectory (Dr. GRPO); or the mean over tasks of their token
    means."""
    length_constant: int = 0
    """Tokens that `constant` divides by; 0 is `rollout.max_turns` x `policy.max_tokens`."""
    shaping: ShapingConfig = field(default_factory=ShapingConfig)
    truncation: TruncationConfig = field(default_factory=TruncationConfig)
    correction: CorrectionConfig = field(default_factory=CorrectionConfig)
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    updates: int = 1
    """Optimizer steps a pass over the iteration's groups: they are dealt into this many batches."""
    epochs: int = 1
    """Passes over an iteration's groups."""

    def __post_init__(self) -> None:
        require(self.updates >= 1, "algo.updates", self.updates, "1 or more")
        require(self.epochs >= 1, "algo.epochs", self.epochs, "1 or more")
        require(
            self.length_constant >= 0, "algo.length_constant", self.length_constant, "0 or more"
        )
