"""The gradient that a perturbed sampler leads to, by listing every outcome of small bandits.

Nothing is sampled: each expectation is a sum over all outcomes, weighted by their probabilities
under the sampler, and gradients are autograd's through our own objective and corrections.
"""

import math

import pytest
import torch

from rlagents.algos.corrections import importance_weights
from rlagents.algos.objectives import clipped, log_ratio

# Five arms. The sampler thinks too little of the last one: the ratios policy / sampler are
# 1.333, 0.857, 0.75, 0.769 and 2.5.
POLICY = torch.tensor([0.40, 0.30, 0.15, 0.10, 0.05], dtype=torch.float64)
SAMPLER = torch.tensor([0.30, 0.35, 0.20, 0.13, 0.02], dtype=torch.float64)
REWARDS = torch.tensor([1.0, 0.0, 2.0, 0.0, -1.0], dtype=torch.float64)
# J = 0.4 + 0.3 - 0.05 = 0.65, and dJ / dlogit_k = policy_k (reward_k - J). Its norm is 0.3312.
TRUE = torch.tensor([0.14, -0.195, 0.2025, -0.065, -0.0825], dtype=torch.float64)

TIS = {"weight": "truncate", "low": 0.0, "high": 2.0}
ICEPOP = {"weight": "mask", "low": 0.5, "high": 2.0}
FULL = {"weight": "truncate", "low": 0.0, "high": math.inf}


def weights(policy, sampler, level="token", *, rule):
    """Weights of log-probabilities [P, T], a unit a path."""
    if rule is None:
        return torch.ones_like(policy)
    units = torch.arange(len(policy)).unsqueeze(1).repeat(1, policy.shape[1])
    return importance_weights(policy, sampler, units, level=level, **rule)


def expected(logits, logprobs, sampler, rewards, *, rule, level="token"):
    """The expected gradient of a path's loss by `logits`, to be maximised: sum over all paths.

    `logprobs` and `sampler` are [P, T] of every path's actions; the baseline is the sampler's mean
    reward, which is what the mean of a large group is.
    """
    probability = sampler.sum(1).exp()
    torch.testing.assert_close(probability.sum(), torch.ones_like(probability.sum()))
    advantages = (rewards - probability @ rewards).unsqueeze(1).repeat(1, logprobs.shape[1])
    ratio = log_ratio(logprobs, logprobs.detach())
    terms = clipped(ratio, advantages, low=0.2, high=0.2)
    terms = weights(logprobs, sampler, level, rule=rule) * terms
    (gradient,) = torch.autograd.grad(-(probability @ terms.sum(1)), logits, retain_graph=True)
    return gradient


def bias(logits, logprobs, sampler, rewards, *, rule, level="token"):
    """Distance of the expected gradient from the true one, relative to the latter."""
    value = logprobs.sum(1).exp() @ rewards
    (true,) = torch.autograd.grad(value, logits, retain_graph=True)
    found = expected(logits, logprobs, sampler, rewards, rule=rule, level=level)
    return ((found - true).norm() / true.norm()).item()


def by_hand():
    logits = POLICY.log().requires_grad_()
    return logits, logits.log_softmax(0).unsqueeze(1), SAMPLER.log().unsqueeze(1), REWARDS


# Baseline 0.3 + 0.4 - 0.02 = 0.68, advantages (0.32, -0.68, 1.32, -0.68, -1.68).
# Uncorrected: sampler_k A_k, since the sampler's mean advantage is 0.
# Truncated at 2: only the last arm's weight differs from the ratio, by -0.5, which adds
# 0.02 x (-0.5) x (-1.68) = 0.0168 times (onehot(last) - policy) to the true gradient.
# Masked: its weight is 0, a difference of -2.5, so 0.02 x (-2.5) x (-1.68) = 0.084 times the same.
TOWARDS_LAST = torch.tensor([-0.40, -0.30, -0.15, -0.10, 0.95], dtype=torch.float64)


@pytest.mark.parametrize(
    ("rule", "gradient", "relative"),
    [
        (None, torch.tensor([0.096, -0.238, 0.264, -0.0884, -0.0336]).double(), 0.3095),
        (FULL, TRUE, 0.0),
        (TIS, TRUE + 0.0168 * TOWARDS_LAST, 0.0552),
        (ICEPOP, TRUE + 0.084 * TOWARDS_LAST, 0.2761),
    ],
    ids=["uncorrected", "full", "tis", "icepop"],
)
def test_expected_gradients_of_a_bandit_by_hand(rule, gradient, relative):
    bandit = by_hand()
    torch.testing.assert_close(expected(*bandit, rule=rule), gradient, rtol=0, atol=1e-8)
    assert bias(*bandit, rule=rule) == pytest.approx(relative, abs=1e-4)


def test_full_weights_are_unbiased_with_a_baseline_from_the_groups_own_members():
    # All 25 groups of two members. R_i - mean R = (R_i - R_j) / 2, so the expectation is the true
    # gradient times (G - 1) / G = 1/2: the leave-one-out baseline scaled.
    logits = POLICY.log().requires_grad_()
    logprobs = logits.log_softmax(0)
    first, second = torch.cartesian_prod(torch.arange(5), torch.arange(5)).T
    group = torch.stack([first, second], dim=1)
    advantages = REWARDS[group] - REWARDS[group].mean(1, keepdim=True)
    weight = weights(logprobs[group], SAMPLER.log()[group], rule=FULL)
    loss = -(weight * advantages * logprobs[group]).mean(1)
    probability = SAMPLER[first] * SAMPLER[second]
    (gradient,) = torch.autograd.grad(-(probability @ loss), logits)
    torch.testing.assert_close(gradient, TRUE / 2, rtol=0, atol=1e-12)


def random_bandit(seed, noise, turns):
    """Logits N(0, 1), the sampler's with N(0, noise^2) added; every path of `turns` actions."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    paths = torch.cartesian_prod(*[torch.arange(5)] * turns).reshape(-1, turns)
    prefixes = {prefix: i for i, prefix in enumerate(sorted(
        {tuple(path[:t]) for path in paths.tolist() for t in range(turns)}
    ))}  # fmt: skip
    states = torch.tensor(
        [[prefixes[tuple(path[:t])] for t in range(turns)] for path in paths.tolist()]
    )
    logits = normal(len(prefixes), 5).requires_grad_()
    sampler = logits.detach() + noise * normal(len(prefixes), 5)
    return (
        logits,
        logits.log_softmax(1)[states, paths],
        sampler.log_softmax(1)[states, paths],
        normal(len(paths)),
    )


def mean_bias(noise, turns, *, rule, level="token", bandits=20):
    found = [
        bias(*random_bandit(seed, noise, turns), rule=rule, level=level) for seed in range(bandits)
    ]
    return sum(found) / len(found)


@pytest.mark.parametrize("noise", [0.1, 0.3, 1.0])
def test_truncation_reduces_the_bias_of_one_turn_at_every_noise(noise):
    uncorrected = mean_bias(noise, 1, rule=None)
    assert uncorrected > 0.5 * noise
    assert mean_bias(noise, 1, rule=TIS) < 0.6 * uncorrected
    assert mean_bias(noise, 1, rule=FULL) < 1e-12


def test_a_mask_reduces_the_bias_of_a_small_mismatch_and_not_of_a_large_one():
    assert mean_bias(0.1, 1, rule=ICEPOP) < 1e-12  # no ratio leaves 0.5 to 2
    assert mean_bias(0.3, 1, rule=ICEPOP) < 0.5 * mean_bias(0.3, 1, rule=None)
    assert mean_bias(1.0, 1, rule=ICEPOP) > 0.9 * mean_bias(1.0, 1, rule=None)


def test_over_turns_only_sequence_weights_correct_the_prefixes():
    uncorrected = mean_bias(0.3, 2, rule=None)
    token = mean_bias(0.3, 2, rule=FULL)
    assert 0.5 * uncorrected < token < 0.9 * uncorrected
    assert mean_bias(0.3, 2, rule=TIS) < 0.9 * uncorrected
    assert mean_bias(0.3, 2, rule=ICEPOP) < uncorrected
    assert mean_bias(0.3, 2, rule=FULL, level="sequence") < 1e-12
    assert mean_bias(0.3, 2, rule=TIS, level="sequence") < 0.2 * uncorrected
