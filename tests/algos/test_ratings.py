"""Ratings by hand, and what no data can settle."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlagents.algos.ratings import bradley_terry, deviations, elo, fit_margins, rate

NAN = math.nan


def f32(*values):
    return np.array(values, np.float32)


def pairs(*values):
    return np.array(values, np.int32).reshape(-1, 2)


def test_one_margin_is_shared_out_and_shrunk():
    # A = [[1 + p, -1], [-1, 1 + p]], p = 1: A^-1 = [[2, 1], [1, 2]] / 3. X'm = (3, -3).
    strengths, covariance = fit_margins(pairs((0, 1)), f32(3), 2, prior=1)
    assert strengths == pytest.approx([1, -1])
    assert covariance == pytest.approx(np.array([[2, 1], [1, 2]]) / 3)


def test_exact_margins_with_hardly_a_prior_give_the_differences():
    strengths, _ = fit_margins(pairs((0, 1), (1, 2), (0, 2)), f32(1, 2, 3), 3, prior=1e-9)
    assert strengths == pytest.approx([4 / 3, 1 / 3, -5 / 3], abs=1e-6)


def test_without_a_prior_each_part_is_centred_by_itself():
    strengths, covariance = fit_margins(pairs((0, 1), (2, 3)), f32(2, 8), 5, prior=0)
    assert strengths == pytest.approx([1, -1, 4, -4, 0])
    assert np.isfinite(covariance).all()


def test_missing_margins_are_no_matches():
    known = fit_margins(pairs((0, 1)), f32(1), 3, prior=1)
    with_gap = fit_margins(pairs((0, 1), (1, 2)), f32(1, NAN), 3, prior=1)
    assert with_gap[0].tolist() == known[0].tolist()
    assert with_gap[0][2] == 0 and with_gap[1][2, 2] == 1  # its prior


def test_no_matches_leave_the_prior():
    strengths, covariance = fit_margins(pairs(), f32(), 2, prior=2)
    assert strengths.tolist() == [0, 0] and covariance.tolist() == [[0.5, 0], [0, 0.5]]


@pytest.mark.parametrize("wins", [(1, 1, 1, 0), (1, 1, 0.5, 0.5), (0.75,) * 4])
def test_three_wins_of_four_are_190_85_points(wins):
    # P = 3/4: s1 - s2 = ln 3, 400 log10(3) = 190.85. A draw is half a win each way.
    found = elo(bradley_terry(pairs(*[(0, 1)] * 4), f32(*wins), 2, prior=0))
    assert found[0] - found[1] == pytest.approx(190.85, abs=0.01)
    assert found.mean() == pytest.approx(1500)


def test_the_prior_is_that_many_draws_with_an_average_player():
    # Two players, one win, prior 2 (a win and a loss against strength 0 each). By symmetry s, -s:
    # expected wins of the first, 1 / (1 + e^-2s) + 2 / (1 + e^-s), must be its 1 + 1.
    first, second = bradley_terry(pairs((0, 1)), f32(1), 2, prior=2)
    assert first == pytest.approx(-second)
    assert 1 / (1 + math.exp(-2 * first)) + 2 / (1 + math.exp(-first)) == pytest.approx(2)


@pytest.mark.parametrize("prior", [0, 1e-6, 1.0])
def test_unbeaten_and_unconnected_members_have_finite_strengths(prior):
    # 0 beats 1 beats 2, 3 beats 4, 5 met nobody.
    found = bradley_terry(pairs((0, 1), (1, 2), (3, 4)), f32(1, 1, 1), 6, prior=prior)
    assert np.isfinite(found).all()
    assert found[0] > found[1] > found[2] and found[3] > found[4]
    assert found[5] == pytest.approx(0, abs=1e-6)


def test_without_matches_everyone_is_average():
    assert bradley_terry(pairs(), f32(), 3, prior=0).tolist() == [0, 0, 0]
    assert bradley_terry(pairs((0, 1)), f32(NAN), 2, prior=1).tolist() == [0, 0]
    ratings = rate([], 2, rng=np.random.default_rng(0))
    assert [(r.low, r.elo, r.high, r.matches) for r in ratings] == [(1500, 1500, 1500, 0)] * 2


@given(
    st.lists(
        st.tuples(st.integers(0, 3), st.integers(1, 3), st.sampled_from([0, 0.5, 1])), max_size=12
    )
)
def test_swapping_a_match_changes_nothing(matches):
    found = [(a, (a + step) % 4, won) for a, step, won in matches]
    there = bradley_terry(
        pairs(*[(a, b) for a, b, _ in found]), f32(*[w for *_, w in found]), 4, prior=1
    )
    back = bradley_terry(
        pairs(*[(b, a) for a, b, _ in found]), f32(*[1 - w for *_, w in found]), 4, prior=1
    )
    assert there == pytest.approx(back, abs=1e-6)


def test_intervals_hold_the_rating_and_narrow_with_matches():
    def ratings(repeats):
        results = [(0, 1, 1), (0, 1, 0), (1, 2, 1), (1, 2, 1), (2, 1, 1), (0, 1, 1)] * repeats
        return rate(results, 3, rng=np.random.default_rng(0), resamples=50)

    few, many = ratings(2), ratings(40)
    for one in (*few, *many):
        assert one.low <= one.elo <= one.high
    assert many[0].high - many[0].low < few[0].high - few[0].low
    assert [one.matches for one in few] == [6, 12, 6]
    assert many[0].elo > many[1].elo > many[2].elo


def test_without_resamples_the_fit_has_its_own_width_and_missing_results_do_not_count():
    first, second = rate([(0, 1, 1), (0, 1, NAN)], 2, rng=np.random.default_rng(0), resamples=0)
    assert first.low < second.elo < first.elo < first.high
    assert first.matches == 1


@pytest.mark.parametrize(
    ("given_pairs", "values", "size", "prior", "message"),
    [
        (pairs((0, 0)), f32(1), 2, 1, "two different members"),
        (pairs((0, 2)), f32(1), 2, 1, "from 0 to 1"),
        (pairs((0, 1)), f32(1, 1), 2, 1, "each of 1 pairs"),
        (pairs((0, 1)), f32(math.inf), 2, 1, "infinite"),
        (pairs((0, 1)), f32(1), 2, -1, "prior"),
        (pairs(), f32(), 0, 1, "size"),
        (np.zeros((1, 3), np.int32), f32(1), 2, 1, "shape"),
    ],
)
def test_nonsense_is_refused(given_pairs, values, size, prior, message):
    for fit in (fit_margins, bradley_terry):
        with pytest.raises(ValueError, match=message):
            fit(given_pairs, values, size, prior=prior)


def test_wins_beyond_one_are_refused():
    with pytest.raises(ValueError, match="from 0 to 1"):
        bradley_terry(pairs((0, 1)), f32(2), 2, prior=1)


def test_deviations_by_hand() -> None:
    # Two equals, 4 games: information [[1, -1], [-1, 1]] + I / 4. Less the mean only the
    # difference counts: eigenvalue 2 + 1/4, each has half of its variance. Less the first, the
    # second has all of it: twice the deviation.
    pairs = np.array([[0, 1]] * 4, np.int32)
    half = math.sqrt(0.5 / 2.25)
    assert deviations(pairs, np.zeros(2)) == pytest.approx([half, half])
    assert deviations(pairs, np.zeros(2), anchor=0) == pytest.approx([0, 2 * half])


def test_an_anchor_has_1500_whoever_joins() -> None:
    games = [(1, 0, 1.0), (1, 0, 0.0), (1, 0, 1.0), (1, 0, 1.0)]
    weak = [(2, 0, 0.0), (2, 1, 0.0)] * 20
    few = rate(games, 2, rng=np.random.default_rng(0), anchor=0)
    many = rate(games + weak, 3, rng=np.random.default_rng(0), anchor=0)
    assert few[0].elo == few[0].low == few[0].high == many[0].elo == 1500
    assert many[1].elo == pytest.approx(few[1].elo, abs=25)
    assert few[1].low < few[1].elo < few[1].high


def test_one_outcome_only_is_no_certainty_and_blocks_go_together() -> None:
    sweep = rate([(0, 1, 1.0)] * 8, 2, rng=np.random.default_rng(0))
    assert sweep[0].high - sweep[0].low > 200
    copies = [(0, 1, float(i % 2)) for i in range(20) for _ in range(20)]
    apart = rate(copies, 2, rng=np.random.default_rng(0))[0]
    together = rate(
        copies, 2, rng=np.random.default_rng(0), blocks=[i for i in range(20) for _ in range(20)]
    )[0]
    assert together.high - together.low > 2 * (apart.high - apart.low)
    with pytest.raises(ValueError, match="a label for each of 400 results, got 1"):
        rate(copies, 2, rng=np.random.default_rng(0), blocks=[0])
