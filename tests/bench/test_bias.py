"""The closed form of the benchmark against autograd, and its table."""

import json
import math

import pytest
import torch

from rlagents.bench import bias


@pytest.mark.parametrize("turns", [1, 2])
def test_bias_and_variance_are_those_of_autograd(turns):
    bandit = bias.random_bandit(3, noise=0.7, turns=turns)
    logits = bandit.policy_SK.clone().requires_grad_()
    logprobs = bandit.logprobs(logits)
    sampled = bandit.logprobs(bandit.sampler_SK).sum(1).exp()
    assert sampled.sum().item() == pytest.approx(1)
    (true,) = torch.autograd.grad(
        logprobs.sum(1).exp() @ bandit.rewards_P, logits, retain_graph=True
    )
    found = bias.measure(bandit)
    for key, weights in bias.weights(bandit).items():
        terms = (weights * logprobs).sum(1) * bandit.advantages()
        each = torch.stack(
            [torch.autograd.grad(term, logits, retain_graph=True)[0].flatten() for term in terms]
        )
        mean = sampled @ each
        variance = sampled @ (each - mean).square().sum(1)
        size = true.norm()
        expected = ((mean - true.flatten()).norm() / size, variance / size**2)
        assert found[key] == pytest.approx([x.item() for x in expected], abs=1e-9)


def test_a_sampler_that_is_the_policy_has_no_bias():
    for value, _ in bias.measure(bias.random_bandit(0, noise=0.0, turns=3)).values():
        assert value < 1e-12


def test_the_table_has_a_row_for_each_length_noise_and_correction():
    result = bias.run(bandits=3, turns=(1, 2))
    assert len(result.rows) == 3 * 5 + 3 * 8
    full = [row for row in result.rows if row["weights"] == "full" and row["turns"] == 1]
    assert [row["bias"] for row in full] == [0, 0, 0]
    assert all(math.isfinite(row["variance"]) for row in json.loads(result.to_json())["rows"])
