"""How deep into an episode something is: buckets of indices that double in width.

    index    0 | 1-2 | 3-6 | 7-14 | 15-30 | ... | 1023-2046 | 2047 and on

Narrow where episodes begin, wide where few of them come: what goes wrong at turn 40 shows, whatever
the length of the longest. Counts of another unit (tokens, of which a turn has many) are divided by
it first.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import ArrayLike, NDArray

DepthSums = Mapping[str, Mapping[str, NDArray[np.float64]]]
"""`turn` or `segment` -> name of a statistic, or `count` -> [K] sums by bucket of the index."""

BUCKETS = 12
STARTS: tuple[int, ...] = tuple(2**k - 1 for k in range(BUCKETS))
"""[K] the first index of each bucket; the last bucket has no end."""


def buckets(indices: ArrayLike, unit: int = 1) -> NDArray[np.int64]:
    """Bucket of each index i: min(floor(log2(i / unit + 1)), K - 1), with i / unit rounded down.

    Raises:
        ValueError: for an index below 0.
    """
    indices = np.asarray(indices, np.int64)
    if indices.size and indices.min() < 0:
        raise ValueError(f"expected indices of 0 or more, got {indices.min()}")
    return np.searchsorted(STARTS, indices // unit, side="right") - 1


def label(bucket: int, unit: int = 1) -> str:
    """The bounds of a bucket, padded so that names sort: `0000`, `0007_0014`, `2047_on`."""
    width = len(str(STARTS[-1] * unit))
    first = f"{STARTS[bucket] * unit:0{width}d}"
    if bucket == BUCKETS - 1:
        return f"{first}_on"
    last = f"{STARTS[bucket + 1] * unit - 1:0{width}d}"
    return first if last == first else f"{first}_{last}"
