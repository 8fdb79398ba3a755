"""From a group to the numbers that its members are ranked by."""

from __future__ import annotations

from typing import Protocol

import numpy as np

from rlagents.types import Group, ScoredGroup


class Scorer(Protocol):
    """Scores all members of a group together: a tournament needs them all."""

    def score(self, group: Group) -> ScoredGroup: ...


class ReturnScorer:
    """The sum of the environment's rewards; NaN for a member that failed."""

    def score(self, group: Group) -> ScoredGroup:
        """Scores [G]."""
        returns = np.array([t.episode_return for t in group.trajectories], np.float32)
        failed = np.array([t.stop.failed for t in group.trajectories])
        return ScoredGroup(
            group=group,
            scores=np.where(failed, np.float32(np.nan), returns),
            parts={"return": returns.copy()},
        )
