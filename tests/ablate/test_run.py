import json
from pathlib import Path

import pytest
from ray.exceptions import RayTaskError, WorkerCrashedError

from rlagents.ablate.run import gpu_share, reason
from rlagents.cli import main
from rlagents.errors import LearnerError
from tests.ablate.runs import leave, planned


@pytest.mark.parametrize(
    ("gpus", "at_once", "share"),
    [(0, 4, 0), (1, 1, 1), (1, 4, 0.25), (4, 4, 1), (4, 6, 0.5), (8, 2, 1), (2, 5, 1 / 3)],
)
def test_runs_share_the_gpus_that_there_are(gpus: int, at_once: int, share: float) -> None:
    assert gpu_share(gpus, at_once) == pytest.approx(share)


def test_a_reason_is_one_line_of_whose_fault_it_was() -> None:
    ours, theirs = LearnerError("the step was\nnot finite"), KeyError("door")
    assert reason(RayTaskError("run", "a traceback\n...", ours)) == "the step was not finite"
    assert reason(RayTaskError("run", "a traceback\n...", theirs)) == "KeyError: 'door'"
    assert reason(ours) == "the step was not finite"
    assert reason(WorkerCrashedError()).startswith("WorkerCrashedError: The worker died")


def test_a_report_of_finished_runs_runs_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for run in planned(tmp_path).runs:
        leave(run, lines=[{"step": 1, "policy/entropy": 0.5 + run.seed}])
    args = ["ablate", str(tmp_path / "x.yaml"), "--vary", "learner.lr=0.001,0.002"]
    out = tmp_path / "out"
    args += ["--seeds", "0,1", "--out", str(out)]

    def tags() -> set[str]:
        content = json.loads((out / "table.json").read_text())
        return {figure["tag"] for figure in content.get("figures", ())}

    # The folders are there without an ablation around them: what a first command leaves.
    (out / "ablation.yaml").write_text(f"config: {tmp_path / 'x.yaml'}\noverrides: []\n")
    assert main(args) == 0
    assert tags() == set()
    before = {path: path.stat().st_mtime_ns for path in out.glob("lr=*/**/*")}
    assert main([*args, "--report", "policy/entropy"]) == 0
    shown = capsys.readouterr().out
    assert "starting Ray" not in shown and "policy/entropy" in shown
    assert "| policy/entropy | lr=0.002 | 1 [" in (out / "table.md").read_text()
    # What is wrong with a tag is said last.
    (out / "table.json").unlink()
    assert main([*args, "--report", "policy/entropy,policy/entrop"]) == 2
    error = "error: --report policy/entrop: in no finished run's metrics; nearest: policy/entropy"
    assert capsys.readouterr().err == f"{error}\n"
    assert tags() == {"policy/entropy"}
    assert {path: path.stat().st_mtime_ns for path in out.glob("lr=*/**/*")} == before
