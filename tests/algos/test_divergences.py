"""Estimates of the KL: values by hand, and what their gradients are on average, by enumeration."""

import math

import pytest
import torch

from rlagents.algos.divergences import divergence
from rlagents.algos.objectives import log_ratio

ESTIMATORS = ("k1", "k2", "k3", "unbiased")


def logs(*rows):
    return torch.tensor([[math.log(ratio) for ratio in row] for row in rows])


def test_by_hand():
    # d = ln 2, 0, -ln 2 in the first row, and ln 4 twice and 0 in the second.
    d = logs([2, 1, 1 / 2], [4, 4, 1])
    reference = torch.full((2, 3), -3.0)
    two, four = math.log(2), math.log(4)
    expected = {
        "k1": [[two, 0, -two], [four, four, 0]],
        "k2": [[two**2 / 2, 0, two**2 / 2], [four**2 / 2, four**2 / 2, 0]],
        # 1/2 - 1 + ln 2; 0; 2 - 1 - ln 2; 1/4 - 1 + ln 4.
        "k3": [[two - 0.5, 0, 1 - two], [four - 0.75, four - 0.75, 0]],
        # The same times ratios 3, 3, 3 and 1, 1/2, 1/2.
        "unbiased": [[3 * two - 1.5, 0, 3 - 3 * two], [four - 0.75, four / 2 - 0.375, 0]],
    }
    ratio = logs([3, 3, 3], [1, 1 / 2, 1 / 2])
    for estimator in ESTIMATORS:
        terms = divergence(reference + d, reference, estimator, ratio)
        torch.testing.assert_close(terms, torch.tensor(expected[estimator]), rtol=1e-5, atol=1e-6)


POLICY = torch.tensor([0.3, -1.0, 0.8, 0.0], dtype=torch.float64)
REFERENCE = torch.tensor([-0.4, 0.5, 0.1, 0.2], dtype=torch.float64).log_softmax(0)
PROXIMAL = torch.tensor([0.0, -0.2, 0.4, 0.6], dtype=torch.float64).log_softmax(0)


def gradient(of):
    """Value of a function of the policy's log-probabilities, and its gradient by the logits."""
    logits = POLICY.clone().requires_grad_()
    value = of(logits.log_softmax(0))
    (found,) = torch.autograd.grad(value, logits)
    return value.detach(), found


def expected_terms(estimator, sampler=None):
    """The mean over tokens from the sampler, the policy by default, over all four tokens."""

    def of(policy):
        behind = policy.detach() if sampler is None else sampler
        terms = divergence(policy, REFERENCE, estimator, log_ratio(policy, behind))
        return (behind.exp() * terms).sum()

    return gradient(of)


def forward_kl(policy):
    return (policy.exp() * (policy - REFERENCE)).sum()


def reverse_kl(policy):
    return (REFERENCE.exp() * (REFERENCE - policy)).sum()


def test_which_divergence_each_estimates_and_which_it_descends():
    kl, kl_gradient = gradient(forward_kl)
    _, reverse_gradient = gradient(reverse_kl)
    for estimator, value, found in (
        ("k1", kl, torch.zeros_like(POLICY)),
        ("k2", None, kl_gradient),
        ("k3", kl, reverse_gradient),
        ("unbiased", kl, kl_gradient),
    ):
        mean, mean_gradient = expected_terms(estimator)
        torch.testing.assert_close(mean_gradient, found)
        if value is not None:
            torch.testing.assert_close(mean, value)


def test_unbiased_is_so_under_a_sampler_that_is_not_the_policy():
    mean, mean_gradient = expected_terms("unbiased", sampler=PROXIMAL)
    kl, kl_gradient = gradient(forward_kl)
    torch.testing.assert_close(mean, kl)
    torch.testing.assert_close(mean_gradient, kl_gradient)


@pytest.mark.parametrize("scale", [1e-2, 1e-3, 1e-4])
def test_k3_of_a_small_difference_is_not_lost_in_rounding(scale):
    # k3 = d^2 / 2 - d^3 / 6 + ..., 5e-9 for d = 1e-4; written plainly fp32 gives -2e-8.
    d = torch.tensor([scale])
    k3 = divergence(d, torch.zeros(1), "k3").item()
    assert k3 == pytest.approx(scale**2 / 2 - scale**3 / 6, rel=1e-2)


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_extremes_stay_finite(estimator):
    policy = torch.tensor([500.0, -500.0, 0.0], requires_grad=True)
    terms = divergence(policy, torch.zeros(3), estimator, log_ratio(policy, torch.zeros(3)))
    terms.sum().backward()
    assert policy.grad is not None
    assert torch.isfinite(terms).all() and torch.isfinite(policy.grad).all()


def test_callers_mistakes_are_named():
    zeros = torch.zeros(2, 3)
    with pytest.raises(ValueError, match="equal shapes"):
        divergence(zeros, torch.zeros(3), "k3")
    with pytest.raises(ValueError, match="equal shapes"):
        divergence(zeros, zeros, "unbiased", torch.zeros(2, 1))
    with pytest.raises(ValueError, match="expected log-ratios"):
        divergence(zeros, zeros, "unbiased")
    with pytest.raises(ValueError, match="got 'k4'"):
        divergence(zeros, zeros, "k4")
