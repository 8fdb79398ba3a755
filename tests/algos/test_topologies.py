"""The contract of every topology: cost, champion, ties, order of members, missing verdicts."""

from functools import partial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlagents.algos.advantages import group_relative
from rlagents.algos.rewards import rewards_of
from rlagents.algos.topologies import expected_comparisons, topology
from rlagents.algos.tournaments import play, with_verdicts
from rlagents.config.scoring import RewardName, TopologyName

NAMES = TopologyName.__args__
KINDS = RewardName.__args__
SIZES = range(2, 34)


def rng(*seed):
    return np.random.default_rng(seed)


def exact(quality):
    """A judge who is never wrong."""
    quality = np.asarray(quality, np.float32)
    return lambda pairs: quality[pairs[:, 0]] - quality[pairs[:, 1]]


def tied(pairs):
    return np.zeros(len(pairs), np.float32)


def advantages(scores):
    """[N] as GRPO takes them."""
    size = len(scores)
    (found,) = group_relative(
        [scores],
        [np.ones(size, bool)],
        baseline="group",
        scale="group",
        lengths=[np.ones(size, np.int32)],
    )
    return found


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("size", SIZES)
def test_a_judge_who_is_never_wrong_finds_the_best(name, size):
    for seed in range(6):
        quality = rng(seed, size).normal(size=size)
        standing = play(topology(name)(size, rng(seed)), exact(quality))
        assert np.flatnonzero(standing.ranks == 1).tolist() == [quality.argmax()]
        assert standing.scores.argmax() == quality.argmax()
        assert standing.scores.dtype == standing.ranks.dtype == np.float32


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("size", [1, *SIZES])
def test_comparisons_are_as_many_as_expected(name, size):
    for judge in (exact(rng(size).normal(size=size)), tied):
        standing = play(topology(name)(size, rng(size)), judge)
        assert standing.comparisons == expected_comparisons(name, size)
        assert all(m.first != m.second for m in standing.matches)


@pytest.mark.parametrize(
    ("name", "options", "at_eight", "at_seven"),
    [
        ("round_robin", {}, 28, 21),
        ("anchor", {}, 7, 6),
        ("seeded_single_elimination", {}, 14, 12),
        ("double_elimination", {}, 14, 12),
        ("swiss", {}, 4 * 4, 3 * 4),
        ("swiss", {"rounds": 2}, 8, 6),
        ("seeded_margins", {}, 14, 12),
        ("active", {}, 14, 12),
        ("active", {"matches": 20}, 20, 20),
    ],
)
def test_closed_forms(name, options, at_eight, at_seven):
    for size, wanted in ((8, at_eight), (7, at_seven)):
        assert expected_comparisons(name, size, **options) == wanted
        standing = play(topology(name, **options)(size, rng(0)), exact(range(size)))
        assert standing.comparisons == wanted


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [2, 3, 5, 6, 7, 8, 16, 33])
def test_where_all_tie_nobody_has_an_advantage(name, kind, size):
    for missing in (0, 0.3):
        for seed in range(3):
            lost = rng(seed, size)
            standing = play(
                topology(name)(size, rng(seed)),
                lambda p, g=lost, m=missing: np.where(g.random(len(p)) < m, np.nan, tied(p)),
            )
            scores = rewards_of(standing, kind, prior=1.0)
            assert len(set(scores[~np.isnan(scores)].tolist())) <= 1
            assert not advantages(scores).any()


@pytest.mark.parametrize("name", NAMES)
def test_one_member_and_none(name):
    standing = play(topology(name)(1, rng(0)), tied)
    assert (standing.scores.tolist(), standing.ranks.tolist()) == ([0], [1])
    assert standing.matches == ()
    with pytest.raises(ValueError, match="got 0"):
        play(topology(name)(0, rng(0)), tied)
    with pytest.raises(ValueError, match="got 0"):
        expected_comparisons(name, 0)


def test_an_unknown_name():
    for call in (topology, lambda name: expected_comparisons(name, 4)):
        with pytest.raises(ValueError, match="one of round_robin, anchor, .* got 'ladder'"):
            call("ladder")


def after(name, quality, order, seed):
    """Scores of members by quality, when they are numbered in another order."""
    standing = play(topology(name)(len(quality), rng(seed)), exact(quality[order]))
    scores = np.empty(len(quality))
    scores[order] = standing.scores
    return scores


@given(st.integers(2, 12), st.integers(0, 1000))
@settings(max_examples=30, deadline=None)
def test_round_robin_does_not_look_at_numbers(size, seed):
    quality = rng(seed).normal(size=size)
    order = rng(seed, 1).permutation(size)
    same = np.arange(size)
    assert (
        after("round_robin", quality, order, 0).tolist()
        == after("round_robin", quality, same, 1).tolist()
    )


@pytest.mark.parametrize("name", [n for n in NAMES if n != "round_robin"])
def test_on_average_the_order_of_members_is_nothing(name):
    """Each member's mean score over draws, with two numberings: within five standard errors."""
    size, draws = 6, 300
    quality = rng(7).normal(size=size)
    reverse = np.arange(size)[::-1]
    here = np.array([after(name, quality, np.arange(size), s) for s in range(draws)])
    there = np.array([after(name, quality, reverse, draws + s) for s in range(draws)])
    error = np.sqrt((here.var(0) + there.var(0)) / draws)
    assert (np.abs(here.mean(0) - there.mean(0)) <= 5 * error + 1e-5).all()


@pytest.mark.parametrize("name", NAMES)
def test_the_same_generator_plays_the_same(name):
    quality = rng(3).normal(size=11)
    first, second = (play(topology(name)(11, rng(5)), exact(quality)) for _ in range(2))
    assert first.matches == second.matches
    assert first.scores.tolist() == second.scores.tolist()


@pytest.mark.parametrize("name", NAMES)
@given(data=st.data())
@settings(max_examples=60, deadline=None)
def test_any_verdict_may_be_missing(name, data):
    size = data.draw(st.integers(1, 9))
    seed = data.draw(st.integers(0, 99))
    verdict = st.sampled_from([-2.0, -1.0, 0.0, 0.5, 3.0, np.nan, np.nan, np.inf])

    def judge(pairs):
        one_each = st.lists(verdict, min_size=len(pairs), max_size=len(pairs))
        return np.array(data.draw(one_each), np.float32)

    standing = play(topology(name)(size, rng(seed)), judge)
    assert standing.comparisons == expected_comparisons(name, size)
    met = {k for m in standing.matches if np.isfinite(m.margin) for k in (m.first, m.second)}
    has = [member in met or size == 1 for member in range(size)]
    assert (~np.isnan(standing.scores)).tolist() == has
    assert (~np.isnan(standing.ranks)).tolist() == has
    count = sum(has)
    assert np.nansum(standing.ranks) == count * (count + 1) / 2
    for kind in KINDS:
        rewards = rewards_of(standing, kind, prior=1.0)
        assert rewards.dtype == np.float32
        assert (~np.isnan(rewards)).tolist() == has
    order = np.argsort(standing.ranks)[:count]
    assert (np.diff(standing.scores[order]) <= 0).all()


class Renumbered:
    """A generator whose draws are those of another one, told to members with other numbers.

    `new[m]` is what member m is called now. A permutation of all members is a list of them, or, of
    the bracket that seeds, a lot for each; shorter ones are of places, which know no numbers.
    """

    def __init__(self, seed, new, *, lots):
        self._rng, self._new, self._lots = rng(seed), new, lots

    def permutation(self, size):
        drawn = self._rng.permutation(size)
        if size != len(self._new):
            return drawn
        return drawn[np.argsort(self._new)] if self._lots else self._new[drawn]

    def integers(self, size):
        drawn = self._rng.integers(size)
        return self._new[drawn] if self._anchors(size) else drawn

    def _anchors(self, size):
        return size == len(self._new) and self._lots is not None


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("size", [2, 3, 5, 8, 13])
@pytest.mark.parametrize("missing", [0.0, 0.2])
def test_renumbered_members_with_a_renumbered_draw_stand_as_before(name, size, missing):
    # `integers` draws a member for the anchor, and one of equal pairs, by places, for the fits.
    lots = {"active": None, "seeded_margins": None}.get(name, name == "seeded_single_elimination")
    for seed in range(5):
        new = rng(seed, size).permutation(size)
        noise = rng(seed, 1).normal(size=(size, size)).astype(np.float32)
        noise = np.round(np.triu(noise, 1) - np.triu(noise, 1).T, 1)  # with ties
        noise[rng(seed, 2).random((size, size)) < missing] = np.nan
        noise = (noise - noise.T) / 2

        def margins(pairs, old, noise=noise):
            return noise[old[pairs[:, 0]], old[pairs[:, 1]]]

        here = play(topology(name)(size, rng(seed)), partial(margins, old=np.arange(size)))
        there = play(
            topology(name)(size, Renumbered(seed, new, lots=lots)),
            partial(margins, old=np.argsort(new)),
        )
        np.testing.assert_array_equal(there.scores[new], here.scores)
        np.testing.assert_array_equal(there.ranks[new], here.ranks)
        met = [sorted((int(new[m.first]), int(new[m.second]))) for m in here.matches]
        assert sorted(met) == sorted(sorted((m.first, m.second)) for m in there.matches)


SILENCER, GROUP = 0, 8


def mean_place(name, *, silent, least=0.5, groups=150):
    """Of a member for whom the judge falls silent, or not, whenever it is about to lose.

    Without a score it is counted as the last.
    """
    places = []
    for seed in range(groups):
        quality = rng(seed, 7).normal(size=GROUP)
        noise = rng(seed, 8)

        def judge(pairs, quality=quality, noise=noise):
            margins = quality[pairs[:, 0]] - quality[pairs[:, 1]] + noise.normal(size=len(pairs))
            own = np.where(pairs[:, 0] == SILENCER, margins, -margins)
            lost = (pairs == SILENCER).any(1) & (own < 0)
            return np.where(lost & silent, np.nan, margins)

        standing = with_verdicts(play(topology(name)(GROUP, rng(seed)), judge), least)
        place = standing.ranks[SILENCER]
        places.append(GROUP if np.isnan(place) else place)
    return np.mean(places)


@pytest.mark.parametrize("name", NAMES)
def test_losing_the_verdicts_of_lost_matches_does_not_pay(name):
    assert mean_place(name, silent=True) > mean_place(name, silent=False) - 0.6


def test_it_would_pay_if_few_verdicts_were_enough():
    assert mean_place("round_robin", silent=True, least=0) < 2.5
    assert mean_place("round_robin", silent=False, least=0) > 4
