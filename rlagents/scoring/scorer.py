"""From a group to the numbers that its members are ranked by."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import numpy as np

from rlagents.types import BoolArray, FloatArray, Group, ScoredGroup

JUDGE_ERROR = "judge_error"
"""The part of a score that says, with 1, that the scorer failed."""


class Scorer(Protocol):
    """Scores all members of a group together: a tournament needs them all.

    Scores are finite, or NaN for a member that has none.
    """

    def score(self, group: Group) -> ScoredGroup: ...


@runtime_checkable
class Punctual(Protocol):
    """What a scorer has beside `score` that can end in time, with what it knows by then."""

    def score_by(self, group: Group, deadline: float) -> ScoredGroup:
        """As `score`, to be done at `deadline`, of `time.monotonic`."""
        ...


@runtime_checkable
class Reporting(Protocol):
    """What a scorer has beside `score` that asks judges."""

    def take_figures(self) -> dict[str, float]:
        """Metrics since the last call."""
        ...

    def close(self) -> None:
        """End what it has opened. May be called twice."""
        ...


class ReturnScorer:
    """The sum of the environment's rewards; NaN for a member that failed."""

    def score(self, group: Group) -> ScoredGroup:
        """Scores [G]."""
        returns = returns_of(group)
        return ScoredGroup(
            group=group,
            scores=np.where(failed(group), np.float32(np.nan), returns),
            parts={"return": returns},
        )


def returns_of(group: Group) -> FloatArray:
    """[G] sums of the environment's rewards."""
    return np.array([t.episode_return for t in group.trajectories], np.float32)


def failed(group: Group) -> BoolArray:
    """[G] members that infrastructure or the environment broke: a score would mean nothing."""
    return np.array([t.stop.failed for t in group.trajectories])
