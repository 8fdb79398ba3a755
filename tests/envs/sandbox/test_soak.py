"""A short soak; `rlagents bench sandbox-soak` is the long one."""

from __future__ import annotations

import pytest

from rlagents.bench.soak_programs import PROGRAMS, Unexpected, require
from rlagents.bench.soak_sandbox import run, slope


def test_a_short_soak_leaves_nothing(tier: str) -> None:
    result = run(count=3 * len(PROGRAMS), tier=tier, at_once=3, samples=3)
    assert result.machine["unexpected"] == {}
    growth = {key: figure.median for key, figure in result.figures.items() if "_growth" in key}
    # The mounts and the groups of the machine are also other tests'.
    for key in ("processes_growth", "descriptors_growth", "threads_growth", "slots_growth"):
        assert growth[key] == 0, result.table()
    assert growth["temporary_growth"] == 0
    assert result.rows[-1]["runs"] == 3 * len(PROGRAMS)


def test_slope() -> None:
    assert slope({0: 100, 10: 120, 20: 140}) == pytest.approx(2.0)
    assert slope({5: 1}) == 0.0


def test_an_unexpected_end_is_told() -> None:
    require(True, "fine")
    with pytest.raises(Unexpected, match="odd"):
        require(False, "odd")
