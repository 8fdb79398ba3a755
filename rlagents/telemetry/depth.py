"""Figures by depth: means by bucket as tags, and how long episodes last. Pure.

Averages hide "fine for 10 turns, broken at 40". Legend: K buckets of `rlagents.depth`, M episodes,
L distinct lengths.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rlagents.depth import STARTS, DepthSums, label

Floats = NDArray[np.float64]


def tag(name: str, axis: str, bucket: int, unit: int = 1) -> str:
    """`depth_entropy/turn_0003_0006`: a section of TensorBoard a figure, sorted by depth."""
    return f"depth_{name}/{axis}_{label(bucket, unit)}"


def means_by_depth(
    name: str, axis: str, sums_K: ArrayLike, counts_K: ArrayLike, unit: int = 1
) -> dict[str, float]:
    """Tag -> mean of each bucket that has anything; nothing where all is in one bucket.

    One bucket would say what the mean over all says anyway.
    """
    sums_K, counts_K = np.asarray(sums_K, np.float64), np.asarray(counts_K, np.float64)
    filled = np.flatnonzero(counts_K)
    if len(filled) < 2:
        return {}
    return {tag(name, axis, k, unit): float(sums_K[k] / counts_K[k]) for k in filled.tolist()}


def depth_metrics(steps: Iterable[DepthSums]) -> dict[str, float]:
    """Token means of a learner's statistics by turn and by segment, over optimizer steps.

    Args:
        steps: `StepStats.depth` of each.
    """
    totals: dict[tuple[str, str], Floats] = {}
    for step in steps:
        for axis, sums in step.items():
            for name, values in sums.items():
                totals[axis, name] = totals.get((axis, name), 0.0) + values
    return {
        key: mean
        for (axis, name), values in totals.items()
        if name != "count"
        for key, mean in means_by_depth(name, axis, values, totals[axis, "count"]).items()
    }


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Survival:
    """How long episodes run and how they end, estimated where some were cut."""

    lengths: Floats
    """[L] distinct lengths, rising."""
    running: Floats
    """[L] share of episodes that are longer than this."""
    succeeded: Floats
    """[L] share of episodes that have succeeded by then."""
    cuts: NDArray[np.int64]
    """[L] episodes of this length of which no more is known."""

    def running_at(self, length: float) -> float:
        """Share of episodes that are longer than `length`."""
        return self._at(self.running, length, 1.0)

    def succeeded_at(self, length: float) -> float:
        """Share of episodes that have succeeded within `length`."""
        return self._at(self.succeeded, length, 0.0)

    def _at(self, values: Floats, length: float, before: float) -> float:
        place = int(np.searchsorted(self.lengths, length, side="right"))
        return float(values[place - 1]) if place else before


def survival(lengths: ArrayLike, ended: ArrayLike, success: ArrayLike) -> Survival:
    """Survival and success against length.

        running(t)   = prod over lengths l <= t of (1 - ends(l) / at_risk(l))
        succeeded(t) = sum over lengths l <= t of running(before l) successes(l) / at_risk(l)

    at_risk(l) counts the episodes of length l or more, cut ones included: those leave after l
    without an end. Kaplan and Meier 1958; Aalen and Johansen 1978 for the two ways to end. Without
    cuts both are plain shares. Valid where a cut says nothing of what would have come, which a
    limit that is the same for all makes sure of.

    Args:
        lengths: [M] in turns or tokens.
        ended: [M] whether the end was seen; the others were cut.
        success: [M] whether that end was a success.

    Raises:
        ValueError: when they are not all [M].
    """
    lengths_M = np.asarray(lengths, np.float64)
    ended_M, success_M = np.asarray(ended, bool), np.asarray(success, bool)
    if not lengths_M.shape == ended_M.shape == success_M.shape or lengths_M.ndim != 1:
        shapes = lengths_M.shape, ended_M.shape, success_M.shape
        raise ValueError(f"expected three arrays [M], got {shapes}")
    lengths_L, place_M = np.unique(lengths_M, return_inverse=True)

    def count(chosen_M: NDArray[np.bool_]) -> NDArray[np.int64]:
        return np.bincount(place_M[chosen_M], minlength=len(lengths_L))

    ends, cuts = count(ended_M), count(~ended_M)
    at_risk = (ends + cuts)[::-1].cumsum()[::-1]
    running = np.cumprod(1 - ends / at_risk, dtype=np.float64)
    before = np.concatenate([np.ones(1), running])[: len(lengths_L)]
    return Survival(
        lengths=lengths_L,
        running=running,
        succeeded=np.cumsum(before * count(ended_M & success_M) / at_risk),
        cuts=cuts,
    )


def survival_by_depth(curve: Survival, axis: str, unit: int = 1) -> dict[str, float]:
    """Tags of the share that reaches each bucket, and of the share that has succeeded by its end.

    Up to the longest episode; nothing where all end in the first bucket.
    """
    longest = curve.lengths.max(initial=0)
    starts = [start * unit for start in STARTS if start * unit < longest]
    if len(starts) < 2:
        return {}
    found: dict[str, float] = {}
    for k, (start, end) in enumerate(zip(starts, [*starts[1:], longest], strict=True)):
        found[tag("running", axis, k, unit)] = curve.running_at(start)
        found[tag("succeeded", axis, k, unit)] = curve.succeeded_at(end)
    return found
