"""Least squares at a point of the grid, and what totals may and may not do."""

import math

import numpy as np
import pytest

from rlagents.algos import posterior as module
from rlagents.algos.posterior import posterior
from rlagents.algos.ratings import fit_margins

NAN = math.nan


def all_pairs(size):
    return np.array([(a, b) for a in range(size) for b in range(a + 1, size)], np.int32)


def seen(size, *, seed, drift=0.0, noise=1.0):
    """(qualities, pairs, margins, totals) of a round robin."""
    rng = np.random.default_rng(seed)
    qualities, pairs = rng.normal(size=size), all_pairs(size)
    first, second = qualities[pairs].T
    margins = first - second + noise * rng.normal(size=len(pairs))
    shift = math.sqrt(2) * drift * rng.normal(size=len(pairs))
    totals = 14 + first + second + shift + noise * rng.normal(size=len(pairs))
    return qualities, pairs, margins, totals


def test_exact_margins_are_not_shrunk():
    qualities, pairs, margins, totals = seen(5, seed=0, noise=0.0)
    for told in (totals, np.full_like(totals, NAN)):
        mean = posterior(pairs, margins, told, 5, prior=1.0).mean
        assert np.diff(mean) == pytest.approx(np.diff(qualities), abs=1e-5)


def test_the_mean_lies_between_no_and_strong_shrinking_and_scales_with_the_margins():
    _, pairs, margins, totals = seen(6, seed=1)
    unknown = np.full_like(totals, NAN)
    found = posterior(pairs, margins, unknown, 6, prior=1.0)
    weak, _ = fit_margins(pairs, margins, 6, prior=1e-8)
    strong, _ = fit_margins(pairs, margins, 6, prior=8.0)
    assert np.linalg.norm(strong) < np.linalg.norm(found.mean) < np.linalg.norm(weak)
    assert found.ratio == math.inf
    for factor in (1e-3, 1e3):
        scaled = posterior(pairs, factor * margins, factor * unknown, 6, prior=1.0)
        assert scaled.mean == pytest.approx(factor * found.mean)
        assert scaled.noise == pytest.approx(factor**2 * found.noise)


def test_a_level_that_all_totals_share_says_nothing():
    _, pairs, margins, totals = seen(6, seed=2)
    here = posterior(pairs, margins, totals, 6, prior=1.0)
    there = posterior(pairs, margins, totals + 100, 6, prior=1.0)
    assert there.mean == pytest.approx(here.mean, abs=1e-9)


def error(seed, drift, *, with_totals):
    qualities, pairs, margins, totals = seen(10, seed=seed, drift=drift)
    told = totals if with_totals else np.full_like(totals, NAN)
    mean = posterior(pairs[::2], margins[::2], told[::2], 10, prior=1.0).mean
    return float(((mean - mean.mean() - qualities + qualities.mean()) ** 2).mean())


def test_totals_help_where_calls_do_not_drift_and_hardly_hurt_where_they_do():
    def mean_error(drift, with_totals):
        return np.mean([error(seed, drift, with_totals=with_totals) for seed in range(40)])

    assert mean_error(0.0, True) < 0.8 * mean_error(0.0, False)
    assert mean_error(30.0, True) == pytest.approx(mean_error(30.0, False), rel=0.01)


def test_totals_of_a_judge_that_shares_out_its_marks_are_found_mute():
    _, pairs, margins, _ = seen(12, seed=3)
    rng = np.random.default_rng(0)
    shared_out = 10 + 0.1 * rng.normal(size=len(pairs))
    without = posterior(pairs, margins, np.full(len(pairs), NAN), 12, prior=1.0)
    found = posterior(pairs, margins, shared_out, 12, prior=1.0)
    assert found.ratio == math.inf
    assert found.mean == pytest.approx(without.mean, abs=0.05)


def test_where_every_match_is_a_tie_totals_part_nobody():
    pairs = all_pairs(4)
    found = posterior(pairs, np.zeros(6), np.arange(6.0), 4, prior=1.0)
    assert found.mean.tolist() == [0, 0, 0, 0]


def test_absurd_totals_and_margins_change_nothing_and_break_nothing():
    _, pairs, margins, _ = seen(4, seed=4)
    without = posterior(pairs, margins, np.full(6, NAN), 4, prior=1.0).mean
    for absurd in (np.full(6, 1e300), np.array([1e300, -1e300, 1e308, NAN, 1e200, 5e100])):
        assert posterior(pairs, margins, absurd, 4, prior=1.0).mean.tolist() == without.tolist()
    tiny = posterior(pairs, 1e-200 * margins, np.full(6, 14.0), 4, prior=1.0).mean
    assert tiny == pytest.approx(1e-200 * without, rel=1e-6)


def test_missing_matches_do_not_count():
    _, pairs, margins, totals = seen(4, seed=5)
    gap = margins.copy()
    gap[2] = NAN
    kept = np.arange(6) != 2
    with_gap = posterior(pairs, gap, totals, 4, prior=1.0)
    without = posterior(pairs[kept], margins[kept], totals[kept], 4, prior=1.0)
    assert with_gap.mean.tolist() == without.mean.tolist()


def test_the_grid_holds_the_prior_and_no_ratio_that_a_total_cannot_have():
    assert 1.0 in module.PRIORS
    assert min(module.RATIOS) == 1.0
