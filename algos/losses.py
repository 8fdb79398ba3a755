"""Per-token objectives, to be minimised. Masks, weights and normalisation are the caller's.

All tensors have one shape, [n] or [B, T]; the ratio is r = exp(policy - behaviour).
"""

from __future__ import annotations

import torch
from torch import Tensor

LOG_RATIO_LIMIT = 20.0
"""Log-ratios are clamped here before exp, as verl does: exp(20) is finite in fp32."""


def log_ratio(policy_logprobs: Tensor, behaviour_logprobs: Tensor) -> Tensor:
    """The logarithm of the ratio r, clamped to +-20."""
    _same_shape(policy_logprobs, behaviour_logprobs)
    return (policy_logprobs - behaviour_logprobs).clamp(-LOG_RATIO_LIMIT, LOG_RATIO_LIMIT)


def clipped_surrogate(
    policy_logprobs: Tensor,
    behaviour_logprobs: Tensor,
    advantages: Tensor,
    *,
    clip_low: float,
    clip_high: float,
) -> Tensor:
    """-min(r A, clip(r, 1 - clip_low, 1 + clip_high) A).

    Source: PPO, arXiv 1707.06347, equation 7; separate bounds are DAPO's clip-higher, arXiv
    2503.14476. The bounds only matter when a batch gets two or more updates, or when the sampler
    and the learner disagree: on-policy r = 1 and the gradient is that of -A log pi.
    """
    ratio = log_ratio(policy_logprobs, behaviour_logprobs).exp()
    _same_shape(ratio, advantages)
    clipped = ratio.clamp(1 - clip_low, 1 + clip_high)
    return -torch.minimum(ratio * advantages, clipped * advantages)


def clip_indicators(
    policy_logprobs: Tensor,
    behaviour_logprobs: Tensor,
    advantages: Tensor,
    *,
    clip_low: float,
    clip_high: float,
) -> tuple[Tensor, Tensor]:
    """1 where the lower and where the upper bound stops the gradient."""
    ratio = log_ratio(policy_logprobs.detach(), behaviour_logprobs).exp()
    low = (ratio < 1 - clip_low) & (advantages < 0)
    high = (ratio > 1 + clip_high) & (advantages > 0)
    return low.to(ratio.dtype), high.to(ratio.dtype)


def k3_divergence(policy_logprobs: Tensor, reference_logprobs: Tensor) -> Tensor:
    """exp(-d) + d - 1 with d = policy - reference: an estimate of KL(policy || reference) >= 0.

    Source: GRPO, arXiv 2402.03300, equation 4. Unbiased in value for tokens sampled from the
    policy; its gradient is not that of the KL.
    """
    difference = log_ratio(policy_logprobs, reference_logprobs)
    return torch.exp(-difference) + difference - 1


def _same_shape(first: Tensor, second: Tensor) -> None:
    if first.shape != second.shape:
        raise ValueError(f"expected equal shapes, got {tuple(first.shape)}, {tuple(second.shape)}")
