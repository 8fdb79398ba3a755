"""Scores to rewards: five readings of one small tournament, by hand."""

import math

import numpy as np
import pytest

from rlagents.algos.rewards import Reward, rewards_of
from rlagents.algos.tournaments import play, round_robin, standing_by_keys
from rlagents.config.scoring import RewardName

NAN = np.nan


def rng():
    return np.random.default_rng(0)


def standing(size, *margins):
    """A round robin with these margins, pairs in order 01 02 .. 12 .."""
    return play(round_robin(size, rng()), lambda pairs: np.array(margins, np.float32))


def test_the_names_are_those_of_the_settings():
    assert Reward.__args__ == RewardName.__args__


def test_the_standing_as_it_is():
    assert rewards_of(standing(3, 1, 1, 1), "standing").tolist() == [1, 0.5, 0]


def test_ranks_are_quantiles():
    # 0 beats all; 1, 2 and 3 tie: ranks 1 3 3 3, so 1 and 1 - 2/3.
    found = rewards_of(standing(4, 1, 1, 1, 0, 0, 0), "rank")
    np.testing.assert_allclose(found, [1, 1 / 3, 1 / 3, 1 / 3], rtol=1e-6)


def test_win_rates_are_over_verdicts():
    # 0 beats 1 and ties with 2; nothing is known of 12.
    assert rewards_of(standing(3, 2, 0, NAN), "win_rate").tolist() == [0.75, 0, 0.5]


def test_win_rates_do_not_depend_on_the_topology():
    matches = standing(3, 2, 0, -1).matches
    others = standing_by_keys([(3,), (2,), (1,)], matches)
    assert rewards_of(others, "win_rate").tolist() == [0.75, 0, 0.75]


def test_margins_are_fitted_by_least_squares():
    # Two members, one match of margin 3, prior 1: minimise (s0 - s1 - 3)^2 + s0^2 + s1^2.
    # By d/ds0 and d/ds1: (s0 - s1 - 3) + s0 = 0 and s1 = -s0, so 3 s0 = 3.
    assert rewards_of(standing(2, 3), "margin", prior=1).tolist() == [1, -1]


def test_wins_are_fitted_by_bradley_terry():
    # One win, and with prior 1 half a win and half a loss against a player at 0. By symmetry
    # s1 = -s0: 1 - p(2 s0) + 0.5 - p(s0) = 0 with p the logistic function.
    found = rewards_of(standing(2, 9), "bradley_terry", prior=1)
    s = float(found[0])
    assert found[1] == -found[0]
    assert s > 0
    p = lambda x: 1 / (1 + math.exp(-x))  # noqa: E731
    assert abs(1 - p(2 * s) + 0.5 - p(s)) < 1e-5


@pytest.mark.parametrize("kind", ["bradley_terry", "margin"])
def test_members_with_the_same_results_are_exactly_equal(kind):
    # 0 beats 1, 1 beats 2, 2 beats 0, by as much: a circle; 3 loses to all by as much.
    found = rewards_of(standing(4, 1, -1, 2, 1, 2, 2), kind)
    assert len(set(found[:3].tolist())) == 1
    assert found[3] < found[0]


@pytest.mark.parametrize("kind", RewardName.__args__)
def test_who_has_no_verdict_has_no_reward(kind):
    found = rewards_of(standing(3, NAN, 1, NAN), kind)
    assert np.isnan(found).tolist() == [False, True, False]
    assert found[0] > found[2]
    assert found.dtype == np.float32


@pytest.mark.parametrize("kind", RewardName.__args__)
def test_one_member_has_zero(kind):
    assert rewards_of(
        play(round_robin(1, rng()), lambda p: np.zeros(len(p), np.float32)), kind
    ).tolist() == [0]


def test_an_unknown_kind():
    with pytest.raises(ValueError, match="one of standing, rank, .* got 'elo'"):
        rewards_of(standing(2, 1), "elo")  # pyright: ignore[reportArgumentType]
