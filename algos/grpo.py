"""GRPO, arXiv 2402.03300, and every preset made of its switches (GRPO++ among them).

Deviations: no KL term unless `kl_coef` is set, because the published gains of long-horizon recipes
(DAPO, DeepSWE) come without it; a trajectory may be many segments, all of which share its credit.
Valid on-policy or near it: behaviour log-probabilities are those recorded by the sampler.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from rlagents.algos.advantages import group_relative
from rlagents.algos.configs import GRPOConfig
from rlagents.algos.losses import clip_indicators, clipped_surrogate, k3_divergence, log_ratio
from rlagents.algos.sampling import zero_variance
from rlagents.algos.shaping import soft_overlong
from rlagents.types import BoolArray, FloatArray, ScoredGroup, Trajectory


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Credit:
    """What the learner is told of one trajectory."""

    advantages: FloatArray
    """[N] one value a turn."""
    gradient: bool
    """Whether its tokens get gradient."""


class GRPO:
    """Advantages from scored groups, and the loss terms of their tokens."""

    def __init__(self, config: GRPOConfig) -> None:
        self.config = config

    @property
    def aggregation(self) -> str:
        """How the caller weighs tokens: `token_mean` or `sequence_mean`."""
        return self.config.aggregation

    @property
    def columns(self) -> tuple[str, ...]:
        """Batch columns of a no-gradient pre-pass that the loss terms read."""
        return ("reference_logprobs",) if self.config.kl_coef > 0 else ()

    def shaped_scores(self, scored: ScoredGroup) -> FloatArray:
        """[G] scores after truncation policy and overlong punishment; NaN without a score."""
        trajectories = scored.group.trajectories
        scores = scored.scores.copy()
        if not self.config.truncation.reward:
            cut = np.array([t.stop.cut for t in trajectories])
            scores = np.where(cut & np.isfinite(scores), np.float32(0), scores)
        overlong = self.config.overlong
        lengths = np.array([t.sampled_tokens for t in trajectories], np.int32)
        return scores + soft_overlong(
            lengths, limit=overlong.limit, cache=overlong.cache, factor=overlong.factor
        )

    def reject(self, scored: ScoredGroup) -> str | None:
        """Why this group is not worth training on, or None."""
        scores, counts = self.shaped_scores(scored), self._counts(scored)
        if int((counts & np.isfinite(scores)).sum()) < 2:
            return "too_few_scores"
        if self.config.filter_zero_variance and zero_variance(scores, counts):
            return "zero_variance"
        return None

    def advantages(self, groups: Sequence[ScoredGroup]) -> list[tuple[Credit, ...]]:
        """Credit of each trajectory of each group, in order: [G] credits a group."""
        values = group_relative(
            [self.shaped_scores(group) for group in groups],
            [self._counts(group) for group in groups],
            self.config.scale,
        )
        return [
            tuple(
                Credit(
                    advantages=np.full(len(trajectory.turns), value, np.float32),
                    gradient=self._gets_gradient(trajectory),
                )
                for trajectory, value in zip(group.group.trajectories, values_G, strict=True)
            )
            for group, values_G in zip(groups, values, strict=True)
        ]

    def loss_terms(
        self, policy_logprobs: Tensor, columns: Mapping[str, Tensor]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Terms to be minimised, and what to report, all of the shape of `policy_logprobs`."""
        behaviour, advantages = columns["behaviour_logprobs"], columns["advantages"]
        bounds = {"clip_low": self.config.clip_low, "clip_high": self.config.clip_high}
        terms = clipped_surrogate(policy_logprobs, behaviour, advantages, **bounds)
        low, high = clip_indicators(policy_logprobs, behaviour, advantages, **bounds)
        difference = log_ratio(policy_logprobs.detach(), behaviour)
        stats = {
            "clip_frac_low": low,
            "clip_frac_high": high,
            "ratio_mean": difference.exp(),
            "kl_behaviour": difference.exp() - 1 - difference,
        }
        if self.config.kl_coef > 0:
            divergence = k3_divergence(policy_logprobs, columns["reference_logprobs"])
            terms = terms + self.config.kl_coef * divergence
            stats["kl_reference"] = divergence.detach()
        return terms, stats

    def _counts(self, scored: ScoredGroup) -> BoolArray:
        """[G] members in the group's statistics."""
        policy = self.config.truncation
        return np.array(
            [
                not t.stop.failed and (policy.statistics or not t.stop.cut)
                for t in scored.group.trajectories
            ]
        )

    def _gets_gradient(self, trajectory: Trajectory) -> bool:
        if trajectory.stop.failed:
            return False
        return self.config.truncation.gradient or not trajectory.stop.cut
