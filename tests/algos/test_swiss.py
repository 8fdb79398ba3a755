"""The Swiss system: points, rests and rematches, by hand and against enumeration."""

from itertools import chain

import numpy as np
import pytest
from scipy.stats import kendalltau

from rlagents.algos.swiss import swiss, swiss_rounds
from rlagents.algos.tournaments import play

NAN = np.nan


def rng(*seed):
    return np.random.default_rng(seed)


def exact(quality):
    """A judge who is never wrong."""
    quality = np.asarray(quality, np.float32)
    return lambda pairs: quality[pairs[:, 0]] - quality[pairs[:, 1]]


def noisy(seed):
    draw = rng(seed, 9)
    return lambda pairs: draw.choice([-1, 0, 1, NAN], size=len(pairs)).astype(np.float32)


def by_round(matches):
    found = {}
    for m in matches:
        found.setdefault(m.round, []).append(frozenset((m.first, m.second)))
    return [found[number] for number in sorted(found)]


@pytest.mark.parametrize(
    ("size", "rounds"),
    [(1, 0), (2, 1), (3, 3), (4, 3), (5, 4), (6, 4), (7, 4), (8, 4), (9, 5), (16, 5), (33, 7)],
)
def test_rounds(size, rounds):
    assert swiss_rounds(size) == rounds


def test_as_many_rounds_as_wanted():
    assert swiss_rounds(4, 9) == 9
    standing = play(swiss(4, rng(0), rounds=9), exact([1, 2, 3, 4]))
    assert standing.comparisons == 18
    counts = {}
    for pair in chain(*by_round(standing.matches)):
        counts[pair] = counts.get(pair, 0) + 1
    assert set(counts.values()) == {3}, "6 pairs, 18 matches: each as often as another"
    with pytest.raises(ValueError, match="rounds: expected 0 or more, got -1"):
        play(swiss(4, rng(0), rounds=-1), exact([1, 2, 3, 4]))


def test_the_second_round_pairs_winners_with_winners():
    course = swiss(4, rng(3))
    pairs = next(course)
    winners = course.send(np.array([1, -1], np.float32)).tolist()[0]
    assert set(winners) == {pairs[0, 0], pairs[1, 1]}


def test_three_meet_all_and_each_rests_once():
    # 2 beats both, 1 beats 0.
    standing = play(swiss(3, rng(0)), exact([0, 1, 5]))
    assert standing.comparisons == 3
    assert standing.ranks.tolist() == [3, 2, 1]
    assert standing.scores.tolist() == [0, 0.5, 1]


def test_equal_points_are_parted_by_performance():
    # a beats b by 4, c beats d by 1; then a beats c by 1 and d beats b by 2. One round is cut.
    # Points a 1, c and d 1/2, b 0. Means: a 2.5, b -3, c 0, d 0.5. Performance of c: mean of
    # 1 + 0.5 and -1 + 2.5 = 1.5; of d: mean of -1 + 0 and 2 - 3 = -1.
    course = swiss(4, rng(0), rounds=2)
    (a, b), (c, d) = next(course).tolist()
    table = {(a, c): 1, (c, a): -1, (b, d): -2, (d, b): 2}
    pairs = course.send(np.array([4, 1], np.float32)).tolist()
    with pytest.raises(StopIteration) as end:
        course.send(np.array([table[tuple(pair)] for pair in pairs], np.float32))
    assert end.value.value.ranks[[a, c, d, b]].tolist() == [1, 2, 3, 4]


@pytest.mark.parametrize("size", [3, 5, 7, 9, 15, 33])
def test_nobody_rests_twice_before_all_have(size):
    rounds = 2 * size
    standing = play(swiss(size, rng(size), rounds=rounds), noisy(size))
    rested = [0] * size
    for pairs in by_round(standing.matches):
        (idle,) = set(range(size)) - set().union(*pairs)
        rested[idle] += 1
        assert max(rested) - min(rested) <= 1
    assert rested == [2] * size


def test_a_rest_pairs_like_a_win():
    # Of five, one rests; of it and the two winners two meet, by lot, and the rest goes to a loser.
    met_a_winner = 0
    for seed in range(30):
        course = swiss(5, rng(seed))
        pairs = next(course)
        (idle,) = set(range(5)) - set(pairs.ravel().tolist())
        second = course.send(np.ones(2, np.float32))
        assert idle in second
        winners = set(pairs[:, 0].tolist())
        met_a_winner += any(idle in pair and winners & set(pair) for pair in second.tolist())
    assert 0 < met_a_winner < 30


def test_a_rest_is_no_win():
    # Round one of three: one rests, the other two tie; ties all the way: nobody is better.
    assert (
        len(set(play(swiss(3, rng(0)), lambda p: np.zeros(len(p), np.float32)).scores.tolist()))
        == 1
    )


@pytest.mark.parametrize("size", range(8, 34))
@pytest.mark.parametrize("seed", range(4))
def test_nobody_meets_twice(size, seed):
    for judge in (exact(rng(seed, size).normal(size=size)), noisy(seed)):
        pairs = [*chain(*by_round(play(swiss(size, rng(seed)), judge).matches))]
        assert len(pairs) == len(set(pairs))


def pairings(members):
    """All ways to pair an even number of members."""
    if not members:
        yield []
        return
    first, *rest = members
    for other in rest:
        for more in pairings([m for m in rest if m != other]):
            yield [frozenset((first, other)), *more]


@pytest.mark.parametrize("size", [4, 5, 6, 7])
@pytest.mark.parametrize("seed", range(30))
def test_a_rematch_only_where_every_pairing_has_one(size, seed):
    met, rested = set(), set()
    for pairs in by_round(play(swiss(size, rng(seed), rounds=size - 1), noisy(seed)).matches):
        if met & set(pairs):
            may_rest = [{m} for m in range(size) if m not in rested] if size % 2 else [set()]
            for idle in may_rest:
                playing = [m for m in range(size) if m not in idle]
                assert all(met & set(others) for others in pairings(playing))
            break
        met |= set(pairs)
        rested |= set(range(size)) - set().union(*pairs)


@pytest.mark.parametrize("size", range(2, 34))
def test_the_best_wins_for_every_draw(size):
    for seed in range(15):
        quality = rng(seed, size).normal(size=size)
        for rounds in (0, (size - 1).bit_length()):
            standing = play(swiss(size, rng(seed), rounds=rounds), exact(quality))
            assert np.flatnonzero(standing.ranks == 1).tolist() == [quality.argmax()]


def test_exact_margins_rank_sixteen_members():
    taus = []
    for seed in range(250):
        quality = rng(seed, 1).normal(size=16)
        taus.append(kendalltau(play(swiss(16, rng(seed)), exact(quality)).scores, quality)[0])
    assert np.mean(taus) > 0.85
