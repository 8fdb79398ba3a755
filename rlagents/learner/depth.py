"""Statistics of trained tokens by depth: by turn of the trajectory and by segment.

Sums and counts, so that micro-batches and steps add up. Shapes: n trained tokens, S statistics,
K buckets.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from rlagents.depth import BUCKETS, STARTS, DepthSums

AXES: Mapping[str, str] = {"turn": "turns", "segment": "contexts"}
"""Name of an axis -> the index column of a flat row that it goes by."""


@torch.no_grad()
def depth_sums(columns: Mapping[str, Tensor], statistics: Sequence[Tensor]) -> Tensor:
    """[S + 1, 2 K] sums in fp64 over the tokens of each bucket of turns, then of segments.

    The last row counts the tokens. An index below 0 counts as 0.

    Args:
        columns: of a flat row; `turns` and `contexts` [n] are read.
        statistics: [n] each.
    """
    indices = torch.stack([columns[column] for column in AXES.values()])
    starts = torch.tensor(STARTS, device=indices.device)
    places = (torch.bucketize(indices, starts, right=True) - 1).clamp(min=0)
    values = torch.stack([*statistics, torch.ones_like(statistics[0])]).double()
    sums = values.new_zeros(len(AXES), len(values), BUCKETS)
    for axis, place in zip(sums, places, strict=True):
        axis.index_add_(1, place, values)
    return torch.cat(tuple(sums), dim=1)


def named(sums: Tensor, names: Sequence[str]) -> DepthSums:
    """What `depth_sums` gave of the statistics called `names`."""
    tables = sums.cpu().numpy().reshape(len(names) + 1, len(AXES), BUCKETS)
    return {
        axis: dict(zip([*names, "count"], tables[:, number], strict=True))
        for number, axis in enumerate(AXES)
    }
