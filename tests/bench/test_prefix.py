from __future__ import annotations

import pytest

from rlagents.bench.prefix import run
from rlagents.config import TinySection


def test_a_small_run_reports_what_was_computed_and_the_same_gradient() -> None:
    result = run(window=256, repeats=1, sizes=TinySection(width=32, mlp=64))
    speedups = {f"speedup_{name}" for name in ("group16", "trajectory", "composed")}
    assert set(result.figures) == speedups | {"gradient_error"}
    assert result.figures["gradient_error"].high < 1e-5
    rows = {row["batch"]: row for row in result.rows}
    # 16 segments of 256 tokens, of which 179 (70%) are shared and the last is trained.
    computed = rows["group16"]["computed"]
    assert rows["group16"]["tokens"] == 16 * 256
    assert 179 + 16 * 75 <= computed <= 2 * 179 + 16 * 77
    assert rows["group16"]["bound"] == pytest.approx(16 * 256 / computed)
    # A card of 128, then in each of 4 trajectories a turn of 32 and 8 times 96; a card and a turn
    # more for each of two passes after the first.
    assert rows["composed"]["tokens"] == 32 * 256
    assert rows["composed"]["computed"] <= 3 * 128 + 6 * 32 + 32 * 96
