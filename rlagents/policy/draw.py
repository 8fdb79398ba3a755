"""From logits to sampled tokens and their log-probabilities, many rows at once."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor


def draw(
    logits_BV: Tensor, temperatures_B: Tensor, top_ps_B: Tensor, uniforms_B: Tensor
) -> tuple[Tensor, Tensor]:
    """Sample each row by the inverse of its cumulative distribution.

    p = softmax(logits / temperature), cut to the smallest set of most probable tokens whose mass
    reaches top_p, and renormalised. A row depends on its own numbers alone.

    Args:
        logits_BV: any float dtype; computed in fp32, the cumulative sums in fp64.
        temperatures_B: 0 takes the most probable token, with its log-probability at 1.
        top_ps_B: 1 keeps all tokens.
        uniforms_B: fp64 in [0, 1).

    Returns:
        ids [B] int64 and log-probabilities [B] fp32.
    """
    if logits_BV.device.type == "mps":  # no fp64 there
        logits_BV = logits_BV.cpu()
    device = logits_BV.device
    temperatures_B, top_ps_B, uniforms_B = (
        t.to(device) for t in (temperatures_B, top_ps_B, uniforms_B)
    )
    logits_BV = logits_BV.float()
    greedy_B = temperatures_B == 0
    divisors_B = torch.where(greedy_B, 1.0, temperatures_B).float()
    logprobs_BV = torch.log_softmax(logits_BV / divisors_B[:, None], dim=-1)
    if bool(((top_ps_B < 1) & ~greedy_B).any()):
        logprobs_BV = _nucleus(logprobs_BV, torch.where(greedy_B, 1.0, top_ps_B))
    cumulative_BV = logprobs_BV.double().exp().cumsum(-1)
    # Below the total by more than a rounding, so that no token of probability 0 can follow it.
    targets_B = uniforms_B.clamp(max=1 - 2**-40) * cumulative_BV[:, -1]
    ids_B = torch.searchsorted(cumulative_BV, targets_B[:, None], right=True)[:, 0]
    ids_B = ids_B.clamp(max=logits_BV.shape[-1] - 1)
    if bool(greedy_B.any()):
        ids_B = torch.where(greedy_B, logits_BV.argmax(-1), ids_B)
    return ids_B, logprobs_BV.gather(-1, ids_B[:, None])[:, 0]


def perturbed(
    logits_BV: Tensor, deviations_B: Sequence[float], seeds_B: Sequence[Sequence[int]]
) -> Tensor:
    """Logits with Gaussian noise in the rows that have a deviation above 0: a fault on purpose.

    Args:
        logits_BV: left as they are.
        deviations_B: standard deviations.
        seeds_B: one seed a row; the noise depends on nothing else.
    """
    noisy_BV = logits_BV.clone()
    for row, (deviation, seed) in enumerate(zip(deviations_B, seeds_B, strict=True)):
        if deviation > 0:
            noise_V = np.random.default_rng(seed).normal(0, deviation, logits_BV.shape[-1])
            noisy_BV[row] += torch.from_numpy(noise_V).to(noisy_BV)
    return noisy_BV


def _nucleus(logprobs_BV: Tensor, top_ps_B: Tensor) -> Tensor:
    """Keep tokens until their mass reaches top_p (arXiv 1904.09751), then renormalise."""
    sorted_BV, order_BV = logprobs_BV.sort(dim=-1, descending=True, stable=True)
    mass_BV = sorted_BV.double().exp()
    before_BV = mass_BV.cumsum(-1) - mass_BV
    drop_BV = (before_BV >= top_ps_B[:, None].double()) & (top_ps_B[:, None] < 1)
    drop_BV[:, 0] = False
    kept_BV = logprobs_BV.masked_fill(
        torch.zeros_like(drop_BV).scatter(-1, order_BV, drop_BV), float("-inf")
    )
    return torch.log_softmax(kept_BV, dim=-1)
