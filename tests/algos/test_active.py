"""Exact judges, ties, gaps, counts and rounds of the topologies that end in a posterior."""

import math
from functools import partial

import numpy as np
import pytest

from rlagents.algos.active import ROUNDS, active, seeded_margins, usual_matches
from rlagents.algos.tournaments import play

BOTH = (seeded_margins, active)


def rng(*seed):
    return np.random.default_rng(seed)


def exact(qualities):
    return lambda pairs: (qualities[pairs[:, 0]] - qualities[pairs[:, 1]]).astype(np.float32)


def noisy(qualities, generator, *, totals=False):
    def judge(pairs):
        first, second = qualities[pairs].T
        margins = first - second + generator.normal(size=len(pairs))
        sums = 14 + first + second + generator.normal(size=len(pairs))
        return np.stack([margins, sums], axis=1) if totals else margins

    return judge


def tau(true, scores):
    agree = np.sign(true[:, None] - true) * np.sign(scores[:, None] - scores)
    return agree.sum() / (len(true) * (len(true) - 1))


@pytest.mark.parametrize("topology", BOTH)
@pytest.mark.parametrize("size", range(2, 34))
def test_exact_margins_give_the_exact_order(topology, size):
    qualities = rng(size).normal(size=size)
    standing = play(topology(size, rng(1)), exact(qualities))
    assert standing.comparisons == usual_matches(size)
    assert standing.ranks.tolist() == (size - np.argsort(np.argsort(qualities))).tolist()


@pytest.mark.parametrize("topology", BOTH)
def test_a_group_of_ties_has_equal_scores_whatever_its_totals(topology):
    def tied(pairs):
        return np.stack([np.zeros(len(pairs)), rng(len(pairs)).normal(size=len(pairs))], axis=1)

    for judge in (lambda pairs: np.zeros(len(pairs)), tied):
        standing = play(topology(9, rng(0)), judge)
        assert standing.scores.tolist() == [0] * 9
        assert standing.ranks.tolist() == [5] * 9


@pytest.mark.parametrize("topology", BOTH)
def test_one_member_needs_no_judge(topology):
    standing = play(topology(1, rng(0)), lambda pairs: pytest.fail("asked"))
    assert (standing.scores.tolist(), standing.ranks.tolist()) == ([0], [1])
    with pytest.raises(ValueError, match="1 member"):
        play(topology(0, rng(0)), lambda pairs: pytest.fail("asked"))


def test_by_default_nobody_meets_twice():
    # 2N - 2, but of two members there is one pair, of three there are three.
    assert [usual_matches(size) for size in (1, 2, 3, 4, 5)] == [0, 1, 3, 6, 8]


def test_rounds_are_one_and_four():
    # 16: a cycle of 16, then 14 in three rounds.
    one = play(seeded_margins(16, rng(0)), exact(np.arange(16.0)))
    four = play(active(16, rng(0)), exact(np.arange(16.0)))
    assert np.bincount([m.round for m in one.matches]).tolist() == [30]
    assert np.bincount([m.round for m in four.matches]).tolist() == [16, 5, 5, 4]
    assert ROUNDS == 4


@pytest.mark.parametrize("matches", [1, 5, 28, 40])
def test_active_plays_as_many_matches_as_wanted_and_no_pair_again_before_all_have_met(matches):
    standing = play(active(8, rng(3), matches=matches), noisy(np.arange(8.0), rng(4)))
    met = [frozenset((m.first, m.second)) for m in standing.matches]
    assert len(met) == matches
    assert len(set(met)) == min(matches, 28)
    assert all(met.count(pair) <= 2 for pair in met)


def test_the_graph_of_one_round_is_even():
    # 62 matches, 124 places for 32 members: 3.9 each.
    standing = play(seeded_margins(32, rng(0)), exact(np.arange(32.0)))
    degrees = np.bincount([side for m in standing.matches for side in (m.first, m.second)])
    assert set(degrees) <= {3, 4, 5}


def test_missing_verdicts_decide_nothing():
    qualities = rng(5).normal(size=8)

    def silent_about(member, pairs):
        margins = exact(qualities)(pairs)
        margins[(pairs == member).any(1)] = math.nan
        return margins

    standing = play(active(8, rng(0)), partial(silent_about, 3))
    assert math.isnan(standing.scores[3]) and math.isnan(standing.ranks[3])
    assert np.isfinite(np.delete(standing.scores, 3)).all()
    mute = play(active(8, rng(0)), lambda pairs: np.full(len(pairs), np.nan))
    assert np.isnan(mute.scores).all() and mute.comparisons == 14
    infinite = play(active(8, rng(0)), lambda pairs: np.full((len(pairs), 2), np.inf))
    assert np.isnan(infinite.scores).all()


def test_matches_go_to_whoever_is_close():
    # Two clusters, far apart: after the cycle hardly a match is wasted between them.
    qualities = np.array([0, 0.1, 0.2, 0.3, 50, 50.1, 50.2, 50.3])
    later = [
        (match.first < 4) == (match.second < 4)
        for seed in range(20)
        for match in play(active(8, rng(seed)), noisy(qualities, rng(seed, 1))).matches
        if match.round > 0
    ]
    # Of the 28 pairs 12 are inside a cluster: by chance 43%.
    assert np.mean(later) > 0.8


def test_totals_without_drift_order_better_than_margins_alone():
    def mean_tau(totals):
        found = []
        for seed in range(40):
            qualities = rng(seed).normal(size=12)
            judge = noisy(qualities, rng(seed, 1), totals=totals)
            found.append(tau(qualities, play(active(12, rng(seed, 2)), judge).scores))
        return np.mean(found)

    assert mean_tau(True) > mean_tau(False) + 0.04


@pytest.mark.parametrize("topology", BOTH)
def test_members_of_equal_quality_share_a_rank(topology):
    # In every group two pairs are equal; the fit parts them in the last digits only.
    for seed in range(10):
        qualities = rng(seed).normal(size=9)
        qualities[[1, 3]] = qualities[[0, 2]]
        ranks = play(topology(9, rng(seed)), exact(qualities)).ranks
        assert ranks[0] == ranks[1] and ranks[2] == ranks[3]
        assert len(set(ranks.tolist())) == 7


def test_the_same_randomness_is_the_same_tournament():
    first, again, other = (
        [
            (m.first, m.second)
            for m in play(active(7, rng(seed)), noisy(np.arange(7.0), rng(9))).matches
        ]
        for seed in (1, 1, 2)
    )
    assert first == again != other


def test_nonsense_is_refused():
    with pytest.raises(ValueError, match="matches"):
        active(4, rng(0), matches=-1)
    with pytest.raises(ValueError, match="prior"):
        play(active(4, rng(0), prior=0.0), exact(np.arange(4.0)))
    with pytest.raises(ValueError, match=r"shape \(4,\) or \(4, 2\), got \(3,\)"):
        play(active(4, rng(0)), lambda pairs: np.zeros(3))
