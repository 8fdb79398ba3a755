from __future__ import annotations

import pytest

from rlagents.bench.sandbox import run
from rlagents.envs.sandbox.choice import cached_problem, chosen


def test_a_small_run_reports_every_figure() -> None:
    if (problem := cached_problem(chosen("auto"))) is not None:
        pytest.skip(problem)
    result = run(repeats=2, runs=2, turns=3, sandboxes=6, at_once=3)
    assert set(result.figures) == {
        "bare_ms",
        "overhead_ms",
        "create_ms",
        "full_ms",
        "roundtrip_ms",
        "shell_roundtrip_ms",
        "failures",
        "crowd_s",
    }
    assert result.figures["failures"].high == 0
    assert result.figures["full_ms"].low > result.figures["create_ms"].low > 0
    assert len(result.rows) == 2
    assert result.machine["tier"] == chosen("auto")
