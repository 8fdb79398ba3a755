"""What an algorithm remembers from step to step. Frozen: each step gives a new one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

from rlagents.algos.shaping import Moments


@dataclass(frozen=True, slots=True, kw_only=True)
class AlgoState:
    """Part of a run's checkpoint."""

    entropy_coef: float = 0.0
    """Coefficient of the entropy bonus."""
    entropy_low: bool = False
    """At the last step entropy was at or below its target."""
    scores: Moments = field(default_factory=Moments)
    """Of all shaped scores so far, for the running scale."""

    @classmethod
    def of(cls, plain: Mapping[str, Any]) -> Self:
        """Undo `dataclasses.asdict`."""
        rest = {name: value for name, value in plain.items() if name != "scores"}
        return cls(**rest, scores=Moments(**plain["scores"]))
