"""Which tokens of a batch are trained, or penalised, by their entropy or their covariance.

Shapes: [n] the trained tokens of the whole batch, one dimension. Results are masks without
gradient. All rules rank tokens against the others of the batch, so they are computed once over all
of it, with the weights as they are just before the step; over a part of it they choose others.
"""

from __future__ import annotations

import torch
from torch import Tensor

from rlagents.algos.units import same_shape


def top_entropy(entropies_n: Tensor, fraction: float) -> Tensor:
    """[n] bool: entropy at or above the batch's (1 - fraction) quantile, interpolated linearly.

    Source: arXiv 2506.01939 (fraction 0.2): the tokens where a text could go on in several ways
    carry the learning. TRL's rule: a tie at the threshold keeps all who tie, so equal entropies
    keep every token. The quantile is ours because torch.quantile stops at 2**24 values.

    Raises:
        ValueError: unless 0 < fraction <= 1.
    """
    _check_fraction(fraction)
    count = len(entropies_n)
    if count == 0:
        return torch.zeros_like(entropies_n, dtype=torch.bool)
    values = entropies_n.detach()
    rank = (count - 1) * (1 - fraction)
    below = int(rank)
    lower = values.kthvalue(below + 1).values
    upper = values.kthvalue(min(below + 2, count)).values
    return values >= lower + (rank - below) * (upper - lower)


def covariances(logprobs_n: Tensor, advantages_n: Tensor) -> Tensor:
    """[n] (log pi - mean log pi) (A - mean A): each token's part of the batch's covariance.

    Source: arXiv 2505.22617. Large where a likely token is rewarded or an unlikely one
    punished: there a policy-gradient step takes away entropy.

    Raises:
        ValueError: where shapes differ.
    """
    same_shape(logprobs_n, advantages_n)
    logprobs_n = logprobs_n.detach()
    return (logprobs_n - logprobs_n.mean()) * (advantages_n - advantages_n.mean())


def clip_cov(
    covariances_n: Tensor, *, fraction: float, low: float, high: float, generator: torch.Generator
) -> Tensor:
    """[n] bool: False, no gradient, at fraction x n tokens drawn where low < covariance < high.

    The number is rounded down, and at least 1; fewer where there are fewer. Source: Clip-Cov, arXiv
    2505.22617; fraction 2e-4, bounds 1 and 5 as in verl. Tokens that the objective clips already
    are not to be drawn: give them a covariance of -inf. The draw is by position, so it depends on
    the order of the tokens and on the generator's state.

    Raises:
        ValueError: unless 0 < fraction <= 1.
    """
    candidates = ((covariances_n > low) & (covariances_n < high)).nonzero().squeeze(1)
    order = torch.randperm(len(candidates), generator=generator)
    keep = torch.ones_like(covariances_n, dtype=torch.bool)
    keep[candidates[order[: _number(fraction, len(covariances_n))]]] = False
    return keep


def kl_cov(covariances_n: Tensor, *, fraction: float) -> Tensor:
    """[n] bool: True at the fraction x n tokens of largest covariance, which are penalised.

    The number is rounded down, and at least 1; ties are cut anywhere. Source: KL-Cov, arXiv
    2505.22617; fraction 2e-4 as in verl, where the penalty is |log ratio| and its coefficient 1, on
    an *unclipped* surrogate. At a ratio of 1 that penalty has no gradient, so on-policy KL-Cov
    only matters from the second update on the same rollouts.

    Raises:
        ValueError: unless 0 < fraction <= 1.
    """
    chosen = torch.zeros_like(covariances_n, dtype=torch.bool)
    number = min(_number(fraction, len(covariances_n)), len(covariances_n))
    chosen[covariances_n.topk(number).indices] = True
    return chosen


def _number(fraction: float, count: int) -> int:
    _check_fraction(fraction)
    return max(int(fraction * count), 1)


def _check_fraction(fraction: float) -> None:
    if not 0 < fraction <= 1:
        raise ValueError(f"expected a fraction above 0, at most 1, got {fraction}")
