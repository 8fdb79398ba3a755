"""Estimates of KL(policy || reference), one a token. Legend: n trained tokens."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from rlagents.algos import objectives
from rlagents.algos.units import same_shape

Estimator = Literal["k1", "k2", "k3", "unbiased"]


def divergence(
    policy_logprobs: Tensor,
    reference_logprobs: Tensor,
    estimator: Estimator,
    log_ratio: Tensor | None = None,
) -> Tensor:
    """[n] terms to be minimised, with d = log policy - log reference, clamped to +-20.

        k1        d                   mean over sampled tokens: the KL; mean gradient: zero
        k2        d^2 / 2             biased; gradient of KL(policy || reference)
        k3        exp(-d) - 1 + d     the KL, never negative; gradient of KL(reference || policy)
        unbiased  r (exp(-d) - 1 + d) the KL; gradient of KL(policy || reference)

    Valid for tokens sampled from the policy; `unbiased`, whose ratio r carries gradient, also for
    tokens sampled from the proximal policy. As a loss, k1 does nothing on average: it is there to
    be looked at. The four differ wherever the policy has left the reference, on-policy too, and
    beyond |d| = 20 none has a gradient but through r.

    Sources: k1 to k3, Schulman, joschu.net/blog/kl-approx.html; k3 in GRPO, arXiv 2402.03300,
    equation 4; `unbiased`, DeepSeek-V3.2, arXiv 2512.02556.

    Args:
        policy_logprobs: [n] with gradient.
        reference_logprobs: [n].
        estimator: one of the table.
        log_ratio: [n] log r from `objectives.log_ratio`, read by `unbiased` alone.

    Raises:
        ValueError: where shapes differ, `unbiased` is without log-ratios, or the estimator is
            none of the table.
    """
    difference = objectives.log_ratio(policy_logprobs, reference_logprobs)
    match estimator:
        case "k1":
            return difference
        case "k2":
            return difference.square() / 2
        case "k3":
            return _k3(difference)
        case "unbiased":
            if log_ratio is None:
                raise ValueError("estimator 'unbiased': expected log-ratios [n], got None")
            same_shape(difference, log_ratio)
            return _k3(difference) * log_ratio.exp()
        case _:
            raise ValueError(
                f"estimator: expected 'k1', 'k2', 'k3' or 'unbiased', got {estimator!r}"
            )


def _k3(difference: Tensor) -> Tensor:
    # expm1: in fp32, exp(-d) - 1 + d is all rounding where d is below 1e-3.
    return torch.expm1(-difference) + difference
