"""Attention that never crosses segments, for rows packed without padding.

transformers isolates packed rows only under conditions that are easy to miss: by default segments
leak into each other in silence. So the learner brings its own function: segments of nearly equal
length are gathered into one causal attention call. Exact, differentiable, and its cost is linear
in the sum of the squares of segment lengths; no [T, T] mask exists.

Segments may be a tree: what several of them begin with is then a node of its own, computed once,
and its children attend to its keys and values, through which their gradients flow back into it. A
token sees its ancestors' tokens, all of them, and those of its own node up to itself: exactly what
it sees in a segment that is written out.

The only masks are [n, a + n] for nodes of n tokens under a tokens of ancestors, one of each shape a
pass, whatever the number of layers. They are quadratic in the window, so `rlagents.learner.sharing`
makes no tree whose masks weigh much. On an accelerator a mask also rules the flash kernel out and
the memory-efficient one is used. Attending to ancestors and to own tokens apart, without a mask,
would need the gradient of the log-sum-exp that merges the two, which no public kernel has.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import AttentionInterface

from rlagents.errors import LearnerError

PACKED = "rlagents_packed"
"""Name of the function in transformers' attention interface."""

WASTE = 0.25
"""A bucket holds segments at least (1 - WASTE) times as long as its longest."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Layout:
    """Where segments, or the nodes of a tree of them, lie in a flat row of N tokens."""

    buckets: tuple[Tensor, ...]
    """Each [n, L]: flat indices of n segments of up to L tokens. Shorter ones repeat their last
    index: causal attention keeps what comes after a token from changing it."""
    paths: tuple[Tensor, ...]
    """Each [A], one a bucket: flat indices of the tokens of its segments' common ancestors, from
    the root on. A is 0 where they have none."""
    inverse: Tensor
    """[N] place of each token in the concatenation of the flattened buckets."""
    masks: dict[tuple[int, int, torch.dtype, torch.device], Tensor] = field(default_factory=dict)
    """Those that `mask` has made, which every layer of a pass shares."""

    @property
    def longest(self) -> int:
        """Tokens of the longest segment, its ancestors' included."""
        return max(above + own for above, own in self._shapes())

    @property
    def masked(self) -> int:
        """Elements of all masks that a pass needs."""
        return sum(own * (above + own) for above, own in set(self._shapes()) if above)

    def mask(self, bucket: int, dtype: torch.dtype) -> Tensor | None:
        """[L, A + L] what is added to a bucket's scores: 0 where a token sees another, else -inf.

        None where it has no ancestors: causal attention says it all. Made once, in the type that
        attention computes in: a copy in each layer would be kept for each layer's backward.
        """
        above, own = self._shapes()[bucket]
        if above == 0:
            return None
        key = above, own, dtype, self.inverse.device
        if key not in self.masks:
            # The memory-efficient kernel pads a mask, in a copy, unless its rows begin at
            # multiples of 8 elements.
            width = -(-(above + own) // 8) * 8
            full = torch.full((own, width), float("-inf"), dtype=dtype, device=self.inverse.device)
            self.masks[key] = full.triu_(above + 1)[:, : above + own]
        return self.masks[key]

    def _shapes(self) -> list[tuple[int, int]]:
        """A and L of each bucket."""
        return [(len(p), b.shape[1]) for p, b in zip(self.paths, self.buckets, strict=True)]

    def to(self, device: torch.device | str, **_: Any) -> Layout:
        """A copy on another device (accelerate calls it with further arguments)."""
        return Layout(
            buckets=tuple(bucket.to(device) for bucket in self.buckets),
            paths=tuple(path.to(device) for path in self.paths),
            inverse=self.inverse.to(device),
            masks=self.masks,
        )


def layout_of(lengths: Sequence[int], parents: Sequence[int] | None = None) -> Layout:
    """The layout of segments, or of the nodes of a tree, that lie one after the other.

    Args:
        lengths: [S] tokens of each, 1 or more.
        parents: [S] index of the node that each continues, before its own; -1 for a root. Default:
            all are roots.
    """
    sizes = np.asarray(lengths, np.int64)
    starts = np.concatenate([[0], np.cumsum(sizes)[:-1]])
    above = np.full(len(sizes), -1) if parents is None else np.asarray(parents)
    inverse = np.empty(int(sizes.sum()), np.int64)
    buckets, paths, placed = [], [], 0
    for parent in np.unique(above).tolist():
        path = path_of(parent, above, sizes)
        children = np.flatnonzero(above == parent)
        order = children[np.argsort(-sizes[children], kind="stable")]
        while len(order):
            longest = int(sizes[order[0]])
            fits = sizes[order] >= (1 - WASTE) * longest
            members, order = order[fits], order[~fits]
            offsets = np.arange(longest)
            index = starts[members, None] + np.minimum(offsets, sizes[members, None] - 1)
            real = offsets < sizes[members, None]
            inverse[index[real]] = placed + np.flatnonzero(real)
            placed += index.size
            buckets.append(torch.from_numpy(index))
            paths.append(torch.from_numpy(path))
    return Layout(buckets=tuple(buckets), paths=tuple(paths), inverse=torch.from_numpy(inverse))


def path_of(
    node: int, parents: NDArray[np.integer], sizes: NDArray[np.integer]
) -> NDArray[np.int64]:
    """[A] flat indices of a node's tokens after those of its ancestors; none for node -1.

    Args:
        node: its index.
        parents: [M] as in `layout_of`.
        sizes: [M] tokens of each node; they lie one after the other.
    """
    starts = np.cumsum(sizes) - sizes
    parts: list[NDArray[np.int64]] = [np.zeros(0, np.int64)]
    while node >= 0:
        parts.append(np.arange(starts[node], starts[node] + sizes[node]))
        node = int(parents[node])
    return np.concatenate(parts[::-1])


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
    if sliding_window is not None and sliding_window < layout.longest:
        raise LearnerError(
            f"the model's sliding window of {sliding_window} tokens is shorter than a segment "
            f"of {layout.longest}: lower context.window"
        )
    if kwargs.get("softcap") is not None or kwargs.get("position_bias") is not None:
        raise LearnerError("packed attention has no soft cap and no position bias")
    # Gathering makes the copies that attention keeps for its backward anyway.
    flat = [x[0].transpose(0, 1).to(value.dtype) for x in (query, key, value)]
    outputs = []
    for number, (bucket, path) in enumerate(zip(layout.buckets, layout.paths, strict=True)):
        index = bucket.flatten()
        q, k, v = (x.index_select(0, index).unflatten(0, bucket.shape) for x in flat)
        mask = layout.mask(number, q.dtype)
        if mask is not None:
            # The copies that each segment gets of its ancestors cost memory, and little time.
            k, v = (
                torch.cat([x.index_select(0, path).expand(len(bucket), -1, -1, -1), own], 1)
                for x, own in zip(flat[1:], (k, v), strict=True)
            )
        attended = _attention(q, k, v, mask, scaling)
        outputs.append(attended.flatten(0, 1))
    return torch.cat(outputs).index_select(0, layout.inverse).unsqueeze(0), None


def _attention(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scaling: float | None
) -> Tensor:
    """[n, L, H, D'] attention of query [n, L, H, D] to key [n, J, K, D] and value [n, J, K, D'].

    Causal without a mask [L, J].
    """
    repeats = query.shape[2] // key.shape[2]
    exact = query.dtype == torch.float32 or mask is not None
    if repeats > 1 and query.device.type != "cpu" and exact:
        # Elsewhere only half-precision kernels without a mask share heads; what has neither would
        # fall back to L squared.
        key, value = (x.repeat_interleave(repeats, dim=2) for x in (key, value))
        repeats = 1
    return nn.functional.scaled_dot_product_attention(
        query.transpose(1, 2),
        key.transpose(1, 2),
        value.transpose(1, 2),
        attn_mask=mask,
        is_causal=mask is None,
        scale=scaling,
        enable_gqa=repeats > 1,
    ).transpose(1, 2)


def register() -> None:
    """Make `PACKED` known to transformers. May be called twice."""
    AttentionInterface.register(PACKED, packed_attention)
