"""Group-relative advantages. Legend: G members of a group; lists run over the groups of a batch.

`counts_G` marks the members that count in the statistics. The others still get a value, so that a
caller may give them gradient, but they move nobody's baseline.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np

from rlagents.types import BoolArray, FloatArray

EPSILON = 1e-6
"""Added to every standard deviation, as verl does (TRL adds 1e-4)."""


def centred(scores_G: FloatArray, counts_G: BoolArray) -> FloatArray:
    """A_i = R_i - mean(R), the mean over members that count.

    Source: GRPO, arXiv 2402.03300; without a deviation it is Dr. GRPO, arXiv 2503.20783.
    Valid for any G; a group of one, or where nobody counts, gives zeros.

    Args:
        scores_G: [G] scores; NaN where a member has none (its advantage is 0).
        counts_G: [G] members in the statistics; those without a score never count.
    """
    _check(scores_G, counts_G)
    counts = counts_G & np.isfinite(scores_G)
    if counts.sum() < 2:
        return np.zeros_like(scores_G)
    mean = scores_G[counts].mean(dtype=np.float64)
    return np.where(np.isfinite(scores_G), scores_G - mean, 0.0).astype(np.float32)


def deviation(values: FloatArray) -> float:
    """Unbiased standard deviation (n - 1); 0 for fewer than two values."""
    return float(values.std(ddof=1, dtype=np.float64)) if len(values) > 1 else 0.0


def group_relative(
    scores: Sequence[FloatArray],
    counts: Sequence[BoolArray],
    scale: Literal["group", "batch", "none"],
) -> list[FloatArray]:
    """(R - mean of its group) / (std + 1e-6), the deviation of the group, of the batch, or none.

    `group`: arXiv 2402.03300. `batch`: arXiv 2508.08221 (Lite PPO), all counted scores of the
    batch together. `none`: arXiv 2503.20783. All-equal groups give zeros in every mode.

    Args:
        scores: one [G] array a group.
        counts: one [G] array a group, see `centred`.

    Returns:
        One [G] array a group.
    """
    advantages = [centred(s, c) for s, c in zip(scores, counts, strict=True)]
    counted = [s[c & np.isfinite(s)] for s, c in zip(scores, counts, strict=True)]
    if scale == "none":
        return advantages
    if scale == "batch":
        std = deviation(np.concatenate(counted)) if counted else 0.0
        return [(a / np.float32(std + EPSILON)).astype(np.float32) for a in advantages]
    return [
        (a / np.float32(deviation(s) + EPSILON)).astype(np.float32)
        for a, s in zip(advantages, counted, strict=True)
    ]


def _check(scores_G: FloatArray, counts_G: BoolArray) -> None:
    if scores_G.ndim != 1 or scores_G.shape != counts_G.shape:
        raise ValueError(f"expected two [G] arrays, got {scores_G.shape} and {counts_G.shape}")
