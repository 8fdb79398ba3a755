"""The benchmark runs, and its lengths are what it says."""

import numpy as np

from rlagents.bench.partial import Lengths, run


def test_it_reports_both_sides() -> None:
    result = run(repeats=1, iterations=3, groups=2, low=1, spread=5, step_s=0.0)
    assert [row["rollouts"] for row in result.rows] == ["waits for all", "partial"]
    assert all(row["tokens"] > 0 and row["idle s"] > 0 for row in result.rows)
    assert result.rows[0]["staleness"] == 0
    assert set(result.figures) == {"idle_ratio", "idle_ratio_steady"}
    assert "idle_ratio" in result.table()


def test_lengths_are_spread_log_uniformly() -> None:
    env, lengths = Lengths(low=2, high=40), []
    for seed in range(400):
        env.reset(seed=seed)
        turns, over = 0, False
        while not over:
            _, _, over, _, _ = env.step("b")
            turns += 1
        lengths.append(turns)
    assert min(lengths) == 2 and max(lengths) == 40
    # The median of log-uniform lengths is the geometric mean of the bounds: sqrt(2 x 41) = 9.06.
    assert 7 <= np.median(lengths) <= 11
