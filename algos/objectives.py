"""Token-level policy objectives: terms to be minimised. Legend: n trained tokens.

All tensors are [n], or any other shape as long as it is the same throughout. Nothing is masked,
weighted or reduced: that is the caller's. A policy objective in a paper is maximised; a term here
is its negative.

    log_ratio    log r = log policy - log proximal, with gradient; from `log_ratio`
    sg[x]        x without gradient
    unit         the sequence of a sequence-level term: a segment or a trajectory
    unit_*       columns [n] of a no-gradient pre-pass over whole units, made with the weights as
                 they are just before the step, each value repeated at all tokens of its unit

A sequence-level factor is a column times exp(log r - sg[log r]), which is 1 and carries the
gradient ("straight through"). So each term reads its own token only, and the gradient is the same
however the batch is split. It is that of the published objective as long as the weights are those
that the columns were made with.

When any of this matters: with log r = 0 every objective here but LUSPO has the gradient of
-A log policy, so on-policy the choice changes nothing. It matters from the second optimizer step
on the same rollouts (`updates`, `epochs`), or where the sampler is not the policy (older weights,
another engine) and `proximal` is `behaviour`.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from rlagents.algos.units import same_shape

LOG_RATIO_LIMIT = 20.0
"""Log-ratios are clamped here before exp: exp(20) times an advantage is finite in fp32."""

VESPO_FLOOR = math.log(1e-8)
"""Least logarithm of a sequence's ratio that VESPO tells from zero, as TRL has it."""


def log_ratio(policy_logprobs: Tensor, proximal_logprobs: Tensor) -> Tensor:
    """The logarithm of r = policy / proximal, clamped to +-20: beyond that it has no gradient.

    Raises:
        ValueError: where shapes differ.
    """
    same_shape(policy_logprobs, proximal_logprobs)
    return (policy_logprobs - proximal_logprobs).clamp(-LOG_RATIO_LIMIT, LOG_RATIO_LIMIT)


def clipped(
    log_ratio: Tensor,
    advantages: Tensor,
    *,
    low: float,
    high: float,
    dual: float = 0.0,
    ceiling: float = 0.0,
) -> Tensor:
    """-min(r A, clip(r, 1 - low, 1 + high) A), and two bounds for negative advantages.

    Sources: PPO, arXiv 1707.06347, equation 7; separate bounds are DAPO's clip-higher, arXiv
    2503.14476. With A < 0 the term grows without bound in r, which two papers stop:
    dual clip, arXiv 1912.09729, makes it at most dual |A|; two-sided clip, arXiv 2505.07291
    (INTELLECT-2), puts min(r, ceiling) in place of the first r. Above 1 + high they are the same
    function, so one of them is enough.

    Valid at and near the proximal policy: a bound that is reached stops the token's gradient.
    Matters where r leaves [1 - low, 1 + high]; `dual` and `ceiling` only where r is above them and
    A < 0. With r = 1 the gradient is that of -A log policy.

    Args:
        low: distance of the lower bound of r from 1; 1 is no bound.
        high: distance of the upper bound from 1.
        dual: above 1; 0 is off.
        ceiling: above 1 + high; 0 is off.

    Raises:
        ValueError: where shapes differ.
    """
    same_shape(log_ratio, advantages)
    ratio = log_ratio.exp()
    bounded = ratio.clamp(1 - low, 1 + high)
    if ceiling > 0:
        ratio = ratio.clamp(max=ceiling)
    terms = -torch.minimum(ratio * advantages, bounded * advantages)
    if dual > 0:
        terms = torch.where(advantages < 0, torch.minimum(terms, -dual * advantages), terms)
    return terms


def clip_indicators(
    log_ratio: Tensor, advantages: Tensor, *, low: float, high: float
) -> tuple[Tensor, Tensor]:
    """1 where the lower and where the upper bound of `clipped` stops the gradient, else 0.

    For GSPO hand in `unit_log_ratio`; for GMPO, whose bounds are logarithms, the bounds
    1 - exp(-low) and exp(high) - 1.

    Raises:
        ValueError: where shapes differ.
    """
    same_shape(log_ratio, advantages)
    ratio = log_ratio.exp()
    at_low = (ratio < 1 - low) & (advantages < 0)
    at_high = (ratio > 1 + high) & (advantages > 0)
    return at_low.to(ratio.dtype), at_high.to(ratio.dtype)


def gspo(
    log_ratio: Tensor, unit_log_ratio: Tensor, advantages: Tensor, *, low: float, high: float
) -> Tensor:
    """-min(s A, clip(s, 1 - low, 1 + high) A), s = sg[exp(unit_log_ratio)] exp(log r - sg[log r]).

    Source: arXiv 2507.18071; the sequence's ratio is the geometric mean of its tokens' ratios.
    Advantages that are equal in a unit make it GSPO, others GSPO-token. The sum of a unit's terms,
    over its length, has the gradient of the objective at the level of sequences: the paper's is the
    aggregation `sequence_mean`.

    LUSPO, arXiv 2602.05261, is these terms times `unit_lengths` under `sequence_mean`, which is
    GSPO under `sequence_sum`: long sequences weigh more, on-policy too.

    Valid near the proximal policy: s is a geometric mean, not the sequence's importance weight.
    Matters where r is not 1 and tokens of one unit differ in it: in a unit of one token this is
    `clipped`. Means of log-ratios are small, and so are useful bounds (3e-4 and 4e-4 in the paper).

    Args:
        unit_log_ratio: the mean of log r over the token's unit.
        low: distance of the lower bound of s from 1.
        high: distance of the upper bound from 1.

    Raises:
        ValueError: where shapes differ.
    """
    same_shape(log_ratio, unit_log_ratio, advantages)
    ratio = _through(unit_log_ratio, log_ratio)
    bounded = ratio.clamp(1 - low, 1 + high)
    return -torch.minimum(ratio * advantages, bounded * advantages)


def gmpo_log_ratio(log_ratio: Tensor, advantages: Tensor, *, low: float, high: float) -> Tensor:
    """min(log r, high) where A >= 0, max(log r, -low) where A < 0; no gradient where it binds.

    The token's factor of GMPO, whose bounds are logarithms (`gmpo`). Its mean over a unit is the
    column that `gmpo` reads.

    Raises:
        ValueError: where shapes differ.
    """
    same_shape(log_ratio, advantages)
    return torch.where(advantages >= 0, log_ratio.clamp(max=high), log_ratio.clamp(min=-low))


def gmpo(
    log_ratio: Tensor, unit_clipped: Tensor, advantages: Tensor, *, low: float, high: float
) -> Tensor:
    """-g A, g = sg[exp(unit_clipped)] exp(c - sg[c]), c the token's `gmpo_log_ratio`.

    Source: arXiv 2507.20673: the geometric mean of the tokens' ratios, each clipped before the
    mean, where GSPO clips the mean. A clipped token loses its gradient and no other does. The sum
    of a unit's terms, over its length, has the gradient of the objective at the level of sequences:
    the paper's is the aggregation `sequence_mean`.

    Valid near the proximal policy, with an advantage that is the same in a unit. Matters where r is
    not 1 and tokens of one unit differ in it. Bounds of 0.4 are usual: ratios of 0.67 to 1.49.

    Args:
        unit_clipped: the mean of `gmpo_log_ratio` over the token's unit.
        low: log r is bounded to -low where A < 0.
        high: log r is bounded to high where A >= 0.

    Raises:
        ValueError: where shapes differ.
    """
    same_shape(log_ratio, unit_clipped, advantages)
    bounded = gmpo_log_ratio(log_ratio, advantages, low=low, high=high)
    return -_through(unit_clipped, bounded) * advantages


def cispo(
    policy_logprobs: Tensor, log_ratio: Tensor, advantages: Tensor, *, low: float, high: float
) -> Tensor:
    """-sg[clip(r, 1 - low, 1 + high)] A log policy.

    Source: arXiv 2506.13585 (MiniMax-M1): REINFORCE with a truncated importance weight; no token
    loses its gradient. The paper bounds r from above only (low = 1).

    Valid near the proximal policy: the bound biases the gradient. Matters where r leaves
    [1 - low, 1 + high]; inside, the gradient is that of `clipped`.

    Args:
        low: distance of the lower bound of r from 1; 1 is no bound.
        high: distance of the upper bound from 1.

    Raises:
        ValueError: where shapes differ.
    """
    same_shape(policy_logprobs, log_ratio, advantages)
    weight = log_ratio.detach().exp().clamp(1 - low, 1 + high)
    return -weight * advantages * policy_logprobs


def sapo(log_ratio: Tensor, advantages: Tensor, *, positive: float, negative: float) -> Tensor:
    """-sigmoid(t (r - 1)) 4 / t A, with temperature t `positive` where A > 0, else `negative`.

    Source: arXiv 2511.20347: a smooth gate in place of a clip. Its slope at r = 1 is 1, so that
    on-policy the gradient is that of -A log policy; its value there is 2 / t. Away from 1 the
    gradient fades, the faster the higher the temperature.

    Valid near the proximal policy. Matters wherever r is not 1: the gate has no flat middle.

    Raises:
        ValueError: where shapes differ.
    """
    same_shape(log_ratio, advantages)
    temperature = _by_sign(advantages, positive, negative)
    gate = torch.sigmoid(temperature * (log_ratio.exp() - 1)) * 4 / temperature
    return -gate * advantages


def vespo_weight(
    unit_log_ratio_sum: Tensor,
    advantages: Tensor,
    *,
    k_positive: float,
    lambda_positive: float,
    k_negative: float,
    lambda_negative: float,
) -> Tensor:
    """W^k exp(lambda (1 - W)), W the ratio of the whole unit: the weight of `vespo`, no gradient.

    Source: arXiv 2602.10693. 1 where W = 1, and it falls to 0 for W far below and far above, so
    that no bound is needed. The pair (k, lambda) goes by the sign of the advantage.

    Valid where the advantage has one sign in a unit. Matters wherever W is not 1; W is a product
    over the tokens, so a long unit leaves 1 soon.

    Args:
        unit_log_ratio_sum: log W, the sum of log r over the token's unit. A correction for the
            sampler is added to it and not multiplied to the terms.

    Raises:
        ValueError: where shapes differ.
    """
    same_shape(unit_log_ratio_sum, advantages)
    log_w = unit_log_ratio_sum.detach().clamp(VESPO_FLOOR, LOG_RATIO_LIMIT)
    power = _by_sign(advantages, k_positive, k_negative)
    rate = _by_sign(advantages, lambda_positive, lambda_negative)
    return (power * log_w + rate * (1 - log_w.exp())).exp()


def vespo(policy_logprobs: Tensor, weight: Tensor, advantages: Tensor) -> Tensor:
    """-sg[weight] A log policy, the weight from `vespo_weight`.

    Source and conditions: `vespo_weight`.

    Raises:
        ValueError: where shapes differ.
    """
    same_shape(policy_logprobs, weight, advantages)
    return -weight.detach() * advantages * policy_logprobs


def _through(log_value: Tensor, carrier: Tensor) -> Tensor:
    """exp(log_value), with the gradient of exp(log_value) d carrier."""
    return log_value.detach().exp() * (carrier - carrier.detach()).exp()


def _by_sign(advantages: Tensor, positive: float, negative: float) -> Tensor:
    """A constant by the sign of the advantage; where that is 0, so is the term."""
    return torch.where(advantages >= 0, positive, negative)
