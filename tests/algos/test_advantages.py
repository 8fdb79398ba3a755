"""Group-relative advantages: by hand, by enumeration, by property, and against TRL."""

from itertools import product

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from trl.trainer.utils import nanstd

from rlagents.algos.advantages import EPSILON, centred, deviation, group_relative, several_rewards

BASELINES = ["group", "leave_one_out", "length_weighted", "none"]
SCALES = ["group", "batch", "whiten", "mean", "none"]
NAN = np.nan


def f32(*values):
    return np.array(values, np.float32)


def i32(*values):
    return np.array(values, np.int32)


def yes(n):
    return np.ones(n, bool)


def relative(*groups, baseline="group", scale="none", counts=None, lengths=None):
    """Advantages of whole groups, all members counted unless said otherwise."""
    counts = counts or [yes(len(g)) for g in groups]
    lengths = lengths or [i32(*range(1, len(g) + 1)) for g in groups]
    return group_relative(list(groups), counts, baseline=baseline, scale=scale, lengths=lengths)


# Baselines by hand.


def test_group_is_the_score_minus_the_mean():
    # Mean of 0 0 3 is 1.
    np.testing.assert_allclose(centred(f32(0, 0, 3), yes(3)), [-1, -1, 2])


def test_leave_one_out_is_the_score_minus_the_mean_of_the_others():
    # 0 - (0 + 3)/2, twice, and 3 - (0 + 0)/2.
    result = centred(f32(0, 0, 3), yes(3), baseline="leave_one_out")
    np.testing.assert_allclose(result, [-1.5, -1.5, 3])


def test_length_weighted_subtracts_the_mean_over_tokens():
    # (1*0 + 2*1 + 5*4) / (1 + 2 + 5) = 22/8 = 2.75.
    result = centred(f32(0, 1, 4), yes(3), baseline="length_weighted", lengths_G=i32(1, 2, 5))
    np.testing.assert_allclose(result, [-2.75, -1.75, 1.25])


def test_length_weighted_without_any_token_is_the_plain_mean():
    result = centred(f32(0, 1, 5), yes(3), baseline="length_weighted", lengths_G=i32(0, 0, 0))
    np.testing.assert_allclose(result, [-2, -1, 3])


def test_no_baseline_is_the_score_even_of_a_group_of_one():
    np.testing.assert_allclose(centred(f32(2, NAN, 3), yes(3), baseline="none"), [2, 0, 3])
    np.testing.assert_allclose(centred(f32(2), yes(1), baseline="none"), [2])


# Scales by hand.


def test_group_std_is_unbiased():
    # Mean 2, differences -1 0 1, unbiased std 1.
    (result,) = relative(f32(1, 2, 3), scale="group")
    np.testing.assert_allclose(result, np.array([-1, 0, 1]) / (1 + EPSILON), rtol=1e-7)


def test_batch_std_is_over_all_scores():
    # Scores 0 2 | 4 6: group means 1 and 5; deviations of 0 2 4 6 from 3 are -3 -1 1 3, std
    # sqrt(20/3).
    first, second = relative(f32(0, 2), f32(4, 6), scale="batch")
    expected = 1 / np.sqrt(20 / 3)
    np.testing.assert_allclose(first, [-expected, expected], rtol=1e-6)
    np.testing.assert_allclose(second, [-expected, expected], rtol=1e-6)


def test_whiten_divides_by_the_std_of_the_differences():
    # Scores 0 2 | 4 8: differences -1 1 | -2 2, mean 0, std sqrt(10/3).
    first, second = relative(f32(0, 2), f32(4, 8), scale="whiten")
    std = np.sqrt(10 / 3)
    np.testing.assert_allclose(first, [-1 / std, 1 / std], rtol=1e-6)
    np.testing.assert_allclose(second, [-2 / std, 2 / std], rtol=1e-6)


def test_whiten_without_a_baseline_centres_on_the_batch():
    # REINFORCE++ without a baseline. Scores 1 | 2 | 3: mean 2, std 1. The NaN stays 0.
    one, two, three = relative(f32(1), f32(2, NAN), f32(3), baseline="none", scale="whiten")
    np.testing.assert_allclose([*one, *two, *three], [-1, 0, 0, 1], atol=2e-6)


def test_whiten_after_length_weighting_by_hand():
    # Scores 0 3, lengths 1 2: baseline 6/3 = 2, differences -2 1, mean -1/2, deviations -3/2 3/2,
    # std sqrt(9/2).
    (result,) = relative(f32(0, 3), baseline="length_weighted", scale="whiten")
    np.testing.assert_allclose(result, np.array([-1.5, 1.5]) / np.sqrt(4.5), rtol=1e-6)


def test_mean_divides_by_the_mean_score():
    # Two successes of eight: mean 1/4, so (1 - 1/4)/(1/4) = 3 and -1.
    (result,) = relative(f32(1, 1, 0, 0, 0, 0, 0, 0), scale="mean")
    np.testing.assert_allclose(result, [3, 3] + 6 * [-1], rtol=1e-5)


def test_mean_without_a_baseline_shares_the_group_among_its_successes():
    # 1/(1/4) = 4: the mean over 8 of A times the score function is its mean over the 2 successes.
    (result,) = relative(f32(1, 1, 0, 0, 0, 0, 0, 0), baseline="none", scale="mean")
    np.testing.assert_allclose(result, [4, 4] + 6 * [0], rtol=1e-5)


@pytest.mark.parametrize("scale", SCALES)
def test_every_scale_divides_any_baseline(scale):
    # Scores 1 5 | 2 4, leave one out: -4 4 | -2 2. Divisors: group sqrt(8), sqrt(2); batch std of
    # 1 5 2 4 = sqrt(10/3); whiten std of -4 4 -2 2 = sqrt(40/3); mean 3, 3.
    first, second = relative(f32(1, 5), f32(2, 4), baseline="leave_one_out", scale=scale)
    a, b = {
        "group": (np.sqrt(8), np.sqrt(2)),
        "batch": 2 * (np.sqrt(10 / 3),),
        "whiten": 2 * (np.sqrt(40 / 3),),
        "mean": (3, 3),
        "none": (1, 1),
    }[scale]
    np.testing.assert_allclose(first, [-4 / a, 4 / a], rtol=1e-5)
    np.testing.assert_allclose(second, [-2 / b, 2 / b], rtol=1e-5)


# Members outside the statistics, members without a score.


@pytest.mark.parametrize(
    ("baseline", "expected"),
    [
        # Mean of the counted 1 3 is 2; the third, 8, is 6 above it.
        ("group", [-1, 1, 6]),
        # The counted see each other, 1 - 3 and 3 - 1; the third sees their mean.
        ("leave_one_out", [-2, 2, 6]),
        # Lengths 1 3 (5): (1 + 9)/4 = 2.5.
        ("length_weighted", [-1.5, 0.5, 5.5]),
        ("none", [1, 3, 8]),
    ],
)
def test_member_out_of_the_statistics_gets_a_value_and_moves_nobody(baseline, expected):
    counts = np.array([True, True, False])
    result = centred(f32(1, 3, 8), counts, baseline=baseline, lengths_G=i32(1, 3, 5))
    np.testing.assert_allclose(result, expected)


@pytest.mark.parametrize(
    ("scale", "divisor"),
    [
        ("group", np.sqrt(2)),  # of 1 3
        ("batch", np.sqrt(20 / 3)),  # of 1 3 5 7
        ("whiten", np.sqrt(4 / 3)),  # of -1 1 -1 1
        ("mean", 2),  # of 1 3
    ],
)
def test_divisors_are_of_counted_members(scale, divisor):
    counts = [np.array([True, True, False, True]), yes(2)]
    first, _ = relative(f32(1, 3, 8, NAN), f32(5, 7), scale=scale, counts=counts)
    np.testing.assert_allclose(first, np.array([-1, 1, 6, 0]) / divisor, rtol=1e-5)


def test_member_without_a_score_gets_zero_and_moves_nobody():
    np.testing.assert_allclose(centred(f32(1, NAN, 3), yes(3)), [-1, 0, 1])


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("baseline", ["group", "leave_one_out", "length_weighted"])
@pytest.mark.parametrize(
    "scores", [f32(), f32(0.5), f32(0.1, 0.1, 0.1), f32(0, 0), f32(NAN, NAN), f32(NAN, 1)]
)
def test_no_signal_is_zero(scale, baseline, scores):
    (alone,) = relative(scores, baseline=baseline, scale=scale)
    assert alone.dtype == np.float32
    np.testing.assert_allclose(alone, np.zeros(len(scores)), atol=1e-7)


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("baseline", ["group", "leave_one_out"])
@pytest.mark.parametrize("scores", [f32(0.5), f32(0.1, 0.1, 0.1), f32(NAN, NAN), f32(NAN, 1)])
def test_no_signal_is_zero_beside_groups_with_signal(scale, baseline, scores):
    quiet, loud = relative(scores, f32(0, 1, 2), baseline=baseline, scale=scale)
    np.testing.assert_allclose(quiet, np.zeros(len(scores)), atol=1e-7)
    assert (loud[[0, 2]] != 0).all()


def test_a_group_that_compares_nobody_is_zero_where_whitening_shifts():
    # Length weighting leaves differences -2 1 with mean -1/2; the lone member has none to shift.
    _, alone = relative(f32(0, 3), f32(7), baseline="length_weighted", scale="whiten")
    np.testing.assert_array_equal(alone, [0])


@pytest.mark.parametrize("scale", ["group", "batch", "whiten", "mean"])
def test_member_out_of_equal_statistics_is_no_spike(scale):
    # Nothing that counts differs (or scores): 1 - 0 over 1e-6 would be a million.
    counts = [np.array([True, True, False])]
    (result,) = relative(f32(0, 0, 1), scale=scale, counts=counts)
    np.testing.assert_array_equal(result, [0, 0, 0])


@pytest.mark.parametrize("scale", SCALES)
def test_no_groups_give_no_advantages(scale):
    assert relative(scale=scale) == []
    assert several_rewards([], [], {"a": 1.0}) == []


def test_deviation_of_less_than_two_is_zero():
    assert deviation(f32()) == deviation(f32(3)) == 0
    assert deviation(f32(1, 3)) == pytest.approx(np.sqrt(2))


# What the estimators are for, by enumeration: a policy that succeeds with probability p, whose
# score function is 1/p where it does and -1/(1 - p) where it does not.


def expected_gradient(p, n, **options):
    total = 0.0
    for outcome in product([0.0, 1.0], repeat=n):
        scores = f32(*outcome)
        (values,) = relative(scores, **options)
        functions = np.where(scores == 1, 1 / p, -1 / (1 - p))
        chance = np.prod(np.where(scores == 1, p, 1 - p))
        total += chance * (values.astype(np.float64) * functions).mean()
    return total


@pytest.mark.parametrize("p", [0.1, 0.5, 0.8])
@pytest.mark.parametrize(
    ("baseline", "expected"), [("none", 1), ("leave_one_out", 1), ("group", 3 / 4)]
)
def test_gradient_of_the_chance_of_success(p, baseline, expected):
    # dp/dp = 1. The group's mean holds each member's own score, which costs (n - 1)/n.
    assert expected_gradient(p, 4, baseline=baseline) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("p", [0.1, 0.5, 0.8])
@pytest.mark.parametrize(("baseline", "terms"), [("none", 4), ("group", 3)])
def test_dividing_by_the_mean_climbs_the_truncated_log_likelihood(p, baseline, terms):
    # The derivative of -sum_{k=1..T} (1 - p)^k / k is sum_{k=1..T} (1 - p)^(k - 1).
    expected = sum((1 - p) ** (k - 1) for k in range(1, terms + 1))
    result = expected_gradient(p, 4, baseline=baseline, scale="mean")
    assert result == pytest.approx(expected, rel=1e-5)


# Properties.

scores_of_a_group = st.lists(st.floats(-5, 5, width=32), min_size=2, max_size=8)
whole_scores = st.lists(st.integers(0, 10), min_size=2, max_size=8)


@settings(max_examples=300)
@given(st.sampled_from(BASELINES), st.sampled_from(SCALES), whole_scores, st.randoms())
def test_permuting_members_permutes_advantages(baseline, scale, scores, random):
    order = list(range(len(scores)))
    random.shuffle(order)
    values, lengths, other = f32(*scores), i32(*range(1, len(scores) + 1)), f32(0, 1)
    options = {"baseline": baseline, "scale": scale}
    plain, _ = relative(values, other, lengths=[lengths, i32(1, 2)], **options)
    permuted, _ = relative(values[order], other, lengths=[lengths[order], i32(1, 2)], **options)
    np.testing.assert_allclose(plain[order], permuted, rtol=1e-6, atol=1e-7)


# The std of up to 16 whole numbers that are not all equal is at least sqrt(1/16), so the 1e-6
# beside it is at most 4e-6 of it; a mean above 0 is at least 1/8, so at most 8e-6.


@pytest.mark.parametrize("scale", ["group", "batch", "whiten"])
@given(
    st.sampled_from(["group", "leave_one_out", "length_weighted"]),
    whole_scores,
    whole_scores,
    st.integers(2, 50),
    st.integers(-100, 100),
)
def test_std_normalised_advantages_ignore_scale_and_shift(
    scale, baseline, first, second, factor, shift
):
    groups, options = [f32(*first), f32(*second)], {"baseline": baseline, "scale": scale}
    plain = np.concatenate(relative(*groups, **options))
    moved = np.concatenate(relative(*[g * factor + shift for g in groups], **options))
    np.testing.assert_allclose(plain, moved, rtol=6e-6, atol=1e-6)


@given(whole_scores, st.integers(2, 50))
def test_mean_normalised_advantages_ignore_scale(scores, factor):
    (plain,) = relative(f32(*scores), scale="mean")
    (scaled,) = relative(f32(*scores) * factor, scale="mean")
    np.testing.assert_allclose(plain, scaled, rtol=1e-5, atol=1e-7)


@given(scores_of_a_group)
def test_leave_one_out_is_a_constant_times_the_centred_score(scores):
    values, n = f32(*scores), len(scores)
    others = [(sum(scores) - score) / (n - 1) for score in scores]
    leave_one_out = centred(values, yes(n), baseline="leave_one_out")
    np.testing.assert_allclose(leave_one_out, values - others, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(
        leave_one_out, n / (n - 1) * centred(values, yes(n)), rtol=3e-7, atol=1e-30
    )


@given(scores_of_a_group, st.lists(st.booleans(), min_size=8, max_size=8))
def test_counted_advantages_sum_to_zero(scores, counts):
    values, counted = f32(*scores), np.array(counts[: len(scores)])
    for baseline in ("group", "leave_one_out"):
        result = centred(values, counted, baseline=baseline)
        assert abs(result[counted].sum(dtype=np.float64)) < 1e-5


@given(scores_of_a_group, st.lists(st.integers(1, 1000), min_size=8, max_size=8))
def test_length_weighted_advantages_sum_to_zero_over_tokens(scores, lengths):
    lengths_G = i32(*lengths[: len(scores)])
    result = centred(
        f32(*scores), yes(len(scores)), baseline="length_weighted", lengths_G=lengths_G
    )
    assert abs((result * lengths_G).sum(dtype=np.float64)) < 1e-5 * lengths_G.sum()


@given(
    st.lists(st.lists(st.one_of(st.floats(0, 5, width=32), st.just(NAN)), max_size=6), max_size=4),
    st.randoms(),
    st.sampled_from(BASELINES),
    st.sampled_from(SCALES),
)
def test_never_nan(groups, random, baseline, scale):
    scores = [f32(*g) for g in groups]
    counts = [np.array([random.random() < 0.7 for _ in g], bool) for g in groups]
    for s, result in zip(
        scores, relative(*scores, baseline=baseline, scale=scale, counts=counts), strict=True
    ):
        assert result.shape == s.shape and np.isfinite(result).all()
        assert (result[np.isnan(s)] == 0).all()


# Several rewards.


def test_each_reward_is_normalised_in_its_group_then_the_sum_over_the_batch():
    # Group one: a 0 2 -> -1 1 over sqrt 2; b 0 100 -> the same. Weights 1, 2: (1 + 2)/sqrt 2 each.
    # Group two: a 5 5 -> 0 0; b 9 1 -> 1 -1 over sqrt 2, twice that. Totals -3 3 2 -2 over sqrt 2:
    # mean 0, std sqrt(26/3) over sqrt 2.
    rewards = [{"a": f32(0, 2), "b": f32(0, 100)}, {"a": f32(5, 5), "b": f32(9, 1)}]
    first, second = several_rewards(rewards, [yes(2), yes(2)], {"a": 1.0, "b": 2.0})
    std = np.sqrt(26 / 3)
    np.testing.assert_allclose(first, [-3 / std, 3 / std], rtol=1e-5)
    np.testing.assert_allclose(second, [2 / std, -2 / std], rtol=1e-5)


def test_a_reward_that_a_member_lacks_adds_nothing():
    # a: 0 2 (none) -> -1 1 over sqrt 2. b: all -> 0 1 2 -> -1 0 1 over 1. The fourth has nothing.
    # Totals -1/sqrt 2 - 1, 1/sqrt 2, 1 of the three, mean 0.
    rewards = [{"a": f32(0, 2, NAN, NAN), "b": f32(0, 1, 2, NAN)}]
    (result,) = several_rewards(rewards, [yes(4)], {"a": 1.0, "b": 1.0})
    totals = np.array([-np.sqrt(0.5) - 1, np.sqrt(0.5), 1])
    np.testing.assert_allclose(result, [*(totals / totals.std(ddof=1)), 0], rtol=1e-5)


def test_uncounted_members_get_a_value_of_several_rewards():
    # Counted a: 0 2 -> -1 1 over sqrt 2, the third 3; b: 0 1 -> -1/2 1/2 over sqrt(1/2), the third
    # 17/2. In units of sqrt(1/2): a -1 1 3, b -1 1 17, totals -2 2 20, std of the counted sqrt 8.
    counts = np.array([True, True, False])
    rewards = [{"a": f32(0, 2, 4), "b": f32(0, 1, 9)}]
    (result,) = several_rewards(rewards, [counts], {"a": 1.0, "b": 1.0})
    np.testing.assert_allclose(result, np.array([-2, 2, 20]) / np.sqrt(8), rtol=1e-5)


@pytest.mark.parametrize("values", [f32(1), f32(2, 2), f32(NAN, NAN)])
def test_no_signal_in_several_rewards_is_zero(values):
    rewards = [{"a": values, "b": values}]
    (result,) = several_rewards(rewards, [yes(len(values))], {"a": 1.0, "b": 3.0})
    np.testing.assert_array_equal(result, np.zeros(len(values)))


def test_different_combinations_stay_different():
    # Both rewards against none, and one against none: the sums, 0 2 and 0 1, look the same once
    # normalised in their groups; each reward for itself, the first gap is twice the second.
    a, b = [f32(0, 1), f32(0, 1)], [f32(0, 1), f32(0, 0)]
    summed = relative(a[0] + b[0], a[1] + b[1], scale="group")
    assert summed[0][1] == pytest.approx(summed[1][1], rel=1e-5)
    rewards = [{"a": x, "b": y} for x, y in zip(a, b, strict=True)]
    apart = several_rewards(rewards, [yes(2), yes(2)], {"a": 1.0, "b": 1.0})
    assert apart[0][1] == pytest.approx(2 * apart[1][1], rel=1e-5)


@given(whole_scores, st.integers(2, 50), st.integers(-100, 100))
def test_units_of_a_reward_do_not_matter(scores, factor, shift):
    # Weights 1 and 0.3 of normalised rewards cannot cancel: totals keep a std of 0.7 or more, or
    # 0.3 where the first reward is the same for all.
    a, b, counts = f32(*scores), f32(*reversed(scores)) ** 2, [yes(len(scores))]
    (plain,) = several_rewards([{"a": a, "b": b}], counts, {"a": 1.0, "b": 0.3})
    (moved,) = several_rewards([{"a": a * factor + shift, "b": b}], counts, {"a": 1.0, "b": 0.3})
    np.testing.assert_allclose(plain, moved, atol=3e-5)


# TRL's documented formulas, on the same numbers. Its constant is 1e-4; with ours in its place the
# two agree to rounding, and with its own to what 1e-4 is beside the standard deviation.


def trl_scaled(rewards_BG, scale, eps):
    rewards = torch.tensor(rewards_BG, dtype=torch.float64)
    advantages = rewards - torch.nanmean(rewards, dim=1, keepdim=True)
    if scale == "group":
        advantages = advantages / (nanstd(rewards, dim=1, keepdim=True) + eps)
    if scale == "batch":
        advantages = advantages / (nanstd(rewards) + eps)
    return torch.nan_to_num(advantages, nan=0.0).numpy()


def trl_normalize_then_sum(rewards_BGR, weights, eps):
    grouped = torch.tensor(rewards_BGR, dtype=torch.float64)
    unscorable = torch.isnan(grouped).all(dim=2)
    mean, std = torch.nanmean(grouped, dim=1, keepdim=True), nanstd(grouped, dim=1, keepdim=True)
    totals = ((grouped - mean) / (std + eps) * torch.tensor(weights)).nansum(dim=2)
    totals[unscorable] = torch.nan
    advantages = (totals - torch.nanmean(totals)) / (nanstd(totals) + eps)
    return torch.nan_to_num(advantages, nan=0.0).numpy()


def some_rewards(*shape):
    return np.random.default_rng(3).normal(5, 20, shape).astype(np.float32)


@pytest.mark.parametrize(("eps", "tolerance"), [(EPSILON, 1e-6), (1e-4, 2e-5)])
@pytest.mark.parametrize("scale", ["group", "batch", "none"])
def test_agrees_with_trl(scale, eps, tolerance):
    rewards_BG = some_rewards(4, 6)
    rewards_BG[1, 2] = NAN
    result = np.stack(relative(*rewards_BG, scale=scale))
    expected = trl_scaled(rewards_BG, scale, eps)
    np.testing.assert_allclose(result, expected, rtol=tolerance, atol=1e-6)


@pytest.mark.parametrize(("eps", "tolerance"), [(EPSILON, 1e-6), (1e-4, 2e-4)])
def test_several_rewards_agree_with_trl(eps, tolerance):
    rewards_BGR = some_rewards(4, 6, 2)
    rewards_BGR[1, 2] = NAN
    rewards_BGR[2, 3, 0] = NAN
    named = [{"a": group[:, 0], "b": group[:, 1]} for group in rewards_BGR]
    result = np.stack(several_rewards(named, [yes(6)] * 4, {"a": 1.0, "b": 0.25}))
    expected = trl_normalize_then_sum(rewards_BGR, [1.0, 0.25], eps)
    np.testing.assert_allclose(result, expected, rtol=tolerance, atol=1e-6)


# What is rejected.


def test_shapes_must_agree():
    with pytest.raises(ValueError, match=r"two \[G\] arrays, got \(2,\) and \(3,\)"):
        centred(f32(1, 2), yes(3))
    with pytest.raises(ValueError, match="zip"):
        group_relative([f32(1, 2)], [], baseline="group", scale="none")


@pytest.mark.parametrize("lengths", [None, i32(1, 2, 3), i32(1, -2)])
def test_length_weighting_needs_lengths(lengths):
    with pytest.raises(ValueError, match=r"expected lengths \(2,\) of 0 or more, got"):
        centred(f32(1, 2), yes(2), baseline="length_weighted", lengths_G=lengths)


def test_mean_rejects_scores_below_zero():
    with pytest.raises(ValueError, match=r"'mean': expected scores of 0 or more, got -0.5"):
        relative(f32(1, -0.5), scale="mean")


def test_a_group_must_have_every_weighted_reward():
    with pytest.raises(ValueError, match=r"expected the rewards \['a', 'b'\], got \['a'\]"):
        several_rewards([{"a": f32(1, 2)}], [yes(2)], {"a": 1.0, "b": 1.0})
