"""Numbers that combine correctly: a mean travels as sum and count, never as a mean."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol, Self, TypeVar

TAGS: Mapping[str, str] = {
    "train/score_mean": "mean score of the trajectories that were rolled out",
    "train/return_mean": "mean sum of the environment's rewards",
    "train/loss": "objective of the step",
    "eval/score_mean": "mean score on held-out tasks",
    "policy/entropy": "mean entropy of the next-token distribution, nats",
    "policy/grad_norm": "global gradient norm before clipping",
    "policy/clip_frac_low": "trained tokens clipped from below",
    "policy/clip_frac_high": "trained tokens clipped from above",
    "policy/kl_behaviour": "divergence from the policy that sampled, nats a token",
    "policy/ratio_mean": "mean importance ratio",
    "policy/grad_limit": "norm that the gradient was clipped to",
    "policy/skipped_steps": "steps so far that changed nothing: not finite, no signal, outliers",
    "sampling/zero_variance_frac": "groups whose scores are all equal",
    "sampling/groups_kept": "groups that were trained on",
    "sampling/groups_dropped": "groups without any gradient",
    "sampling/dropped_high": "of these, groups that had nothing but successes or too many",
    "sampling/dropped_low": "of these, groups that had none or too few",
    "sampling/skipped": "tasks passed over because no variance was expected",
    "sampling/retired": "tasks that are solved and not sampled any more",
    "sampling/replayed": "earlier successes added to groups without any",
    "train/tokens_sampled": "tokens sampled so far, those of dropped groups included",
    "rollout/turns_per_trajectory": "mean number of turns with the environment",
    "rollout/tokens_per_s": "sampled tokens a second of the rollout phase",
    "rollout/truncated_frac": "trajectories that a limit cut",
    "rollout/failed_frac": "trajectories that infrastructure or the environment broke",
    "context/segments_per_trajectory": "mean number of contexts",
    "context/segments_p50": "median number of contexts",
    "context/segments_p90": "number of contexts that nine of ten do not exceed",
    "context/segments_max": "largest number of contexts",
    "context/cuts_per_trajectory": "mean number of contexts that leave something out",
    "staleness/mean": "mean age of a trained token in weight versions",
    "staleness/max": "greatest age of a trained token in weight versions",
    "learner/tokens_per_s": "trained tokens a second of the learn phase",
    "time/rollout_s": "seconds of rollouts",
    "time/score_s": "seconds of scoring",
    "time/learn_s": "seconds of optimizer steps",
    "time/sync_s": "seconds of handing weights to the samplers",
}
"""The stable metric tags, the same in `metrics.jsonl` and TensorBoard, and what they mean."""

SOMETIMES: Mapping[str, str] = {
    "context/dropped_tokens": "mean tokens of the history that a cut leaves out",
    "context/dropped_frac": "the same over history and new observation",
    "rollout/summaries_per_trajectory": "summaries that the policy wrote of full contexts",
    "rollout/memory_edits_per_trajectory": "turns with notes or memory",
    "rollout/code_blocks_per_trajectory": "blocks of code in the REPL",
    "rollout/calls_per_trajectory": "calls of the policy to itself",
    "rollout/tokens_KIND_frac": "sampled tokens in turns of a kind, such as `summary`",
    "schedule/stage": "number of the schedule's stage, from 0",
    "schedule/iterations_in_stage": "finished iterations of it",
    "league/win_rate": "points of the policy against others in training, a draw half",
    "league/win_rate/KIND": "the same against `self`, `past`, `model`, a script or an endpoint",
    "league/elo": "rating of the newest frozen version by all rating games so far, mean 1500",
    "league/elo_low": "lower end of its 95% interval",
    "league/elo_high": "upper end of it",
    "league/elo_of/NAME": "rating of each member of the league by the same games",
    "league/versions": "frozen versions",
    "league/failed_games": "rating games without a result",
    "score/queue_depth_mean": "groups that wait for the scorer or are with it, mean over time",
    "score/queue_depth_max": "most groups that did at once",
    "score/wait_s_mean": "seconds that a group waited for its turn",
    "score/failed": "groups without scores because the scorer failed",
    "score/busy_frac": "share of the scoring threads that were with the scorer",
    "score/abandoned": "calls over their time that have not returned",
    "score/comparisons_per_group": "matches of a tournament",
    "score/length_correlation": "correlation of score and transcript length inside groups",
    "judge/calls": "calls of judges",
    "judge/missing_frac": "matches, or calls that rate one trajectory, without a verdict",
    "judge/position_bias": "matches whose winner flips with the order in which two are shown",
    "judge/position_shift": "marks that being shown first is worth",
}
"""Tags of what not every iteration has: cuts, turns that do not reach the environment, a schedule,
a scorer of one's own, a judge."""

BY_DEPTH: Mapping[str, str] = {
    "depth_entropy": "mean entropy of a token, nats",
    "depth_kl_behaviour": "divergence from the policy that sampled, nats a token",
    "depth_ratio_mean": "mean importance ratio",
    "depth_clip_frac_low": "trained tokens clipped from below",
    "depth_clip_frac_high": "trained tokens clipped from above",
    "depth_reward": "mean reward of a turn with the environment",
    "depth_score": "mean score of the episodes that end in the bucket",
    "depth_running": "episodes that come as far as the bucket",
    "depth_succeeded": "episodes that have succeeded by the end of the bucket",
}
"""Tags are completed by an axis and a bucket of `rlagents.depth`: `depth_entropy/turn_0007_0014`.

Axes: `turn` and `segment` of the trajectory, counted from 0, turns of every kind; `token` is
sampled tokens. What the learner reports has a tag for each statistic of the objective. A figure
whose bucket would be the only one is left out, since the mean over all says the same."""


class Metric(Protocol):
    """A figure that knows how it adds up with another of its kind."""

    @property
    def value(self) -> float:
        """The number to log."""
        ...

    def __add__(self, other: Self, /) -> Self: ...


M = TypeVar("M", bound=Metric)


@dataclass(frozen=True, slots=True)
class Mean:
    """A weighted mean, kept as sum and count. NaN while nothing was counted."""

    total: float
    count: float = 1.0

    @property
    def value(self) -> float:
        """Sum over count."""
        return self.total / self.count if self.count else math.nan

    def __add__(self, other: Mean, /) -> Mean:
        return Mean(self.total + other.total, self.count + other.count)


@dataclass(frozen=True, slots=True)
class Total:
    """A sum: tokens, seconds, dropped groups."""

    value: float

    def __add__(self, other: Total, /) -> Total:
        return Total(self.value + other.value)


@dataclass(frozen=True, slots=True)
class Maximum:
    """The greatest of what was seen; NaN loses against any number."""

    value: float

    def __add__(self, other: Maximum, /) -> Maximum:
        if math.isnan(self.value) or other.value > self.value:
            return other
        return self


@dataclass(frozen=True, slots=True)
class Last:
    """The newest value: learning rate, weights version."""

    value: float

    def __add__(self, other: Last, /) -> Last:
        return other


class Metrics:
    """Collects metrics by name; what is added under one name combines."""

    def __init__(self, initial: Mapping[str, Metric] | None = None) -> None:
        self._metrics: dict[str, Metric] = dict(initial or {})

    def add(self, name: str, metric: Metric) -> None:
        """Combine `metric` with what the name holds.

        Raises:
            ValueError: when the name holds a metric of another kind.
        """
        held = self._metrics.get(name)
        if held is None:
            self._metrics[name] = metric
        elif type(held) is not type(metric):
            raise ValueError(
                f"{name} is a {type(held).__name__}, can't add a {type(metric).__name__}"
            )
        else:
            self._metrics[name] = held + metric

    def mean(self, name: str, total: float, count: float = 1.0) -> None:
        """Add a sum over `count` things (one value, when there is no count)."""
        self.add(name, Mean(float(total), float(count)))

    def merge(self, other: Metrics | Mapping[str, Metric]) -> None:
        """Add all metrics of another collector, such as that of another process."""
        for name, metric in other.items():
            self.add(name, metric)

    def items(self) -> Iterator[tuple[str, Metric]]:
        """Names and metrics, in the order they came."""
        return iter(list(self._metrics.items()))

    def __getitem__(self, name: str) -> Metric:
        return self._metrics[name]

    def __contains__(self, name: str) -> bool:
        return name in self._metrics

    def __len__(self) -> int:
        return len(self._metrics)

    def values(self) -> dict[str, float]:
        """The numbers to log. A mean of nothing is left out."""
        numbers = {name: float(metric.value) for name, metric in self._metrics.items()}
        empty = {n for n, m in self._metrics.items() if isinstance(m, Mean) and not m.count}
        return {name: number for name, number in numbers.items() if name not in empty}
