"""Shaping, filtering, losses and the algorithm that puts them together, by hand."""

import math

import numpy as np
import pytest
import torch

from rlagents.algos.configs import (
    ALGORITHM_CONFIGS,
    GRPOConfig,
    OverlongConfig,
    TruncationConfig,
    algorithm_config,
)
from rlagents.algos.grpo import GRPO
from rlagents.algos.losses import clip_indicators, clipped_surrogate, k3_divergence
from rlagents.algos.registry import ALGORITHMS, make
from rlagents.algos.sampling import zero_variance
from rlagents.algos.shaping import soft_overlong
from rlagents.errors import ConfigError
from rlagents.types import StopReason
from tests.fakes import scored_group


def log(*ratios):
    return torch.tensor([math.log(r) for r in ratios])


def test_soft_overlong_ramp():
    # Limit 10, cache 4: free up to 6, half-way at 8, -1 at 10, and never below.
    values = soft_overlong(np.array([5, 6, 8, 10, 50], np.int32), limit=10, cache=4, factor=1.0)
    np.testing.assert_allclose(values, [0, 0, -0.5, -1, -1])


def test_soft_overlong_switched_off_and_as_a_step():
    lengths = np.array([1, 11], np.int32)
    assert (soft_overlong(lengths, limit=0, cache=0, factor=1.0) == 0).all()
    np.testing.assert_allclose(soft_overlong(lengths, limit=10, cache=0, factor=0.5), [0, -0.5])


def test_zero_variance_looks_only_at_those_who_count():
    scores = np.array([1, 1, 0, np.nan], np.float32)
    assert not zero_variance(scores, np.array([True, True, True, True]))
    assert zero_variance(scores, np.array([True, True, False, True]))


def test_clipped_surrogate_on_a_two_by_three_table():
    # Ratios 0.5, 1, 2 with advantage +1 and -1; bounds 0.8 and 1.28.
    policy = log(0.5, 1, 2).repeat(2, 1)
    behaviour = torch.zeros(2, 3)
    advantages = torch.tensor([[1.0] * 3, [-1.0] * 3])
    terms = clipped_surrogate(policy, behaviour, advantages, clip_low=0.2, clip_high=0.28)
    expected = [[-0.5, -1.0, -1.28], [0.8, 1.0, 2.0]]
    torch.testing.assert_close(terms, torch.tensor(expected))
    low, high = clip_indicators(policy, behaviour, advantages, clip_low=0.2, clip_high=0.28)
    assert low.tolist() == [[0, 0, 0], [1, 0, 0]]
    assert high.tolist() == [[0, 0, 1], [0, 0, 0]]


def test_on_policy_gradient_is_that_of_reinforce():
    policy = torch.tensor([-1.0, -2.0], requires_grad=True)
    advantages = torch.tensor([0.5, -2.0])
    clipped_surrogate(
        policy, policy.detach(), advantages, clip_low=0.2, clip_high=0.2
    ).sum().backward()
    torch.testing.assert_close(policy.grad, -advantages)


def test_clipped_token_gets_no_gradient():
    policy = log(2.0, 0.5).requires_grad_()
    advantages = torch.tensor([1.0, -1.0])
    clipped_surrogate(
        policy, torch.zeros(2), advantages, clip_low=0.2, clip_high=0.28
    ).sum().backward()
    assert policy.grad is not None and policy.grad.tolist() == [0, 0]


def test_extreme_log_ratios_stay_finite():
    terms = clipped_surrogate(
        torch.tensor([500.0, -500.0]),
        torch.zeros(2),
        torch.tensor([-1.0, -1.0]),
        clip_low=0.2,
        clip_high=0.2,
    )
    assert torch.isfinite(terms).all()


def test_k3_by_hand():
    # d = ln 2: exp(-d) + d - 1 = 0.5 + 0.6931 - 1 = 0.1931; equal policies diverge by 0.
    torch.testing.assert_close(
        k3_divergence(log(2, 1), torch.zeros(2)), torch.tensor([math.log(2) - 0.5, 0.0])
    )


def test_objective_gradient_agrees_with_finite_differences():
    torch.manual_seed(0)
    policy = torch.randn(6, dtype=torch.float64) * 0.1
    behaviour = torch.randn(6, dtype=torch.float64) * 0.1
    reference = torch.randn(6, dtype=torch.float64) * 0.1
    advantages = torch.randn(6, dtype=torch.float64)
    algorithm = GRPO(GRPOConfig(kl_coef=0.3))
    columns = {
        "behaviour_logprobs": behaviour,
        "advantages": advantages,
        "reference_logprobs": reference,
    }
    assert torch.autograd.gradcheck(
        lambda p: algorithm.loss_terms(p, columns)[0], policy.requires_grad_()
    )


def test_advantages_are_constant_over_turns_and_share_the_group_mean():
    group = scored_group(scores=[0.0, 1.0], turns=[3, 2])
    (credits,) = GRPO(GRPOConfig(scale="none")).advantages([group])
    assert [c.advantages.tolist() for c in credits] == [[-0.5] * 3, [0.5] * 2]
    assert all(c.gradient for c in credits)


@pytest.mark.parametrize(
    ("policy", "advantages", "gradient"),
    [
        (TruncationConfig(), [-1, 0, 1], [True, True, True]),
        # Out of the statistics: mean of (0, 1) is 0.5; the cut member keeps its value.
        (TruncationConfig(statistics=False), [-0.5, 0.5, 1.5], [True, True, True]),
        # Its reward does not count: scores (0, 1, 0), mean 1/3.
        (TruncationConfig(reward=False), [-1 / 3, 2 / 3, -1 / 3], [True, True, True]),
        (TruncationConfig(gradient=False), [-1, 0, 1], [True, True, False]),
    ],
)
def test_truncation_is_three_separate_facts(policy, advantages, gradient):
    group = scored_group(
        scores=[0.0, 1.0, 2.0],
        stops=[StopReason.TERMINATED, StopReason.TERMINATED, StopReason.TURN_LIMIT],
    )
    (credits,) = GRPO(GRPOConfig(scale="none", truncation=policy)).advantages([group])
    np.testing.assert_allclose([c.advantages[0] for c in credits], advantages, atol=1e-6)
    assert [c.gradient for c in credits] == gradient


def test_failed_member_has_no_part_in_anything():
    group = scored_group(
        scores=[0.0, 2.0, float("nan")],
        stops=[StopReason.TERMINATED] * 2 + [StopReason.ENVIRONMENT_ERROR],
    )
    (credits,) = GRPO(GRPOConfig(scale="none")).advantages([group])
    assert [float(c.advantages[0]) for c in credits] == [-1, 1, 0]
    assert [c.gradient for c in credits] == [True, True, False]


def test_groups_without_signal_are_rejected_by_name():
    algorithm = GRPO(GRPOConfig(filter_zero_variance=True))
    assert algorithm.reject(scored_group(scores=[1.0, 1.0])) == "zero_variance"
    assert algorithm.reject(scored_group(scores=[1.0, float("nan")])) == "too_few_scores"
    assert algorithm.reject(scored_group(scores=[1.0, 0.0])) is None
    assert GRPO(GRPOConfig()).reject(scored_group(scores=[1.0, 1.0])) is None


def test_overlong_punishment_reaches_the_scores():
    # Three turns of one token each: limit 3, cache 2 gives -1 at 3 tokens.
    config = GRPOConfig(overlong=OverlongConfig(limit=3, cache=2, factor=1.0))
    group = scored_group(scores=[1.0, 1.0], turns=[3, 1])
    assert GRPO(config).shaped_scores(group).tolist() == [0.0, 1.0]


def test_every_name_has_a_schema_and_a_class():
    assert set(ALGORITHMS) == set(ALGORITHM_CONFIGS)
    for name, schema in ALGORITHM_CONFIGS.items():
        assert schema().name == name
        assert make(schema()).columns == ()


def test_unknown_algorithm_names_the_nearest():
    with pytest.raises(ConfigError, match=r"algo.name.*'grpo_p'.*did you mean 'grpo_pp'"):
        algorithm_config("grpo_p")


def test_bad_values_name_the_full_key():
    with pytest.raises(ConfigError, match=r"algo.clip_low: expected between 0 and 1, got 2"):
        GRPOConfig(clip_low=2)
