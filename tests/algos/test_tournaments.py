"""What all tournaments share, round robin and anchor: numbers by hand, and what may be missing."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlagents.algos.tournaments import (
    Match,
    anchor,
    evened,
    held,
    mean_margins,
    play,
    quantiles,
    ranks_of,
    round_robin,
    standing_by_keys,
    standing_of,
    win_shares,
    with_verdicts,
)

NAN = np.nan


def f32(*values):
    return np.array(values, np.float32)


def rng(seed=0):
    return np.random.default_rng(seed)


def told(*margins):
    """A judge of one round that says these margins."""
    return lambda pairs: f32(*margins)


def match(first, second, margin):
    return Match(first=first, second=second, margin=margin, round=0)


def test_round_robin_asks_for_all_pairs_at_once():
    course = round_robin(4, rng())
    pairs = next(course)
    assert pairs.tolist() == [[0, 1], [0, 2], [0, 3], [1, 2], [1, 3], [2, 3]]
    assert pairs.dtype == np.int32


def test_round_robin_counts_wins_and_half_the_ties():
    # Pairs 01 02 12: 0 beats 1, ties with 2; 1 beats 2. Wins 1.5, 1, 0.5 of two each.
    standing = play(round_robin(3, rng()), told(4, 0, 0.1))
    assert standing.scores.tolist() == [0.75, 0.5, 0.25]
    assert standing.ranks.tolist() == [1, 2, 3]
    assert standing.comparisons == 3
    assert standing.matches[2] == Match(
        first=1, second=2, margin=float(np.float32(0.1)), round=0, part=""
    )


def test_a_missing_match_is_neither_lost_nor_tied():
    # 0 beats 1; 1 beats 2; nothing is known of 02: 1 of 1, 1 of 2, 0 of 1.
    standing = play(round_robin(3, rng()), told(1, NAN, 1))
    assert standing.scores.tolist() == [1, 0.5, 0]
    assert standing.comparisons == 3


def test_a_member_without_a_verdict_has_no_score_and_no_rank():
    standing = play(round_robin(3, rng()), told(1, NAN, NAN))
    np.testing.assert_array_equal(standing.scores, f32(1, 0, NAN))
    np.testing.assert_array_equal(standing.ranks, f32(1, 2, NAN))


@pytest.mark.parametrize("broken", [np.inf, -np.inf, NAN])
def test_what_is_not_a_number_is_no_verdict(broken):
    standing = play(round_robin(2, rng()), told(broken))
    assert np.isnan(standing.scores).all()
    assert math.isnan(standing.matches[0].margin)


def test_the_margin_against_the_anchor_is_the_score():
    # Others 0, 2 and 3 meet member 1.
    standing = play(anchor(4, rng(), member=1), told(2, -1, 0))
    assert standing.scores.tolist() == [2, 0, -1, 0]
    assert standing.ranks.tolist() == [1, 2.5, 4, 2.5]
    assert standing.comparisons == 3


def test_an_anchor_that_met_nobody_has_no_score():
    assert np.isnan(play(anchor(3, rng(), member=0), told(NAN, NAN)).scores).all()
    partly = play(anchor(3, rng(), member=0), told(NAN, 2))
    np.testing.assert_array_equal(partly.scores, f32(0, NAN, 2))


def test_the_anchor_is_drawn():
    drawn = {next(anchor(5, rng(seed)))[0, 1] for seed in range(60)}
    assert drawn == set(range(5))


@pytest.mark.parametrize("member", [-1, 3])
def test_an_anchor_is_a_member(member):
    with pytest.raises(ValueError, match=f"from 0 to 2, got {member}"):
        play(anchor(3, rng(), member=member), told(0, 0))


@pytest.mark.parametrize("margins", [f32(1), f32(1, 2, 3, 4), np.zeros((3, 1), np.float32)])
def test_a_judge_gives_one_margin_a_pair(margins):
    with pytest.raises(ValueError, match=r"expected shape \(3,\)"):
        play(round_robin(3, rng()), lambda pairs: margins)


def test_the_matches_of_a_round_know_their_part():
    course = held([(0, 1), (2, 3)], 5, ["winners", "losers"])
    next(course)
    with pytest.raises(StopIteration) as end:
        course.send(f32(1, -2))
    assert end.value.value == [
        Match(first=0, second=1, margin=1, round=5, part="winners"),
        Match(first=2, second=3, margin=-2, round=5, part="losers"),
    ]


def test_means_are_over_verdicts():
    # 0: +3 and +1; 1: -3; 2: -1; 3 only met a judge who did not answer.
    matches = [match(0, 1, 3.0), match(2, 0, -1.0), match(2, 3, NAN)]
    np.testing.assert_array_equal(mean_margins(matches, 4), [2, -3, -1, NAN])
    np.testing.assert_array_equal(win_shares(matches, 4), [1, 0, 0, NAN])


@given(st.lists(st.floats(-9, 9, width=32), min_size=2, max_size=12), st.randoms())
def test_means_do_not_depend_on_the_order_of_matches(margins, random):
    matches = [match(0, 1, margin) for margin in margins]
    shuffled = random.sample(matches, len(matches))
    assert mean_margins(matches, 2).tolist() == mean_margins(shuffled, 2).tolist()


def test_equal_scores_share_their_mean_place():
    # 7 first; the 5s are second and third; 1 is last.
    ranks = ranks_of(f32(5, 7, NAN, 5, 1))
    np.testing.assert_array_equal(ranks, f32(2.5, 1, NAN, 2.5, 4))
    # n = 4: 1 - 1.5/3, 1 - 0/3, 1 - 3/3.
    np.testing.assert_array_equal(quantiles(ranks), f32(0.5, 1, NAN, 0.5, 0))


def test_a_rank_alone_is_quantile_zero():
    np.testing.assert_array_equal(quantiles(f32(NAN, 1)), f32(NAN, 0))


def test_keys_decide_from_left_to_right():
    matches = [match(0, 1, 1.0), match(2, 3, 1.0)]
    standing = standing_by_keys([(1, 5), (2, 0), (1, 6), (2, 0)], matches)
    assert standing.ranks.tolist() == [4, 1.5, 3, 1.5]
    np.testing.assert_allclose(standing.scores, [0, 5 / 6, 1 / 3, 5 / 6], rtol=1e-6)


def test_a_key_that_is_no_number_moves_nobody():
    # Members 1 and 3 have no verdict: 4 before 0 before 2, wherever they stand.
    matches = [match(0, 2, 1.0), match(0, 4, 1.0), match(1, 3, NAN)]
    standing = standing_by_keys([(2, 0), (NAN, NAN), (1, 9), (NAN, 0), (2, 1)], matches)
    np.testing.assert_array_equal(standing.ranks, f32(2, NAN, 3, NAN, 1))
    np.testing.assert_array_equal(standing.scores, f32(0.5, NAN, 0, NAN, 1))


def test_scores_without_a_verdict_are_dropped():
    standing = standing_of(f32(1, 2, 3), [match(0, 1, 0.0), match(1, 2, NAN)])
    np.testing.assert_array_equal(standing.scores, f32(1, 2, NAN))
    np.testing.assert_array_equal(standing.ranks, f32(2, 1, NAN))


def test_who_has_too_few_verdicts_has_no_score_and_the_others_keep_theirs():
    # 01 02 03 12 13 23: 3 has one verdict of three, a win; 0 has two wins of two.
    standing = play(round_robin(4, rng()), told(1, 1, NAN, 1, NAN, -1))
    assert standing.ranks.tolist() == [1.5, 3, 4, 1.5]
    kept = with_verdicts(standing, 0.5)
    # 0: 2 of 2; 1: 1 of 2, 2: 0 of 3.
    np.testing.assert_array_equal(kept.scores, f32(1, 0.5, 0, NAN))
    np.testing.assert_array_equal(kept.ranks, f32(1, 2, 3, NAN))
    assert kept.matches == standing.matches
    np.testing.assert_array_equal(with_verdicts(standing, 1 / 3).scores, standing.scores)


def test_a_group_of_one_needs_no_verdict():
    alone = play(round_robin(1, rng()), told())
    assert with_verdicts(alone, 1.0).scores.tolist() == [0]


def test_what_rounding_parts_is_equal_again():
    # The spread is 3: up to 3e-6 is rounding, from neighbour to neighbour.
    found = evened(np.array([1, 4, 1 + 2e-6, NAN, 2, 2 + 4e-6, 1 + 4e-6]))
    assert found[0] == found[2] == found[6] == pytest.approx(1 + 2e-6, abs=1e-12)
    assert found[4] < found[5] < found[1] == 4
    assert np.isnan(found[3])
    assert evened(np.array([0, 0.5, 0.9]), error=0.45).tolist() == [0.0, 0.7, 0.7]
    assert evened(np.array([NAN, 1.0]))[1] == 1
    assert evened(np.array([2.0, 2.0])).tolist() == [2, 2]


@pytest.mark.parametrize("unit", [1e-12, 1.0, 1e12])
def test_evening_does_not_depend_on_the_unit(unit):
    found = evened(np.array([0, 1e-8, 1, 1 + 1e-8]) * unit)
    assert len(set(found.tolist())) == 2
