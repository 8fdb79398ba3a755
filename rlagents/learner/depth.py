"""Statistics of trained tokens by depth: by turn of the trajectory and by segment.

Sums and counts, so that micro-batches and steps add up. Shapes: n trained tokens, K buckets.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from rlagents.depth import BUCKETS, STARTS, DepthSums

_BOUNDS = torch.tensor(STARTS[1:])


@torch.no_grad()
def depth_sums(
    columns: Mapping[str, Tensor], statistics: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """[K K] sums of each statistic in fp64 by bucket of the turn and, inside, of the segment.

    `count` is the tokens. An index below 0 counts as 0.

    Args:
        columns: of a flat row; `turns` and `contexts` [n] are read.
        statistics: [n] each, one at least.
    """
    turns, segments = columns["turns"], columns["contexts"]
    bounds = _BOUNDS.to(turns.device)
    places = torch.bucketize(turns, bounds, right=True) * BUCKETS
    places += torch.bucketize(segments, bounds, right=True)
    values = list(statistics.values())
    table = torch.stack([*values, torch.ones_like(values[0])]).double()
    sums = table.new_zeros(len(table), BUCKETS * BUCKETS).index_add_(1, places, table)
    return dict(zip([*statistics, "count"], sums, strict=True))


def by_axis(sums: Mapping[str, Tensor]) -> DepthSums:
    """What `depth_sums` gave, by turn and by segment."""
    tables = {name: s.cpu().numpy().reshape(BUCKETS, BUCKETS) for name, s in sums.items()}
    return {
        "turn": {name: table.sum(1) for name, table in tables.items()},
        "segment": {name: table.sum(0) for name, table in tables.items()},
    }


def totals(depth: DepthSums) -> dict[str, float]:
    """Sums over all tokens of each statistic."""
    sums = {name: float(values.sum()) for name, values in depth["turn"].items()}
    return {name: total for name, total in sums.items() if name != "count"}
