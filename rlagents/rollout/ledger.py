"""Every trajectory that was started is accounted for: trained, filtered, failed or in flight."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any


class Ledger:
    """Counts of training trajectories, with reasons. The totals must add up at each step."""

    def __init__(self, state: Mapping[str, Any] | None = None) -> None:
        """Start empty, or from the `as_dict` of a checkpoint.

        What was in flight then is started again under the same keys, so it is not counted here.
        """
        state = state or {}
        self.trained = int(state.get("trained", 0))
        self.filtered: Counter[str] = Counter(state.get("filtered", {}).get("reasons", {}))
        self.failed: Counter[str] = Counter(state.get("failed", {}).get("reasons", {}))
        self.started = self.trained + self.filtered.total() + self.failed.total()

    @property
    def in_flight(self) -> int:
        """Started and not yet settled."""
        return self.started - self.trained - self.filtered.total() - self.failed.total()

    def check(self, running: int) -> None:
        """Compare with what is known to run.

        Raises:
            AssertionError: when a trajectory was lost or counted twice.
        """
        assert self.in_flight == running, (
            f"the ledger does not add up: {self.as_dict()} but {running} trajectories are running"
        )

    def as_dict(self) -> dict[str, Any]:
        """For `summary.json` and checkpoints."""
        return {
            "started": self.started,
            "trained": self.trained,
            "filtered": {"total": self.filtered.total(), "reasons": dict(self.filtered)},
            "failed": {"total": self.failed.total(), "reasons": dict(self.failed)},
            "in_flight": self.in_flight,
        }
