"""What an algorithm is, and the table of those that exist."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from torch import Tensor

from rlagents.algos.configs import GRPOConfig
from rlagents.algos.grpo import GRPO, Credit
from rlagents.types import ScoredGroup


class Algorithm(Protocol):
    """Credit from scored groups, and a loss from log-probabilities. Pure."""

    @property
    def aggregation(self) -> str: ...

    @property
    def columns(self) -> tuple[str, ...]: ...

    def reject(self, scored: ScoredGroup) -> str | None: ...

    def advantages(self, groups: Sequence[ScoredGroup]) -> list[tuple[Credit, ...]]: ...

    def loss_terms(
        self, policy_logprobs: Tensor, columns: Mapping[str, Tensor]
    ) -> tuple[Tensor, dict[str, Tensor]]: ...


ALGORITHMS: dict[str, Callable[[GRPOConfig], Algorithm]] = {"grpo": GRPO, "grpo_pp": GRPO}
"""`algo.name` -> its class. The switches of a preset are its config's defaults."""


def make(config: GRPOConfig) -> Algorithm:
    """The algorithm that a config names."""
    return ALGORITHMS[config.name](config)
