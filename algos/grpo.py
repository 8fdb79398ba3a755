"""Group-relative policy optimisation, arXiv 2402.03300, as independent switches (GRPO++ is some).

Deviations from the paper: no KL term unless `kl.coef` is set, because the published gains of
long-horizon recipes (DAPO, DeepSWE) come without it; a trajectory may be many segments, which share
its credit. Valid on-policy or near it: behaviour log-probabilities are those that the sampler
recorded. Which switch can matter when: `algos/README.md`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from rlagents.algos import terms
from rlagents.algos.configs import AlgoConfig
from rlagents.algos.crediting import (
    Credit,
    counted,
    credits_of,
    differs_within,
    shaped_scores,
)
from rlagents.algos.sampling import rejected
from rlagents.algos.state import AlgoState
from rlagents.types import ScoredGroup

Objective = Callable[[Tensor, Tensor, Mapping[str, Tensor]], tuple[Tensor, dict[str, Tensor]]]


class GRPO:
    """Credit from scored groups, columns of a batch, and the loss terms of its tokens. Pure."""

    def __init__(self, config: AlgoConfig) -> None:
        self.config = config

    @property
    def columns(self) -> tuple[str, ...]:
        """Batch columns that the learner computes once an iteration, before its first step."""
        return terms.columns(self.config)

    @property
    def step_columns(self) -> tuple[str, ...]:
        """Batch columns that the learner computes before each step."""
        return terms.step_columns(self.config)

    @property
    def derives(self) -> bool:
        """Whether `derive` has to be called before each step."""
        return terms.derives(self.config)

    @property
    def entropy_gradient(self) -> bool:
        """Whether the objective may read entropies with gradient."""
        return self.config.entropy.coef > 0 or self.config.entropy.target > 0

    def initial_state(self) -> AlgoState:
        """What it remembers before the first step."""
        return AlgoState(entropy_coef=self.config.entropy.coef)

    def reject(self, scored: ScoredGroup) -> str | None:
        """Why this group is not worth training on, or None."""
        if "judge_error" in scored.parts:  # the scorer's word for: it has not answered
            return "judge_error"
        sampling = self.config.sampling
        # A band is one of pass rates; a signal is one of what advantages are made of.
        scores = scored.scores if sampling.filter == "band" else shaped_scores(self.config, scored)
        reason = rejected(sampling, scores, counted(self.config, scored))
        if reason == "zero_variance" and differs_within(self.config, scored):
            return None
        return reason

    def advantages(
        self, groups: Sequence[ScoredGroup], state: AlgoState
    ) -> list[tuple[Credit, ...]]:
        """Credit of each trajectory of each group, in order: [G] credits a group."""
        return credits_of(self.config, groups, state.scores)

    def derive(self, batch: Mapping[str, Tensor], generator: torch.Generator) -> dict[str, Tensor]:
        """Columns that need the whole batch; see `terms.derive`."""
        return terms.derive(self.config, batch, generator)

    def objective(self, state: AlgoState) -> Objective:
        """The loss of a step: (policy log-probabilities, entropies, columns) -> terms, figures."""
        return partial(terms.loss_terms, self.config, self.entropy_coef(state))

    def entropy_coef(self, state: AlgoState) -> float:
        """Coefficient of the entropy bonus in the next step."""
        active = self.config.entropy.target == 0 or state.entropy_low
        return state.entropy_coef if active else 0.0

    def after_groups(self, state: AlgoState, groups: Sequence[ScoredGroup]) -> AlgoState:
        """Remember the scores of an iteration, its dropped groups included."""
        scores = state.scores
        if self.config.shaping.running:
            for group in groups:
                scores = scores.add(shaped_scores(self.config, group))
        return replace(state, scores=scores)

    def after_step(self, state: AlgoState, entropy: float) -> AlgoState:
        """Move the entropy coefficient towards the target.

        Source: Skywork-OR1, arXiv 2505.22312: up by delta while entropy <= target, else down,
        within [0, limit].
        """
        control = self.config.entropy
        if control.target == 0:
            return state
        low = entropy <= control.target
        coef = state.entropy_coef + (control.delta if low else -control.delta)
        return replace(state, entropy_coef=min(max(coef, 0.0), control.limit), entropy_low=low)
