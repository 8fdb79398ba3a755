"""From credited groups to the batches of an iteration."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from rlagents.algos.configs import Aggregation
from rlagents.data.packing import (
    constant_weights,
    pack,
    prompt_mean_weights,
    segment_mean_weights,
    sequence_mean_weights,
    sequence_sum_weights,
    token_mean_weights,
)
from rlagents.data.segments import segments_of
from rlagents.types import Batch, BoolArray, FloatArray, ScoredGroup, Segment

WEIGHTS: Mapping[Aggregation, Callable[..., list[FloatArray]]] = {
    "token_mean": token_mean_weights,
    "sequence_mean": sequence_mean_weights,
    "segment_mean": segment_mean_weights,
    "sequence_sum": sequence_sum_weights,
    "constant": constant_weights,
    "prompt_mean": prompt_mean_weights,
}
"""How token terms add up, normalised over the whole batch. `constant` takes its constant too, and
`prompt_mean` the task of each label."""


class Credit(Protocol):
    """What an algorithm says of a trajectory (`rlagents.algos.crediting.Credit`)."""

    @property
    def advantages(self) -> FloatArray: ...

    @property
    def trained(self) -> BoolArray: ...


def credited_segments(
    groups: Sequence[ScoredGroup], credits: Sequence[Sequence[Credit]]
) -> list[Segment]:
    """Segments with a token that gets gradient; labels number the trajectories, all of them.

    A context without one (of a sub-call, say) has no part in any sum: it would only be computed.
    """
    segments: list[Segment] = []
    label = 0
    for group, members in zip(groups, credits, strict=True):
        for trajectory, credit in zip(group.group.trajectories, members, strict=True):
            if credit.trained.any():
                contexts = segments_of(
                    trajectory, credit.advantages, label=label, gradient=credit.trained
                )
                segments += [segment for segment in contexts if segment.loss_mask.any()]
            label += 1
    return segments


def make_batches(
    groups: Sequence[ScoredGroup],
    credits: Sequence[Sequence[Credit]],
    *,
    aggregation: Aggregation,
    updates: int,
    row_tokens: int,
    pad_id: int,
    length_constant: int = 0,
) -> list[Batch]:
    """Deal the groups into `updates` batches, one optimizer step each.

    Groups without a trajectory that gets gradient give nothing; so may a whole batch, which is
    then left out.

    Args:
        aggregation: what the weights of each batch, over all of its tokens, add terms up to.
        length_constant: tokens that `constant` divides by; the others do not read it.

    Raises:
        ValueError: when `constant` has no `length_constant`, or a segment no room in a row.
    """
    batches: list[Batch] = []
    for part in range(updates):
        dealt = groups[part::updates]
        segments = credited_segments(dealt, credits[part::updates])
        if segments:
            further: dict[str, Any] = {}
            if aggregation == "constant":
                further["constant"] = length_constant
            elif aggregation == "prompt_mean":
                sizes = [len(group.group.trajectories) for group in dealt]
                further["tasks"] = np.repeat(np.arange(len(sizes), dtype=np.int32), sizes)
            weights = WEIGHTS[aggregation](segments, **further)
            batches.append(pack(segments, row_tokens=row_tokens, pad_id=pad_id, weights=weights))
    return batches
