"""From credited groups to the batches of an iteration."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from rlagents.data.packing import pack, sequence_mean_weights, token_mean_weights
from rlagents.data.segments import segments_of
from rlagents.types import Batch, FloatArray, ScoredGroup, Segment

WEIGHTS = {"token_mean": token_mean_weights, "sequence_mean": sequence_mean_weights}
"""How token terms add up, normalised over the whole batch."""


class Credit(Protocol):
    """What an algorithm says of a trajectory (`rlagents.algos.grpo.Credit`)."""

    @property
    def advantages(self) -> FloatArray: ...

    @property
    def gradient(self) -> bool: ...


def credited_segments(
    groups: Sequence[ScoredGroup], credits: Sequence[Sequence[Credit]]
) -> list[Segment]:
    """Segments of every trajectory that gets gradient; labels number the trajectories."""
    segments: list[Segment] = []
    label = 0
    for group, members in zip(groups, credits, strict=True):
        for trajectory, credit in zip(group.group.trajectories, members, strict=True):
            if credit.gradient and trajectory.turns:
                segments += segments_of(trajectory, credit.advantages, label=label)
            label += 1
    return segments


def make_batches(
    groups: Sequence[ScoredGroup],
    credits: Sequence[Sequence[Credit]],
    *,
    aggregation: str,
    updates: int,
    row_tokens: int,
    pad_id: int,
) -> list[Batch]:
    """Deal the groups into `updates` batches, one optimizer step each.

    Groups without a trajectory that gets gradient give nothing; so may a whole batch, which is
    then left out.
    """
    batches: list[Batch] = []
    for part in range(updates):
        segments = credited_segments(groups[part::updates], credits[part::updates])
        if segments:
            weights = WEIGHTS[aggregation](segments)
            batches.append(pack(segments, row_tokens=row_tokens, pad_id=pad_id, weights=weights))
    return batches
