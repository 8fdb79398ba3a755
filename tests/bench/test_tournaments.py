"""The judge of the benchmark, its measures by hand, and its table."""

import json
import math

import numpy as np
import pytest

from rlagents.bench import tournaments as bench


def judge(qualities, drift, seed=0):
    return bench.Judge(np.array(qualities), drift=drift, rng=np.random.default_rng(seed))


@pytest.mark.parametrize("drift", [0.0, 3.0])
def test_margins_have_unit_noise_whatever_the_drift_and_no_bias(drift):
    pairs = np.tile(np.array([[0, 1]], np.int32), (20_000, 1))
    margins, totals = judge([2.0, 0.5], drift).compare(pairs).T
    # Two orders halve the variance of a difference of marks, 2: 1. What comes first cancels.
    assert margins.mean() == pytest.approx(1.5, abs=0.03)
    assert margins.std() == pytest.approx(1, abs=0.03)
    # 2 x 7 + 2.5 + 0.3; the drift of either call is in both of its marks.
    assert totals.mean() == pytest.approx(16.8, abs=0.12)
    assert totals.var() == pytest.approx(1 + 2 * drift**2, rel=0.05)


def test_calls_are_shared_out_and_counted():
    one = judge(np.zeros(4000), 0.0)
    marks = one.rate(4 * 4000)
    assert marks.mean() == pytest.approx(7, abs=0.05)
    assert marks.std() == pytest.approx(0.5, abs=0.03)  # 1 / sqrt(4)
    one.compare(np.array([[0, 1], [2, 3]], np.int32))
    assert (one.calls, one.rounds) == (16_004, 2)


def test_kendall_and_spearman_by_hand():
    true = np.array([1.0, 2.0, 3.0, 4.0])
    assert bench.kendall(true, true) == 1
    assert bench.kendall(true, -true) == -1
    # Pairs: 12 tied (0), 34 wrong (-1), the other four right: 3 / 6.
    scores = np.array([1.0, 1.0, 4.0, 3.0])
    assert bench.kendall(true, scores) == 0.5
    # Ranks 1.5 1.5 4 3 against 1 2 3 4: 3.5 / sqrt(5 x 4.5).
    assert bench.spearman(true, scores) == pytest.approx(3.5 / math.sqrt(22.5))
    assert bench.spearman(true, np.zeros(4)) == 0
    assert bench.kendall(np.ones(1), np.ones(1)) == 1


def test_the_table_has_a_row_for_each_size_and_scheme_and_all_figures():
    result = bench.run(groups=2, repeats=2, sizes=(4, 16), waits=())
    assert [row["scheme"] for row in result.rows] == 2 * list(bench.SCHEMES)
    calls = {row["scheme"]: row["calls"] for row in result.rows if row["N"] == 16}
    assert calls["pointwise, equal calls"] == calls["active"] == calls[bench.OURS] == 60
    assert calls["round_robin"] == 240
    figures = json.loads(result.to_json())["figures"]
    assert {f"best_over_round_robin_drift{drift}" for drift in (0, 1, 2)} <= set(figures)
    assert all(math.isfinite(f["median"]) for f in figures.values())


def test_wall_time_is_that_of_the_scorer_itself():
    found = bench.wall_over_ideal(4, seed=0, size=3, groups=2, latency_s=0.001)
    assert found >= 1 and math.isfinite(found)
