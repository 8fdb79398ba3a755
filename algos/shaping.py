"""What changes a score before advantages. Legend: G members of a group."""

from __future__ import annotations

import numpy as np

from rlagents.types import FloatArray, IntArray


def soft_overlong(lengths_G: IntArray, *, limit: int, cache: int, factor: float) -> FloatArray:
    """0 up to limit - cache, then a ramp down to -factor at the limit and beyond.

        p(l) = factor * clip((limit - cache - l) / cache, -1, 0)

    Source: DAPO, arXiv 2503.14476, equation 13. Unlike verl's, it is bounded below for any length.
    With cache 0 it is a step: -factor beyond the limit.

    Args:
        lengths_G: [G] sampled tokens of each trajectory.
        limit: tokens; 0 switches the punishment off.

    Returns:
        [G] numbers in [-factor, 0], to be added to the scores.
    """
    if limit == 0:
        return np.zeros(len(lengths_G), np.float32)
    if not 0 <= cache <= limit:
        raise ValueError(f"expected 0 <= cache <= limit, got cache {cache} and limit {limit}")
    if cache == 0:
        return np.where(lengths_G > limit, -factor, 0.0).astype(np.float32)
    ramp = (limit - cache - lengths_G.astype(np.float64)) / cache
    return (factor * np.clip(ramp, -1.0, 0.0)).astype(np.float32)
