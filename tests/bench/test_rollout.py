from __future__ import annotations

from rlagents.bench.rollout import run


def test_a_small_run_reports_both_figures() -> None:
    result = run(
        repeats=1,
        conversations=2,
        turns=3,
        generate_turns=1,
        long_conversations=1,
        full_turn=5,
        late_turn=8,
    )
    assert set(result.figures) == {"vs_generate", "turn256_over_turn32"}
    assert all(f.low > 0 for f in result.figures.values())
    assert len(result.rows) == 4
    assert 830_000 < result.machine["parameters"] < 870_000
