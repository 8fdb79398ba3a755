"""Every objective and every divergence under one signature: (policy [n], batch) -> terms [n]."""

import torch

from rlagents.algos import objectives
from rlagents.algos.divergences import divergence
from rlagents.algos.units import unit_lengths, unit_means, unit_sums

LOW, HIGH = 0.2, 0.28
BOUNDS = {"low": LOW, "high": HIGH}
GAMMA = {"k_positive": 2.0, "lambda_positive": 3.0, "k_negative": 3.0, "lambda_negative": 2.0}
DOUBLE = torch.float64


def ratio_of(policy, batch):
    return objectives.log_ratio(policy, batch["proximal"])


OBJECTIVES = {
    "clip": lambda p, b: objectives.clipped(ratio_of(p, b), b["advantages"], **BOUNDS),
    "dual": lambda p, b: objectives.clipped(ratio_of(p, b), b["advantages"], **BOUNDS, dual=3.0),
    "two_sided": lambda p, b: objectives.clipped(
        ratio_of(p, b), b["advantages"], **BOUNDS, ceiling=4.0
    ),
    "gspo": lambda p, b: objectives.gspo(
        ratio_of(p, b), b["unit_log_ratio"], b["unit_advantages"], **BOUNDS
    ),
    "gspo_token": lambda p, b: objectives.gspo(
        ratio_of(p, b), b["unit_log_ratio"], b["advantages"], **BOUNDS
    ),
    "luspo": lambda p, b: OBJECTIVES["gspo"](p, b) * b["unit_lengths"],
    "gmpo": lambda p, b: objectives.gmpo(
        ratio_of(p, b), b["unit_clipped"], b["unit_advantages"], **BOUNDS
    ),
    "cispo": lambda p, b: objectives.cispo(p, ratio_of(p, b), b["advantages"], **BOUNDS),
    "sapo": lambda p, b: objectives.sapo(
        ratio_of(p, b), b["advantages"], positive=1.0, negative=1.05
    ),
    "vespo": lambda p, b: objectives.vespo(p, b["vespo_weight"], b["unit_advantages"]),
    "k1": lambda p, b: divergence(p, b["reference"], "k1"),
    "k2": lambda p, b: divergence(p, b["reference"], "k2"),
    "k3": lambda p, b: divergence(p, b["reference"], "k3"),
    "unbiased": lambda p, b: divergence(p, b["reference"], "unbiased", ratio_of(p, b)),
}
POLICY_OBJECTIVES = [name for name in OBJECTIVES if name not in ("k1", "k2", "k3", "unbiased")]
SEQUENCE_ADVANTAGE = ("gspo", "luspo", "gmpo", "vespo")


def with_columns(policy, proximal, advantages, units, reference=None):
    """A batch with the columns of the pre-pass, made at this policy over all of its tokens."""
    log_ratio = objectives.log_ratio(policy.detach(), proximal)
    shared = unit_means(advantages, units)
    return {
        "proximal": proximal,
        "reference": proximal - 0.3 if reference is None else reference,
        "advantages": advantages,
        "units": units,
        "unit_advantages": shared,
        "unit_lengths": unit_lengths(units).to(policy.dtype),
        "unit_log_ratio": unit_means(log_ratio, units),
        "unit_clipped": unit_means(objectives.gmpo_log_ratio(log_ratio, shared, **BOUNDS), units),
        "vespo_weight": objectives.vespo_weight(unit_sums(log_ratio, units), shared, **GAMMA),
    }


def gradient(terms_of, policy, weights=None):
    policy = policy.clone().requires_grad_()
    terms = terms_of(policy)
    (terms if weights is None else terms * weights).sum().backward()
    return policy.grad


def unit_weights(units):
    """The aggregation `sequence_mean`: 1 / (units x tokens of the unit)."""
    return 1 / (len(units.unique()) * unit_lengths(units).to(DOUBLE))
