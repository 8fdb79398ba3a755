"""Group-relative advantages of trajectories. Legend: G members of a group, R rewards with a name.

Lists run over the groups of a batch. `counts_G` marks the members that count in the statistics; the
others still get a value, so that a caller may give them gradient, but they move nobody's. A member
without a score (NaN) and a group with nothing to compare (fewer than two scores that count) give
zeros, and so does a divisor that is only rounding (at most EPSILON): never NaN, never a spike.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from rlagents.types import BoolArray, FloatArray, IntArray

EPSILON = 1e-6
"""Added to every divisor, as verl does (TRL adds 1e-4). Standard deviations are unbiased in all
three: n - 1."""

Baseline = Literal["group", "leave_one_out", "length_weighted", "none"]
Scale = Literal["group", "batch", "whiten", "mean", "none"]
Values = NDArray[np.float64]
"""Before the end NaN still says that there is no value: it is in no statistic."""


def centred(
    scores_G: FloatArray,
    counts_G: BoolArray,
    *,
    baseline: Baseline = "group",
    lengths_G: IntArray | None = None,
) -> FloatArray:
    """[G] A_i = R_i - b_i, sums over the n members that count.

    - `group`: b = sum R_j / n. GRPO, arXiv 2402.03300; without a deviation Dr. GRPO, 2503.20783.
      A member's own score is in its baseline: the gradient is (n - 1)/n of the unbiased one.
    - `leave_one_out`: b_i = sum_{j != i} R_j / (n - 1), so that A_i = n/(n - 1) (R_i - mean R).
      RLOO, arXiv 2402.14740: unbiased on-policy. One who does not count gets R_i - mean R.
    - `length_weighted`: b = sum l_j R_j / sum l_j. OPO, arXiv 2505.23585: the baseline of least
      variance if the squared norm of a trajectory's gradient grows as its length, on-policy.
    - `none`: b = 0, the score itself; a group of one is as good as any.

    Args:
        scores_G: [G] scores; NaN where a member has none (its advantage is 0).
        counts_G: [G] members in the statistics; those without a score never count.
        lengths_G: [G] sampled tokens l, for `length_weighted`; all zero weighs members equally.

    Raises:
        ValueError: where shapes differ, or lengths are wanted and missing or negative.
    """
    return _filled(_differences(scores_G, counts_G, baseline, lengths_G))


def deviation(values: NDArray[np.floating]) -> float:
    """Unbiased standard deviation (n - 1); 0 for fewer than two values."""
    return float(values.std(ddof=1, dtype=np.float64)) if len(values) > 1 else 0.0


def group_relative(
    scores: Sequence[FloatArray],
    counts: Sequence[BoolArray],
    *,
    baseline: Baseline,
    scale: Scale,
    lengths: Sequence[IntArray] | None = None,
) -> list[FloatArray]:
    """One [G] array a group: A = (R - b) / (divisor + 1e-6), b as in `centred`.

    - `group`: std of the group's scores. GRPO, arXiv 2402.03300.
    - `batch`: std of the scores of the batch. Lite PPO, arXiv 2508.08221; ScaleRL, 2510.13786.
    - `whiten`: the differences D = R - b of the whole batch to mean 0 and std 1. REINFORCE++,
      arXiv 2501.03262 (its variant with baseline is `group`, the other is `none`). The mean of D
      is 0 already for `group` and `leave_one_out`; otherwise all-equal groups move with it.
      Deviation: each trajectory weighs the same, verl whitens over tokens.
    - `mean`: mean score of the group; no gradient where it is 0. MaxRL, arXiv 2602.02710: with
      0/1 scores, on-policy, unbiased for -sum_{k=1..T} (1 - p)^k / k, which tends to log p, where p
      is the chance of success and T = n - 1 for baseline `group`, n for `none`. Valid for scores
      of 0 or more.
    - `none`: nothing. Dr. GRPO, arXiv 2503.20783.

    Args:
        scores: one [G] array a group.
        counts: one [G] array a group, see `centred`.
        lengths: one [G] array a group, for baseline `length_weighted`.

    Raises:
        ValueError: as `centred`, and for a counted score below 0 under `mean`.
    """
    differences = [
        _differences(s, c, baseline, n)
        for s, c, n in zip(
            scores, counts, [None] * len(scores) if lengths is None else lengths, strict=True
        )
    ]
    counted = [s[_counted(s, c)] for s, c in zip(scores, counts, strict=True)]
    if scale == "whiten":
        return _whitened(differences, counts)
    if scale == "none":
        return [_filled(d) for d in differences]
    if scale == "batch":
        divisors = [deviation(_pooled(counted))] * len(counted)
    elif scale == "group":
        divisors = [deviation(s) for s in counted]
    else:
        divisors = [_mean_score(s) for s in counted]
    return [_filled(_over(d, x)) for d, x in zip(differences, divisors, strict=True)]


def several_rewards(
    rewards: Sequence[Mapping[str, FloatArray]],
    counts: Sequence[BoolArray],
    weights: Mapping[str, float],
) -> list[FloatArray]:
    """One [G] array a group: D_i = sum_k w_k (r_ik - mean r_k) / (std r_k + 1e-6), then whitened.

    Mean and std of each reward are its group's, the whitening is over the batch: a reward of large
    spread does not drown the others, and weights mean what they say. GDPO, arXiv 2601.05242; TRL
    calls it `normalize_then_sum`. A reward that a member lacks (NaN) adds nothing to it; one that
    lacks all gets 0. Valid on-policy, as `group`.

    Args:
        rewards: one mapping a group, from a reward's name to its [G] values.
        counts: one [G] array a group, see `centred`.
        weights: name -> w; other names in `rewards` are left out.

    Raises:
        ValueError: where shapes differ or a group lacks a reward.
    """
    totals = [_total(named, c, weights) for named, c in zip(rewards, counts, strict=True)]
    return _whitened(totals, counts)


def _differences(
    scores_G: FloatArray,
    counts_G: BoolArray,
    baseline: Baseline = "group",
    lengths_G: IntArray | None = None,
) -> Values:
    """[G] R - b, NaN where there is no score or nothing to compare it with."""
    if scores_G.ndim != 1 or scores_G.shape != counts_G.shape:
        raise ValueError(f"expected two [G] arrays, got {scores_G.shape} and {counts_G.shape}")
    scores = np.where(np.isfinite(scores_G), scores_G, np.nan).astype(np.float64)
    if baseline == "none":
        return scores
    counted = _counted(scores_G, counts_G)
    n = int(counted.sum())
    weights = np.ones(n)
    if baseline == "length_weighted":
        if lengths_G is None or lengths_G.shape != scores_G.shape or (lengths_G < 0).any():
            raise ValueError(f"expected lengths {scores_G.shape} of 0 or more, got {lengths_G}")
        weights = lengths_G[counted] if lengths_G[counted].any() else weights
    if n < 2:
        return np.full(scores.shape, np.nan)
    values = scores - np.average(scores[counted], weights=weights)
    if baseline == "leave_one_out":
        return np.where(counted, values * n / (n - 1), values)
    return values


def _counted(scores_G: NDArray[np.floating], counts_G: BoolArray) -> BoolArray:
    return counts_G & np.isfinite(scores_G)


def _pooled(arrays: Sequence[NDArray[np.floating]]) -> Values:
    return np.concatenate([np.zeros(0), *arrays]).astype(np.float64)


def _mean_score(scores: FloatArray) -> float:
    if (scores < 0).any():
        raise ValueError(f"scale 'mean': expected scores of 0 or more, got {scores.min()}")
    return float(scores.mean(dtype=np.float64)) if len(scores) else 0.0


def _total(named: Mapping[str, FloatArray], counts_G: BoolArray, w: Mapping[str, float]) -> Values:
    """[G] weighted sum of the normalised rewards, NaN where a member has none of them."""
    if not w.keys() <= named.keys():
        raise ValueError(f"expected the rewards {sorted(w)}, got {sorted(named)}")
    parts_RG = np.stack(
        [
            w[name] * _over(_differences(r, counts_G), deviation(r[_counted(r, counts_G)]))
            for name, r in named.items()
            if name in w
        ]
    )
    return np.where(np.isnan(parts_RG).all(axis=0), np.nan, np.nansum(parts_RG, axis=0))


def _whitened(values: Sequence[Values], counts: Sequence[BoolArray]) -> list[FloatArray]:
    pool = _pooled([v[_counted(v, c)] for v, c in zip(values, counts, strict=True)])
    mean = pool.mean() if len(pool) else 0.0
    return [_filled(_over(v - mean, deviation(pool))) for v in values]


def _over(values: Values, divisor: float) -> Values:
    """Zeros where all that count are equal: one who does not count would come out near 1e6."""
    return values / (divisor + EPSILON) if divisor > EPSILON else values * 0.0


def _filled(values: Values) -> FloatArray:
    return np.nan_to_num(values, nan=0.0).astype(np.float32)
