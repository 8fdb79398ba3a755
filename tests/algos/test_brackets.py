"""Elimination brackets: draws and byes by hand, and who goes on where nothing is decided."""

import numpy as np
import pytest

from rlagents.algos.brackets import bracket_order, double_elimination, seeded_single_elimination
from rlagents.algos.tournaments import play

NAN = np.nan


def rng(seed=0):
    return np.random.default_rng(seed)


def exact(quality):
    """A judge who is never wrong."""
    quality = np.asarray(quality, np.float32)
    return lambda pairs: quality[pairs[:, 0]] - quality[pairs[:, 1]]


def in_turn(*judges):
    """Another judge each round; the last one stays."""
    left = list(judges)
    return lambda pairs: (left.pop(0) if len(left) > 1 else left[0])(pairs)


def silent(pairs):
    return np.full(len(pairs), NAN, np.float32)


def tied(pairs):
    return np.zeros(len(pairs), np.float32)


def rounds(standing, part):
    """Sets of members by round, of a part of the bracket."""
    found = {}
    for m in standing.matches:
        if m.part == part:
            found.setdefault(m.round, []).append({m.first, m.second})
    return [found[number] for number in sorted(found)]


def test_the_order_of_a_bracket():
    assert bracket_order(1) == [0]
    assert bracket_order(2) == [0, 1]
    assert bracket_order(8) == [0, 7, 3, 4, 1, 6, 2, 5]


@pytest.mark.parametrize("slots", [2, 4, 8, 16, 32, 64])
def test_the_best_seeds_meet_as_late_as_they_can(slots):
    order = bracket_order(slots)
    while len(order) > 1:
        assert sorted(order) == list(range(len(order)))
        assert all(a + b == len(order) - 1 for a, b in zip(order[::2], order[1::2], strict=True))
        order = [min(pair) for pair in zip(order[::2], order[1::2], strict=True)]


def test_top_seeds_have_the_byes():
    # Member i is the better the smaller i is: 6 seeds in 8 slots: 0 bye, 3-4, 1 bye, 2-5.
    standing = play(seeded_single_elimination(6, rng()), exact([6, 5, 4, 3, 2, 1]))
    assert rounds(standing, "winners") == [[{3, 4}, {2, 5}], [{0, 3}, {1, 2}], [{0, 1}]]
    assert standing.ranks.tolist() == [1, 2, 3, 4, 5, 6]
    np.testing.assert_allclose(standing.scores, [1, 0.8, 0.6, 0.4, 0.2, 0], rtol=1e-6)
    assert [m.part for m in standing.matches] == ["seeding"] * 5 + ["winners"] * 5


@pytest.mark.parametrize("undecided", [tied, silent])
@pytest.mark.parametrize("seed", range(5))
def test_an_undecided_match_goes_to_the_better_seed(undecided, seed):
    # Seeds by quality, whoever the anchor is: 1, 2, 3, 0. So 1-0 and 2-3, then 1-2.
    standing = play(
        seeded_single_elimination(4, rng(seed)), in_turn(exact([0, 9, 8, 7]), undecided)
    )
    assert rounds(standing, "winners") == [[{1, 0}, {2, 3}], [{1, 2}]]
    assert standing.ranks.tolist() == [4, 1, 2, 3]


def test_a_seed_that_is_not_known_is_the_mean_of_those_that_are():
    # The anchor is the second of each pair and stands at 0; the others have +3, unknown, -1.5:
    # the mean is 0.5, so the unknown one is second and meets the anchor first.
    course = seeded_single_elimination(4, rng())
    pairs = next(course)
    (strong, unknown, weak), anchored = pairs[:, 0].tolist(), int(pairs[0, 1])
    meetings = course.send(np.array([3, NAN, -1.5], np.float32)).tolist()
    assert [set(pair) for pair in meetings] == [{strong, weak}, {unknown, anchored}]


def test_who_is_put_out_by_lot_shares_a_place():
    # Seeds equal, the semi-finals won, the final tied: both finalists have the first place.
    standing = play(seeded_single_elimination(4, rng()), in_turn(tied, lambda p: tied(p) + 1, tied))
    assert sorted(standing.ranks.tolist())[:2] == [1.5, 1.5]


def test_nothing_but_silence_has_no_standing():
    for topology in (seeded_single_elimination, double_elimination):
        standing = play(topology(5, rng()), silent)
        assert np.isnan(standing.scores).all()
        assert standing.comparisons == 8


def test_double_elimination_of_two_plays_twice():
    standing = play(double_elimination(2, rng()), exact([1, 2]))
    assert [m.part for m in standing.matches] == ["winners", "final"]
    assert standing.ranks.tolist() == [2, 1]


def test_the_grand_final_decides_against_the_undefeated():
    # The one who lost the first match wins the second, which is the final.
    course = double_elimination(2, rng())
    first = next(course)[0, 0]
    final = course.send(np.array([1], np.float32))
    assert final[0, 0] == first, "the undefeated one stands first"
    with pytest.raises(StopIteration) as end:
        course.send(np.array([-0.5], np.float32))
    assert end.value.value.ranks[first] == 2


@pytest.mark.parametrize("undecided", [tied, silent])
def test_an_undecided_final_leaves_the_undefeated_first(undecided):
    course = double_elimination(2, rng())
    first = next(course)[0, 0]
    final = course.send(np.array([1], np.float32))
    with pytest.raises(StopIteration) as end:
        course.send(undecided(final))
    assert end.value.value.ranks[first] == 1


@pytest.mark.parametrize("undecided", [tied, silent])
def test_the_undefeated_stays_first_with_the_smaller_margins(undecided):
    # Of three: a beats b and then c by 0.25 each, b and c play for the final, a 9. Undecided.
    narrow, wide = (lambda pairs: tied(pairs) + 0.25), (lambda pairs: tied(pairs) + 9)
    standing = play(double_elimination(3, rng()), in_turn(narrow, narrow, wide, undecided))
    final = standing.matches[-1]
    assert [m.part for m in standing.matches] == ["winners", "winners", "losers", "final"]
    assert standing.ranks[[final.first, final.second]].tolist() == [1, 2]


@pytest.mark.parametrize("size", range(2, 34))
@pytest.mark.parametrize("seed", range(3))
def test_everyone_but_the_champion_of_double_elimination_is_beaten_twice(size, seed):
    quality = rng(seed).normal(size=size)
    standing = play(double_elimination(size, rng(seed)), exact(quality))
    losses = np.zeros(size, int)
    for m in standing.matches:
        losses[m.first if m.margin < 0 else m.second] += 1
    assert losses[quality.argmax()] == 0
    assert sorted(losses)[1:] == [2] * (size - 1)
    final = standing.matches[-1]
    assert final.part == "final"
    assert sum(m.part == "winners" for m in standing.matches) == size - 1
    assert sum(m.part == "losers" for m in standing.matches) == size - 2
    # The last to go out before the final is third.
    assert {int(place) for place in standing.ranks[[final.first, final.second]]} == {1, 2}


@pytest.mark.parametrize("size", range(2, 34))
def test_nobody_plays_twice_in_a_round(size):
    standing = play(double_elimination(size, rng(1)), exact(rng(2).normal(size=size)))
    for number in range(standing.matches[-1].round + 1):
        playing = [k for m in standing.matches if m.round == number for k in (m.first, m.second)]
        assert len(playing) == len(set(playing))
