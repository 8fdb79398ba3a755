"""Corrections for a sampler that is not the policy: by hand, at the extremes, and against TRL."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rlagents.algos.corrections import (
    importance_weights,
    keep_geometric,
    keep_k3,
    keep_near_policy,
    normalised,
)

# Two units whose tokens are interleaved, and the ratios rho = proximal / behaviour of their tokens.
# Unit 5: 4 x 0.1 x 1 = 0.4. Unit 2: 0.3 x 1.5 x 8 = 3.6.
UNITS = torch.tensor([5, 2, 5, 2, 5, 2])
RATIOS = [4.0, 0.3, 0.1, 1.5, 1.0, 8.0]


def logs(ratios):
    return torch.tensor([math.log(ratio) for ratio in ratios])


def weights(ratios=RATIOS, units=UNITS, **how):
    proximal = logs(ratios)
    return importance_weights(proximal, torch.zeros_like(proximal), units, **how)


@pytest.mark.parametrize(
    ("weight", "level", "expected"),
    [
        ("truncate", "token", [2.0, 0.5, 0.5, 1.5, 1.0, 2.0]),
        ("mask", "token", [0.0, 0.0, 0.0, 1.5, 1.0, 0.0]),
        ("truncate", "sequence", [0.5, 2.0, 0.5, 2.0, 0.5, 2.0]),
        ("mask", "sequence", [0.0, 0.0, 0.0, 0.0, 0.0, 0.0]),
    ],
)
def test_weights_by_hand_with_bounds_of_a_half_and_two(weight, level, expected):
    found = weights(weight=weight, level=level, low=0.5, high=2.0)
    torch.testing.assert_close(found, torch.tensor(expected))


def test_a_mask_keeps_the_sequence_weight_that_is_inside():
    # Unit 5 has 0.4, inside [0.3, 2]; unit 2 has 3.6, outside.
    found = weights(weight="mask", level="sequence", low=0.3, high=2.0)
    torch.testing.assert_close(found, torch.tensor([0.4, 0.0, 0.4, 0.0, 0.4, 0.0]))


def test_without_bounds_the_weights_are_the_ratios_and_their_products():
    free = {"weight": "truncate", "low": 0.0, "high": math.inf}
    torch.testing.assert_close(weights(level="token", **free), torch.tensor(RATIOS))
    products = torch.tensor([0.4, 3.6, 0.4, 3.6, 0.4, 3.6])
    torch.testing.assert_close(weights(level="sequence", **free), products)


def test_rejections_by_hand():
    # Unit 5: ratios 4 and 1/4. The geometric mean is 1; k3 is (4 - 1 - ln 4 + 1/4 - 1 + ln 4) / 2
    # = (3 - 0.75) / 2 = 1.125: the ratios cancel in the first and not in the second.
    # Unit 2: 1.002 twice. The geometric mean is 1.002; k3 is about 0.002 ** 2 / 2 = 2e-6.
    units = torch.tensor([5, 2, 5, 2])
    proximal = logs([4.0, 1.002, 0.25, 1.002])
    pair = (proximal, torch.zeros(4), units)
    assert keep_geometric(*pair, low=0.999, high=1.001).tolist() == [True, False, True, False]
    assert keep_geometric(*pair, low=0.999, high=1.003).tolist() == [True, True, True, True]
    assert keep_geometric(*pair, low=1.001, high=1.003).tolist() == [False, True, False, True]
    assert keep_k3(*pair, limit=0.01).tolist() == [False, True, False, True]
    assert keep_k3(*pair, limit=1.12).tolist() == [False, True, False, True]
    assert keep_k3(*pair, limit=1.13).tolist() == [True, True, True, True]
    assert keep_k3(*pair, limit=1e-6).tolist() == [False, False, False, False]


def test_k3_weighs_tokens_that_the_learner_finds_likelier_more():
    # Ratio 4: 4 - 1 - ln 4 = 1.61; ratio 1/4: 1/4 - 1 + ln 4 = 0.64.
    units = torch.tensor([0, 1])
    assert keep_k3(logs([4.0, 0.25]), torch.zeros(2), units, limit=1.0).tolist() == [False, True]


def test_off_policy_mask_by_hand():
    # Unit 5: mean log(behaviour / policy) = (1 + 0.2) / 2 = 0.6, far. Unit 2: (2 - 1.2) / 2 = 0.4.
    units = torch.tensor([5, 5, 2, 2])
    policy = torch.tensor([-2.0, -1.2, -3.0, -0.8])
    behaviour = torch.tensor([-1.0, -1.0, -1.0, -2.0])

    def kept(advantages):
        advantages = torch.tensor(advantages)
        return keep_near_policy(behaviour, policy, advantages, units, limit=0.5).tolist()

    assert kept([-1.0, -1.0, -1.0, -1.0]) == [False, False, True, True]
    assert kept([1.0, 1.0, 1.0, 1.0]) == [True] * 4
    assert kept([0.0, -1.0, -1.0, 1.0]) == [True, False, True, True]  # by token where turns differ
    # The direction counts: a policy that has come to like the tokens more is never far.
    swapped = keep_near_policy(policy, behaviour, -torch.ones(4), units, limit=0.0)
    assert swapped.tolist() == [True] * 4


def test_normalised_weights_have_mean_one_and_no_weight_stays_no_weight():
    torch.testing.assert_close(normalised(torch.tensor([1.0, 3.0])), torch.tensor([0.5, 1.5]))
    assert normalised(torch.zeros(3)).tolist() == [0, 0, 0]
    assert normalised(torch.zeros(0)).shape == (0,)


def test_without_a_mismatch_nothing_changes():
    logprobs = torch.tensor([-0.3, -7.0, -0.001, -2.5, -1.0, -30.0])
    pair = (logprobs, logprobs.clone(), UNITS)
    for weight in ("truncate", "mask"):
        for level in ("token", "sequence"):
            found = importance_weights(*pair, weight=weight, level=level, low=0.999, high=1.001)
            assert found.tolist() == [1] * 6
    assert keep_geometric(*pair, low=0.999, high=1.001).all()
    assert keep_k3(*pair, limit=1e-9).all()
    assert keep_near_policy(logprobs, logprobs, -torch.ones(6), UNITS, limit=0.0).all()


@pytest.mark.parametrize("difference", [1000.0, -1000.0, math.inf, -math.inf])
@pytest.mark.parametrize("level", ["token", "sequence"])
def test_extreme_differences_are_clamped_at_twenty(difference, level):
    proximal = torch.full((4,), difference)
    behaviour, units = torch.zeros(4), torch.tensor([0, 0, 1, 1])
    found = importance_weights(
        proximal, behaviour, units, weight="truncate", level=level, low=0.0, high=math.inf
    )
    expected = math.exp(math.copysign(20, difference))
    torch.testing.assert_close(found, torch.full((4,), expected))
    assert torch.isfinite(normalised(found)).all()
    pair = (proximal, behaviour, units)
    assert not keep_geometric(*pair, low=0.5, high=2.0).any()
    assert not keep_k3(*pair, limit=10.0).any()
    near = keep_near_policy(behaviour, proximal, -torch.ones(4), units, limit=0.5)
    assert near.tolist() == [difference > 0] * 4


def test_differences_of_opposite_sign_never_give_nan():
    proximal = torch.tensor([math.inf, -math.inf, 0.0])
    pair = (proximal, torch.zeros(3), torch.zeros(3, dtype=torch.int64))
    free = {"weight": "truncate", "low": 0.0, "high": math.inf}
    assert importance_weights(*pair, level="sequence", **free).tolist() == [1, 1, 1]
    assert keep_geometric(*pair, low=0.9, high=1.1).all()


def test_no_tokens_give_no_weights():
    none, units = torch.zeros(0), torch.zeros(0, dtype=torch.int64)
    for level in ("token", "sequence"):
        found = importance_weights(none, none, units, weight="mask", level=level, low=0.5, high=2.0)
        assert found.shape == (0,)
    assert keep_geometric(none, none, units, low=0.5, high=2.0).shape == (0,)
    assert keep_k3(none, none, units, limit=0.1).shape == (0,)
    assert keep_near_policy(none, none, none, units, limit=0.1).shape == (0,)


@pytest.mark.parametrize("weight", ["truncate", "mask"])
@pytest.mark.parametrize("level", ["token", "sequence"])
def test_weights_carry_no_gradient(weight, level):
    proximal = logs(RATIOS).requires_grad_()
    found = importance_weights(
        proximal, torch.zeros(6), UNITS, weight=weight, level=level, low=0.2, high=5.0
    )
    assert not found.requires_grad
    (found * proximal).sum().backward()
    torch.testing.assert_close(proximal.grad, found)  # d(w x) / dx is w: w is a constant
    for keep in (
        keep_geometric(proximal, torch.zeros(6), UNITS, low=0.5, high=2.0),
        keep_k3(proximal, torch.zeros(6), UNITS, limit=0.1),
        keep_near_policy(torch.zeros(6), proximal, torch.ones(6), UNITS, limit=0.1),
    ):
        assert keep.dtype == torch.bool


TOKENS = st.lists(
    st.tuples(st.floats(-3, 3), st.floats(-1, 1), st.integers(0, 3)), min_size=1, max_size=20
)


@given(TOKENS, st.randoms(use_true_random=False))
def test_the_order_of_tokens_and_the_names_of_units_do_not_matter(tokens, random):
    order = list(range(len(tokens)))
    random.shuffle(order)

    def everything(rows, names):
        proximal, advantages, units = zip(*rows, strict=True)
        proximal = torch.tensor(proximal, dtype=torch.float64)
        advantages = torch.tensor(advantages, dtype=torch.float64)
        units = torch.tensor([names[unit] for unit in units])
        pair = (proximal, torch.zeros_like(proximal), units)
        bounds = {"low": 0.5123, "high": 2.0456}
        sequence = importance_weights(*pair, weight="truncate", level="sequence", **bounds)
        return torch.stack(
            [
                importance_weights(*pair, weight="mask", level="token", **bounds),
                sequence,
                normalised(sequence),
                keep_geometric(*pair, **bounds).double(),
                keep_k3(*pair, limit=0.4567).double(),
                keep_near_policy(pair[1], proximal, advantages, units, limit=0.3456).double(),
            ]
        )

    found = everything(tokens, names=[0, 1, 2, 3])
    shuffled = everything([tokens[i] for i in order], names=[40, -7, 2**40, 9])
    torch.testing.assert_close(shuffled, found[:, order])


@given(TOKENS)
def test_bounds_hold_and_a_mask_is_the_truncation_where_it_is_not_zero(tokens):
    proximal = torch.tensor([row[0] for row in tokens], dtype=torch.float64)
    units = torch.tensor([row[2] for row in tokens])
    for level in ("token", "sequence"):
        truncated, masked = (
            importance_weights(
                proximal, torch.zeros_like(proximal), units,
                weight=weight, level=level, low=0.5, high=2.0,
            )
            for weight in ("truncate", "mask")
        )  # fmt: skip
        assert ((truncated >= 0.5) & (truncated <= 2.0)).all()
        assert ((masked == 0) | (masked == truncated)).all()


def test_a_table_of_rows_is_as_good_as_a_flat_list():
    grid = torch.tensor([[5, 2, 5], [2, 5, 2]])
    how = {"weight": "mask", "level": "sequence", "low": 0.3, "high": 2.0}
    proximal = logs(RATIOS).reshape(2, 3)
    found = importance_weights(proximal, torch.zeros(2, 3), grid, **how)
    assert found.flatten().tolist() == weights(**how).tolist()


def test_wrong_arguments_are_named():
    how = {"weight": "truncate", "level": "token"}
    with pytest.raises(ValueError, match="0 <= low < high, got 2.0, 0.5"):
        weights(**how, low=2.0, high=0.5)
    with pytest.raises(ValueError, match="got -1.0, 0.5"):
        weights(**how, low=-1.0, high=0.5)
    with pytest.raises(ValueError, match="shape"):
        importance_weights(torch.zeros(3), torch.zeros(2), UNITS, **how, low=0.0, high=2.0)
    with pytest.raises(ValueError, match="shape"):
        keep_geometric(torch.zeros(3), torch.zeros(3), UNITS, low=0.5, high=2.0)
    with pytest.raises(ValueError, match="shape"):
        keep_k3(torch.zeros(3), torch.zeros(3), UNITS, limit=0.1)
    with pytest.raises(ValueError, match="shape"):
        keep_near_policy(torch.zeros(6), torch.zeros(6), torch.zeros(1), UNITS, limit=0.1)


# TRL keeps rows of one sequence each with a mask; ours are the trained tokens and their units.
GENERATOR = torch.Generator().manual_seed(0)
MASK = (torch.rand(6, 9, generator=GENERATOR) < 0.7).float()
MASK[3] = 0  # a sequence without a trained token
LEARNER = -2 * torch.rand(6, 9, generator=GENERATOR)
SAMPLER = LEARNER + 0.4 * torch.randn(6, 9, generator=GENERATOR)
ADVANTAGES = torch.tensor([-1.0, -0.5, 0.7, -1.0, 0.0, -2.0])
TRAINED = MASK.bool()
ROWS = torch.arange(6).unsqueeze(1).expand(6, 9)[TRAINED]


def trl_weights(mode, low, high):
    """The weights of TRL 1.16's four modes, written anew from its rule, [B, T] or [B, 1]."""
    difference = (LEARNER - SAMPLER) * MASK
    if mode.startswith("sequence"):
        difference = difference.sum(1, keepdim=True)
    ratio = difference.exp()
    if mode.endswith("truncate"):
        return ratio.clamp(min=low, max=high)
    outside = (ratio < (-math.inf if low is None else low)) | (ratio > high)
    return ratio.masked_fill(outside, 0)


@pytest.mark.parametrize("mode", ["token", "sequence"])
@pytest.mark.parametrize("weight", ["truncate", "mask"])
@pytest.mark.parametrize(("low", "high"), [(None, 3.0), (0.5, 2.0), (0.8, 1.25)])
def test_weights_agree_with_trl(mode, weight, low, high):
    theirs = trl_weights(f"{mode}_{weight}", low, high).expand(6, 9)[TRAINED]
    ours = importance_weights(
        LEARNER[TRAINED], SAMPLER[TRAINED], ROWS,
        weight=weight, level=mode, low=low or 0.0, high=high,
    )  # fmt: skip
    torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-6)
    assert len(ours.unique()) > 1


@pytest.mark.parametrize("limit", [-0.2, 0.0, 0.1, 0.5])
def test_the_off_policy_mask_is_trls(limit):
    from trl import GRPOTrainer

    theirs = GRPOTrainer.get_off_policy_mask(ADVANTAGES.unsqueeze(1), LEARNER, SAMPLER, MASK, limit)
    ours = keep_near_policy(SAMPLER[TRAINED], LEARNER[TRAINED], ADVANTAGES[ROWS], ROWS, limit=limit)
    assert ours.tolist() == theirs.expand(6, 9)[TRAINED].bool().tolist()


def test_the_off_policy_mask_is_trls_with_an_advantage_a_token():
    from trl import GRPOTrainer

    advantages = torch.randn(6, 9, generator=torch.Generator().manual_seed(1))
    theirs = GRPOTrainer.get_off_policy_mask(advantages, LEARNER, SAMPLER, MASK, 0.0)
    ours = keep_near_policy(
        SAMPLER[TRAINED], LEARNER[TRAINED], advantages[TRAINED], ROWS, limit=0.0
    )
    assert ours.tolist() == theirs[TRAINED].bool().tolist()
    assert 0 < ours.sum() < len(ours)
