"""Sums and means over units: the sequences of a sequence-level term, segments or trajectories.

Shapes: [n] the batch's trained tokens, or any other shape as long as it is the same throughout; a
unit is the set of tokens of one label. Labels are arbitrary int64 numbers and a unit's tokens may
lie anywhere. Differentiable in the values.

Valid only where whole units are at hand: over a part of a batch that cuts a unit in two, the sums
are those of the part. Whole-batch units therefore come from a no-gradient pre-pass.
"""

from __future__ import annotations

import torch
from torch import Tensor


def same_shape(*tensors: Tensor) -> None:
    """Refuse what torch would broadcast in silence.

    Raises:
        ValueError: where shapes differ.
    """
    if len({tensor.shape for tensor in tensors}) > 1:
        shapes = ", ".join(str(tuple(tensor.shape)) for tensor in tensors)
        raise ValueError(f"expected equal shapes, got {shapes}")


def unit_sums(values_n: Tensor, units_n: Tensor) -> Tensor:
    """[n] the sum of the values of the token's unit, at each of its tokens.

    Raises:
        ValueError: where shapes differ.
    """
    same_shape(values_n, units_n)
    # A unit's sum is kept where its label first stands among the sorted labels.
    place_n = torch.searchsorted(units_n.flatten().sort().values, units_n)
    sums = values_n.new_zeros(values_n.numel())
    return sums.index_add(0, place_n.flatten(), values_n.flatten())[place_n]


def unit_lengths(units_n: Tensor) -> Tensor:
    """[n] how many tokens the token's unit has, as float32."""
    return unit_sums(torch.ones(units_n.shape, device=units_n.device), units_n)


def unit_means(values_n: Tensor, units_n: Tensor) -> Tensor:
    """[n] the mean of the values of the token's unit, at each of its tokens.

    Raises:
        ValueError: where shapes differ.
    """
    return unit_sums(values_n, units_n) / unit_lengths(units_n)
