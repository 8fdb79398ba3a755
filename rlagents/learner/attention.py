"""Attention that never crosses segments, for rows packed without padding.

transformers isolates packed rows only under conditions that are easy to miss: by default segments
leak into each other in silence. So the learner brings its own function: segments of nearly equal
length are gathered into one causal attention call. Exact, differentiable, and its cost is linear
in the sum of the squares of segment lengths; no [T, T] mask exists.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import AttentionInterface

from rlagents.errors import LearnerError

PACKED = "rlagents_packed"
"""Name of the function in transformers' attention interface."""

WASTE = 0.25
"""A bucket holds segments at least (1 - WASTE) times as long as its longest."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Layout:
    """Where segments lie in a flat row of N tokens."""

    buckets: tuple[Tensor, ...]
    """Each [n, L]: flat indices of n segments of up to L tokens. Shorter ones repeat their last
    index: causal attention keeps what comes after a token from changing it."""
    inverse: Tensor
    """[N] place of each token in the concatenation of the flattened buckets."""

    def to(self, device: torch.device | str, **_: Any) -> Layout:
        """A copy on another device (accelerate calls it with further arguments)."""
        moved = tuple(bucket.to(device) for bucket in self.buckets)
        return Layout(buckets=moved, inverse=self.inverse.to(device))


def layout_of(lengths: Sequence[int]) -> Layout:
    """The layout of segments that lie one after the other.

    Args:
        lengths: [S] tokens of each segment, 1 or more.
    """
    sizes = np.asarray(lengths, np.int64)
    starts = np.concatenate([[0], np.cumsum(sizes)[:-1]])
    order = np.argsort(-sizes, kind="stable")
    inverse = np.empty(int(sizes.sum()), np.int64)
    buckets, placed, first = [], 0, 0
    while first < len(order):
        longest = int(sizes[order[first]])
        members = order[first:]
        members = members[sizes[members] >= (1 - WASTE) * longest]
        first += len(members)
        offsets = np.arange(longest)
        index = starts[members, None] + np.minimum(offsets, sizes[members, None] - 1)
        real = offsets < sizes[members, None]
        inverse[index[real]] = placed + np.flatnonzero(real)
        placed += index.size
        buckets.append(torch.from_numpy(index))
    return Layout(buckets=tuple(buckets), inverse=torch.from_numpy(inverse))


def packed_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    scaling: float | None = None,
    layout: Layout | None = None,
    sliding_window: int | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Causal attention inside each segment; the signature of transformers' attention interface.

    Args:
        module: unused.
        query: [1, H, N, D].
        key: [1, K, N, D], K divides H.
        value: [1, K, N, D'].
        attention_mask: must be None; `layout` says everything.
        scaling: of the scores; default 1 / sqrt(D).
        layout: where the segments lie. Dropout is never applied: log-probabilities must be those
            of the distribution that is sampled.
        sliding_window: tokens a token may see; must cover the longest segment.
        kwargs: other arguments of transformers.

    Returns:
        [1, N, H, D'] and no attention weights.

    Raises:
        LearnerError: without a layout, or where the model asks for something not done here.
    """
    if layout is None or attention_mask is not None or query.shape[0] != 1:
        raise LearnerError("packed attention needs one flat row, a layout and no attention mask")
    longest = max(bucket.shape[1] for bucket in layout.buckets)
    if sliding_window is not None and sliding_window < longest:
        raise LearnerError(
            f"the model's sliding window of {sliding_window} tokens is shorter than a segment "
            f"of {longest}: lower context.window"
        )
    if kwargs.get("softcap") is not None or kwargs.get("position_bias") is not None:
        raise LearnerError("packed attention has no soft cap and no position bias")
    # Gathering makes the copies that attention keeps for its backward anyway.
    flat = [x[0].transpose(0, 1).to(value.dtype) for x in (query, key, value)]
    gqa = query.shape[1] != key.shape[1]
    if gqa and query.device.type != "cpu" and value.dtype == torch.float32:
        # Elsewhere only half-precision kernels share heads; fp32 would fall back to L squared.
        repeats = query.shape[1] // key.shape[1]
        flat[1:] = [x.repeat_interleave(repeats, dim=1) for x in flat[1:]]
        gqa = False
    outputs = []
    for bucket in layout.buckets:
        index = bucket.flatten()
        q, k, v = (
            x.index_select(0, index).unflatten(0, bucket.shape).transpose(1, 2) for x in flat
        )
        attended = nn.functional.scaled_dot_product_attention(
            q, k, v, is_causal=True, scale=scaling, enable_gqa=gqa
        )
        outputs.append(attended.transpose(1, 2).flatten(0, 1))
    return torch.cat(outputs).index_select(0, layout.inverse).unsqueeze(0), None


def register() -> None:
    """Make `PACKED` known to transformers. May be called twice."""
    AttentionInterface.register(PACKED, packed_attention)
