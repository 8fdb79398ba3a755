"""Which groups are worth training on."""

from __future__ import annotations

import numpy as np

from rlagents.types import BoolArray, FloatArray


def zero_variance(scores_G: FloatArray, counts_G: BoolArray, tolerance: float = 1e-6) -> bool:
    """True where the counted scores are all equal: the group's advantages are all zero.

    Source: dynamic sampling of DAPO, arXiv 2503.14476, for any scores instead of 0/1.
    Filtering on it changes the distribution of tasks: log what was dropped.

    Args:
        scores_G: [G] scores, NaN where a member has none.
        counts_G: [G] members in the statistics.
    """
    counted = scores_G[counts_G & np.isfinite(scores_G)]
    return len(counted) < 2 or float(counted.max() - counted.min()) <= tolerance
