"""Whole ablations with Ray: what they compare, what survives Ctrl-C, a crash and a bad arm."""

import json
import os
import signal
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from rlagents.cli import main
from tests.integration import small
from tests.integration.small import command, done, metrics, refused, summary, timeless

PAUSE = "tests.ablate.envs:test/Pause-v0"
BEFORE_RL = 4 * 3 + 32 * 3 + 4 * 3
"""Steps of the environment in the evaluations and demonstrations before the first iteration."""


def config(folder: Path, **sections: Any) -> str:
    return small.write(folder, **{"eval": {"every": 1}, **sections})


def asked(folder: Path) -> list[str]:
    arms = ["--vary", "learner.lr=0.001,0.01", "--seeds", "0,1"]
    return ["ablate", str(folder / "config.yaml"), *arms, "--out", str(folder / "out")]


@pytest.fixture(scope="module")
def ablation(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two arms with two seeds, finished."""
    folder = tmp_path_factory.mktemp("ablation")
    config(folder)
    assert main(asked(folder)) == 0
    return folder


def last_score(run: Path) -> float:
    return small.last_eval(run)["score_mean"]


def test_the_table_has_the_runs_own_numbers(ablation: Path) -> None:
    out = ablation / "out"
    table = json.loads((out / "table.json").read_text())
    assert table["source"] == "held-out"
    runs = {arm: [out / arm / f"seed-{seed}" for seed in (0, 1)] for arm in ("lr=0.001", "lr=0.01")}
    everyone = [run for both in runs.values() for run in both]
    assert table["budget"] == min(summary(run)["tokens_sampled"] for run in everyone)
    for row, (arm, both) in zip(table["rows"], runs.items(), strict=True):
        assert (row["arm"], row["runs"]) == (arm, 2)
        finals = [last_score(run) for run in both]
        half = 12.7062 * abs(finals[0] - finals[1]) / 2
        assert row["final"]["mean"] == pytest.approx(statistics.fmean(finals))
        assert row["final"]["high"] - row["final"]["mean"] == pytest.approx(half, abs=1e-4)
        for name, key in (("tokens", "tokens_sampled"), ("steps", "steps"), ("wall_s", "wall_s")):
            assert row[name] == pytest.approx(statistics.fmean(summary(run)[key] for run in both))
    pairs = zip(*runs.values(), strict=True)
    differences = [last_score(other) - last_score(first) for first, other in pairs]
    difference = table["rows"][1]["final_difference"]["mean"]
    assert difference == pytest.approx(statistics.fmean(differences))
    for run in everyone:
        (found,) = [
            r
            for r in table["runs"]
            if (r["arm"], f"seed-{r['seed']}") == (run.parent.name, run.name)
        ]
        evals = [e for e in summary(run)["evals"] if e["stage"] != "initial"]
        points = {e["tokens_sampled"]: e["score_mean"] for e in evals}
        curve = [[tokens, points[tokens]] for tokens in sorted(points)]
        spent = summary(run)["tokens_sampled"]
        if curve[-1][0] < spent:  # iterations that changed nothing cost tokens all the same
            curve.append([spent, curve[-1][1]])
        assert found["held_out"] == curve
        lines = [line for line in metrics(run) if "train/score_mean" in line]
        assert [s for _, s in found["training"]] == [line["train/score_mean"] for line in lines]


def test_a_run_is_what_train_makes_of_its_config(
    ablation: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = ablation / "out" / "lr=0.01" / "seed-1"
    done(capsys, "train", str(run / "config.yaml"), f"run.dir={tmp_path / 'run'}")
    assert timeless(metrics(tmp_path / "run")) == timeless(metrics(run))
    assert small.policy_hash(tmp_path / "run") == small.policy_hash(run)


def test_what_it_leaves_behind(ablation: Path) -> None:
    out = ablation / "out"
    names = {"ablation.yaml", "table.md", "table.json", "plot.png", "tensorboard"}
    assert {path.name for path in out.iterdir()} == names | {"lr=0.001", "lr=0.01"}
    assert "| lr=0.01 | 2 of 2 |" in (out / "table.md").read_text()
    assert (out / "plot.png").stat().st_size > 5000
    assert "evaluation after RL" in (out / "lr=0.001" / "seed-0.log").read_text()
    for arm in ("lr=0.001", "lr=0.01"):
        accumulator = EventAccumulator(str(out / "tensorboard" / arm / "seed-1"))
        accumulator.Reload()
        (final,) = accumulator.Scalars("final_score")
        assert final.value == pytest.approx(last_score(out / arm / "seed-1"))
        assert "_hparams_/session_start_info" in accumulator.PluginTagToContent("hparams")


def test_the_same_command_again_runs_nothing_and_compares_again(
    ablation: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = ablation / "out"
    (out / "table.md").unlink()
    before = {path: path.stat().st_mtime_ns for path in out.glob("lr=*/**/*")}
    shown = done(capsys, *asked(ablation), "--threshold", "0.25")
    assert "4 runs, 4 of them finished before" in shown and "starting Ray" not in shown
    assert "threshold: 0.250" in shown and "lr=0.01" in shown
    assert {path: path.stat().st_mtime_ns for path in out.glob("lr=*/**/*")} == before
    assert "threshold: 0.250" in (out / "table.md").read_text()


def test_without_matplotlib_the_table_still_comes(
    ablation: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    shown = done(capsys, *asked(ablation))
    assert shown.count("no picture:  a picture needs matplotlib") == 1
    assert "install rlagents[dev]" in shown and "final score" in shown


def test_another_ablation_does_not_get_the_folder(
    ablation: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    message = refused(capsys, 2, *asked(ablation), "train.iterations=4")
    assert "holds another ablation: its overrides is []" in message
    message = refused(capsys, 2, *asked(ablation), "--jobs", "0")
    assert message == "--jobs: expected 1 or more, got 0"
    message = refused(capsys, 2, *asked(ablation), "--threshold", "nan")
    assert message == "--threshold: expected a score, got nan"


def test_a_bad_arm_and_a_killed_run_do_not_stop_the_others(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "armed").touch()
    at = BEFORE_RL + 60  # in the third iteration at the latest
    config(
        tmp_path,
        env={"id": small.TRAP, "kwargs": {"armed": str(tmp_path / "armed"), "at": at}},
        train={"iterations": 4},
    )
    arms = [f"lost: policy.model={tmp_path / 'nowhere'}", "killed: train.max_tokens=0 run.name=k"]
    args = ["ablate", str(tmp_path / "config.yaml"), "--arm", arms[0], "--arm", arms[1]]
    args += ["--seeds", "0", "--out", str(tmp_path / "out"), "--jobs", "1"]
    first = refused(capsys, 1, *args)
    assert first.startswith("2 of 2 runs failed, the first: lost, seed 0: ")
    assert not (tmp_path / "armed").exists()
    assert not (tmp_path / "out" / "lost" / "seed-0").exists()
    assert "nowhere" in (tmp_path / "out" / "lost" / "seed-0.log").read_text()
    assert not (tmp_path / "out" / "table.md").exists()
    code, shown, err = command(capsys, *args)
    assert code == 1 and "1 of 2 runs failed" in err
    assert "[2/2] killed, seed 0: score " in shown and "lost, seed 0: failed: " in shown
    assert "resuming after iteration" in (tmp_path / "out" / "killed" / "seed-0.log").read_text()
    table = (tmp_path / "out" / "table.md").read_text()
    assert "| lost | 0 of 1 | - | - |" in table and "| killed | 1 of 1 |" in table
    assert "Failed:\n\n- lost, seed 0: " in table


def test_ctrl_c_leaves_everything_resumable(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    os.mkfifo(tmp_path / "paused")
    os.mkfifo(tmp_path / "go")
    (tmp_path / "armed").touch()
    kwargs = {"folder": str(tmp_path), "at": BEFORE_RL + 60}
    path = config(tmp_path, env={"id": PAUSE, "kwargs": kwargs}, train={"iterations": 8})
    args = ["ablate", path, "--seeds", "0,1", "--out", str(tmp_path / "out"), "--jobs", "1"]
    root = Path(__file__).resolve().parents[2]
    process = subprocess.Popen(
        [sys.executable, "-m", "rlagents", *args],
        cwd=root,
        env={**os.environ, "PYTHONPATH": str(root)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    (tmp_path / "paused").read_text()  # waits until the first run is that far
    process.send_signal(signal.SIGINT)
    while "saving the runs under way" not in (line := process.stdout.readline()):
        assert line, "it ended before it said so"
    (tmp_path / "go").write_text("go")
    out, err = process.communicate(timeout=120)
    assert process.returncode == 130, out + err
    assert err.endswith("interrupted\n") and "stopping at the next safe point" in err
    first, second = (tmp_path / "out" / "base" / f"seed-{seed}" for seed in (0, 1))
    assert 1 <= summary(first)["iterations"] < 8 and list(first.glob("checkpoints/step-*"))
    assert not second.exists()
    shown = done(capsys, *args)
    assert "[1/2] base, seed 0: score" in shown and "[2/2] base, seed 1: score" in shown
    assert "resuming after iteration" in (tmp_path / "out" / "base" / "seed-0.log").read_text()
    done(capsys, "train", str(first / "config.yaml"), f"run.dir={tmp_path / 'whole'}")
    assert timeless(metrics(first)) == timeless(metrics(tmp_path / "whole"))
