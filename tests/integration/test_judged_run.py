"""Whole runs whose scores come from judges, some of whose calls fail."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from rlagents.scoring.judge import Candidate, Question
from tests.integration.small import done, metrics, refused, summary, write

FAILING: dict[str, Any] = {
    "name": "tournament",
    "judge": {"backend": "simulated", "failures": 0.3, "drift": 1.0},
}
WARM = {"episodes": 16, "epochs": 2}


def test_a_run_with_a_judge_that_fails_now_and_then(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    config = write(tmp_path, scoring=FAILING, warm_start=WARM)
    done(capsys, "train", config, f"run.dir={run}")
    lines = [line for line in metrics(run) if "judge/calls" in line]
    assert len(lines) == 3
    for line in lines:
        # 2 groups of 4, 2N - 2 = 6 matches, two calls each; groups sampled anew have as many.
        groups = line["judge/calls"] / 12
        assert groups == int(groups) >= 2
        assert line["score/comparisons_per_group"] == 6.0
        assert 0 < line["judge/missing_frac"] < 1
        assert 0 <= line["judge/position_bias"] <= 1
        assert "score/failed" in line
        assert "train/return_mean" in line
    assert summary(run)["iterations"] == 3
    assert -1 <= summary(run)["evals"][-1]["score_mean"] <= 1  # the return: nobody to compare with


def test_a_judge_that_never_answers_leaves_iterations_idle_and_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    dead = {**FAILING, "judge": {"backend": "simulated", "failures": 1.0}}
    config = write(tmp_path, scoring=dead, warm_start=WARM)
    out = " ".join(done(capsys, "train", config, f"run.dir={run}").split())  # lines are wrapped
    assert "groups without scores, the last with: 6 of 6 matches have no verdict" in out
    assert "(scoring.tournament.min_matches); the last: simulated judge: this call fails" in out
    assert out.count("no group of this iteration has a verdict") == 1
    assert "3 of 3 iterations without any verdict" in out
    assert "easier tasks" not in out
    after = summary(run)
    assert (after["idle_iterations"], after["steps"]) == (3, 0)
    scoring = after["scoring"]
    # 12 calls a group, whether or not they are answered.
    assert scoring["calls"] == 12 * scoring["unscored_groups"] > 0
    assert (scoring["cost"], scoring["unjudged_iterations"]) == (0.0, 3)


def test_without_the_library_of_a_fit_nothing_begins(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "choix", None)
    scoring = {**FAILING, "tournament": {"rewards": "bradley_terry"}}
    run = tmp_path / "run"
    line = refused(capsys, 2, "train", write(tmp_path, scoring=scoring), f"run.dir={run}")
    assert line.startswith("scoring.tournament.rewards: ")
    assert line.endswith("pip install 'rlagents[arena]'")
    assert not run.exists()


def test_an_outage_as_long_as_was_allowed_stops_the_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    dead = {"name": "pointwise", "judge": {"backend": "simulated", "failures": 1.0}}
    config = write(tmp_path, scoring={**dead, "outage_iterations": 2}, warm_start=WARM)
    line = refused(capsys, 1, "train", config, f"run.dir={run}")
    assert "groups of iteration 1, as in the 1 before; the last with: none of 4 calls " in line


def longer(question: Question, first: Candidate, second: Candidate) -> tuple[float, float]:
    """A judge of one's own that likes long answers."""
    return float(len(first.answer)), float(len(second.answer))


def test_a_judge_of_ones_own(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = tmp_path / "run"
    own = {"backend": "function", "function": "tests.integration.test_judged_run:longer"}
    scoring = {"name": "tournament", "tournament": {"topology": "swiss"}, "judge": own}
    config = write(tmp_path, scoring=scoring, warm_start=WARM)
    done(capsys, "train", config, f"run.dir={run}")
    line = metrics(run)[-1]
    assert line["judge/missing_frac"] == 0.0
    assert line["judge/position_shift"] == 0.0
