"""Corrections for a sampler that is not the policy: another engine, another precision, old weights.

Notation: d = log proximal - log behaviour of a token, clamped to +-20; rho = exp(d). *Proximal* is
the policy as the learner recomputes it, *behaviour* the one that sampled, as recorded. A unit is
the sequence that a rule looks at, a segment or a trajectory.

Shapes: [n] the trained tokens of the whole batch, or any other shape as long as it is the same
throughout; nothing is reduced. Results carry no gradient: a weight changes which distribution the
mean is over, not what is optimised. Weights multiply terms, and what a `keep_` function drops gets
a weight of 0; neither changes what the caller divides by (verl leaves rejected tokens out there).

Valid where the sampler could produce whatever the policy can, and its log-probabilities are those
of the distribution that it drew from (after temperature and top-p). Without a mismatch rho = 1 and
nothing here does anything.
"""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from rlagents.algos.objectives import LOG_RATIO_LIMIT, log_ratio
from rlagents.algos.units import same_shape, unit_means, unit_sums


def importance_weights(
    proximal: Tensor,
    behaviour: Tensor,
    units: Tensor,
    *,
    weight: Literal["truncate", "mask"],
    level: Literal["token", "sequence"],
    low: float,
    high: float,
) -> Tensor:
    """[n] rho bounded to [low, high] (`truncate`), or rho, and 0 where it is outside (`mask`).

    With `level="sequence"` rho is the product over the unit, exp(sum d) with the sum clamped to
    +-20, and the same at each of its tokens.

    Sources: truncated importance sampling for sampler and learner that disagree, Yao et al. 2025
    (fengyao.notion.site/off-policy-rl; token 2, sequence 2 to 10 are usual `high`s, `low` 0); masks
    are IcePop, arXiv 2510.18855 (0.5 and 2). Agrees with TRL's four modes while |d| and |sum d| are
    at most 20.

    Unbounded sequence weights are unbiased and their variance grows exponentially with length.
    Token weights correct each token given its prefix and leave the prefixes those of the sampler: a
    bias that grows with length. Truncation moves the weights towards the sampler; a mask removes
    tokens of large rho however good they are, so it is for ratios that are errors rather than
    information.

    Raises:
        ValueError: where shapes differ, or unless 0 <= low < high.
    """
    if not 0 <= low < high:
        raise ValueError(f"expected 0 <= low < high, got {low}, {high}")
    difference = log_ratio(proximal.detach(), behaviour)
    if level == "sequence":
        difference = unit_sums(difference, units).clamp(-LOG_RATIO_LIMIT, LOG_RATIO_LIMIT)
    rho = difference.exp()
    if weight == "truncate":
        return rho.clamp(low, high)
    return rho.where((rho >= low) & (rho <= high), 0)


def keep_geometric(
    proximal: Tensor, behaviour: Tensor, units: Tensor, *, low: float, high: float
) -> Tensor:
    """[n] bool: low <= exp(mean d over the unit) <= high.

    Source: verl's rejection by the geometric mean of rho (its `seq_mean_k1`; 0.999 and 1.001). The
    mean does not grow with the unit's length as the product does, so one pair of bounds serves
    short and long sequences; ratios of opposite sign cancel in it, which `keep_k3` does not allow.

    Raises:
        ValueError: where shapes differ.
    """
    mean = unit_means(log_ratio(proximal.detach(), behaviour), units).exp()
    return (mean >= low) & (mean <= high)


def keep_k3(proximal: Tensor, behaviour: Tensor, units: Tensor, *, limit: float) -> Tensor:
    """[n] bool: the unit's mean of exp(d) - 1 - d is at most `limit`.

    The mean estimates KL(behaviour || proximal), each term is at least 0, and a single token with
    d = 20 rejects any unit. Source: verl's `seq_mean_k3` (0.01).

    Raises:
        ValueError: where shapes differ.
    """
    difference = log_ratio(proximal.detach(), behaviour)
    return unit_means(difference.exp() - 1 - difference, units) <= limit


def keep_near_policy(
    behaviour: Tensor, policy: Tensor, advantages: Tensor, units: Tensor, *, limit: float
) -> Tensor:
    """[n] bool: advantage >= 0, or the unit's mean of log(behaviour / policy) <= limit.

    What the policy has come to find unlikely teaches little by being pushed down further. Source:
    the off-policy sequence mask of DeepSeek-V3.2, arXiv 2512.02556, equation 9; 0.5 is a usual
    limit. `policy` is the one being trained, as it is just before the step, so that both causes
    count: the sampler's mismatch and the updates since. Where turns of a unit have advantages of
    both signs, only the tokens below 0 are dropped, as in TRL.

    Raises:
        ValueError: where shapes differ.
    """
    same_shape(advantages, policy)
    distance = unit_means(-log_ratio(policy.detach(), behaviour), units)
    return (advantages >= 0) | (distance <= limit)


def normalised(weights: Tensor) -> Tensor:
    """[n] weights over their mean, so that correction does not change the size of a step.

    Self-normalised importance sampling over the batch's trained tokens: biased, by an amount that
    falls with the size of the batch. Apply it after bounding. Where every weight is 0 they stay 0.
    Deviation: verl averages sequence weights over sequences; we average over tokens at both levels.
    """
    mean = weights.mean()
    return weights / mean.where(mean > 0, 1)
