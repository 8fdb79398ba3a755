"""Group-relative advantages, by hand."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlagents.algos.advantages import centred, group_relative


def f32(*values):
    return np.array(values, np.float32)


def yes(n):
    return np.ones(n, bool)


def test_group_mean_and_unbiased_std():
    # mean 2, deviations -1 0 1, unbiased std 1.
    (result,) = group_relative([f32(1, 2, 3)], [yes(3)], "group")
    np.testing.assert_allclose(result, [-1, 0, 1], atol=1e-5)


def test_no_std_is_the_centred_score():
    (result,) = group_relative([f32(0, 0, 3)], [yes(3)], "none")
    np.testing.assert_allclose(result, [-1, -1, 2])


def test_batch_std_is_over_all_scores():
    # Scores 0 2 | 4 6: group means 1 and 5, batch std of (0, 2, 4, 6) = sqrt(20/3).
    first, second = group_relative([f32(0, 2), f32(4, 6)], [yes(2), yes(2)], "batch")
    expected = 1 / np.sqrt(20 / 3)
    np.testing.assert_allclose(first, [-expected, expected], rtol=1e-5)
    np.testing.assert_allclose(second, [-expected, expected], rtol=1e-5)


def test_member_out_of_the_statistics_still_gets_a_value():
    # Mean of the counted (1, 3) is 2; the third, 8, is 6 above it.
    np.testing.assert_allclose(centred(f32(1, 3, 8), np.array([True, True, False])), [-1, 1, 6])


def test_member_without_a_score_gets_zero_and_moves_nobody():
    np.testing.assert_allclose(centred(f32(1, np.nan, 3), yes(3)), [-1, 0, 1])


@pytest.mark.parametrize("scale", ["group", "batch", "none"])
@pytest.mark.parametrize("scores", [f32(0.5), f32(2, 2, 2), f32(np.nan, np.nan), f32(np.nan, 1)])
def test_no_signal_is_zero_never_nan(scale, scores):
    (result,) = group_relative([scores], [yes(len(scores))], scale)
    assert (result == 0).all()


@given(st.lists(st.floats(-5, 5, width=32), min_size=2, max_size=8), st.randoms())
def test_permuting_members_permutes_advantages(scores, random):
    order = list(range(len(scores)))
    random.shuffle(order)
    values = f32(*scores)
    (plain,) = group_relative([values], [yes(len(scores))], "group")
    (permuted,) = group_relative([values[order]], [yes(len(scores))], "group")
    np.testing.assert_allclose(plain[order], permuted, atol=1e-3)


@given(st.lists(st.integers(0, 10), min_size=3, max_size=8), st.integers(2, 50))
def test_scaling_rewards_changes_nothing_under_group_std(scores, factor):
    values = f32(*scores)
    (plain,) = group_relative([values], [yes(len(scores))], "group")
    (scaled,) = group_relative([values * factor], [yes(len(scores))], "group")
    np.testing.assert_allclose(plain, scaled, atol=1e-3)


def test_shapes_must_agree():
    with pytest.raises(ValueError, match=r"two \[G\] arrays"):
        centred(f32(1, 2), yes(3))
