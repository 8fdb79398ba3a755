"""A run that was stopped, however, ends as if it had never been."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from rlagents.cli import main
from tests.integration import envs, small
from tests.integration.small import command, done, refused, summary

ROOT = Path(__file__).resolve().parents[2]
EVALUATED, DEMONSTRATED, ITERATION = 3 * 4, 32 * 3, 2 * 4 * 3
"""Steps of the environment in an evaluation, in the demonstrations, in an iteration (at least)."""
BEFORE_RL = EVALUATED + DEMONSTRATED + EVALUATED


def trapped(folder: Path, at: int, sign: str, **sections: Any) -> str:
    """A config whose environment sends a signal at its step number `at`, once it is armed."""
    kwargs = {"armed": str(folder / "armed"), "at": at, "sign": sign}
    settings: dict[str, Any] = {"eval": {"every": 2}, "train": {"iterations": 4}, **sections}
    return small.write(folder, env={"id": small.TRAP, "kwargs": kwargs}, **settings)


@pytest.fixture(autouse=True)
def _from_zero() -> None:
    envs.forget_calls()


@pytest.fixture(scope="module")
def untouched(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run that nobody stops."""
    folder = tmp_path_factory.mktemp("untouched")
    config = trapped(folder, 1, "SIGKILL")
    assert main(["train", config, f"run.dir={folder / 'run'}"]) == 0
    return folder / "run"


def assert_same_end(run: Path, untouched: Path) -> None:
    assert small.policy_hash(run) == small.policy_hash(untouched)
    assert small.timeless(small.metrics(run)) == small.timeless(small.metrics(untouched))
    assert small.journal_keys(run) == small.journal_keys(untouched)
    ours, theirs = summary(run), summary(untouched)
    for name in set(theirs) - {"wall_s"}:
        assert ours[name] == theirs[name], name
    accumulator = EventAccumulator(str(run / "tensorboard"), size_guidance={"scalars": 0})
    accumulator.Reload()
    for tag in accumulator.Tags()["scalars"]:
        steps = [event.step for event in accumulator.Scalars(tag)]
        assert steps == sorted(set(steps)), f"{tag}: {steps}"
        assert steps == [line["step"] for line in small.metrics(run) if tag in line]
    for tag in accumulator.Tags()["tensors"]:
        assert [event.step for event in accumulator.Tensors(tag)] == [1, 2, 3, 4]


def test_after_a_kill_in_the_middle_of_an_iteration(
    untouched: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = trapped(tmp_path, BEFORE_RL + 5 * ITERATION // 2, "SIGKILL")
    (tmp_path / "armed").touch()
    run = tmp_path / "run"
    killed = subprocess.run(
        [sys.executable, "-m", "rlagents", "train", config, f"run.dir={run}"],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert killed.returncode == -9 and not (tmp_path / "armed").exists()
    assert 1 <= summary(run)["iterations"] < 4
    out = done(capsys, "train", "--resume", str(run))
    assert re.search(r"resuming after iteration [123] \(step [123]\)", out)
    assert_same_end(run, untouched)


@pytest.mark.parametrize(
    ("where", "at", "warm"),
    [
        ("the first evaluation", EVALUATED // 2, False),
        ("the demonstrations", EVALUATED + DEMONSTRATED // 2, False),
        ("the evaluation after the warm start", BEFORE_RL - EVALUATED // 2, False),
        ("the first iteration", BEFORE_RL + ITERATION // 2, True),
        ("a later iteration", BEFORE_RL + 5 * ITERATION // 2, True),
    ],
)
def test_after_ctrl_c_in(
    where: str,
    at: int,
    warm: bool,
    untouched: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    config = trapped(tmp_path, at, "SIGINT")
    (tmp_path / "armed").touch()
    run = tmp_path / "run"
    code, _, err = command(capsys, "train", config, f"run.dir={run}")
    assert (code, err) == (130, f"interrupted; resume with: rlagents train --resume {run}\n")
    assert bool(list((run / "checkpoints").glob("step-*"))) == warm
    ledger = summary(run)["ledger"]
    settled = ledger["trained"] + ledger["filtered"]["total"] + ledger["failed"]["total"]
    assert ledger["started"] == settled + ledger["in_flight"]
    done(capsys, "train", "--resume", str(run))
    assert_same_end(run, untouched)


def test_ctrl_c_in_supervised_training_and_in_the_last_evaluation(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], untouched: Path
) -> None:
    # One episode at a time. After the last step of the first evaluation nobody looks for a signal
    # before the first optimizer step.
    demonstrations = tmp_path / "demonstrations.jsonl"
    shutil.copy(untouched / "demonstrations.jsonl", demonstrations)
    warm = {"path": str(demonstrations), "epochs": 5, "batch_segments": 8, "episodes": 0}
    sections = {"warm_start": warm, "train": {"iterations": 1}, "rollout": {"concurrency": 1}}
    plain = trapped(tmp_path, EVALUATED, "SIGTERM", **sections)
    done(capsys, "train", plain, f"run.dir={tmp_path / 'plain'}")
    steps = envs.counted("step") - 1
    for name, at in (("sft", EVALUATED), ("last", steps - 5)):
        envs.forget_calls()
        config = trapped(tmp_path, at, "SIGTERM", **sections)
        (tmp_path / "armed").touch()
        code, out, _ = command(capsys, "train", config, f"run.dir={tmp_path / name}")
        assert code == 130 and not (tmp_path / "armed").exists()
        assert ("iteration 1/1" in out) == (name == "last")
        assert "evaluation after RL" not in out
        assert "evaluation after RL" in done(capsys, "train", "--resume", str(tmp_path / name))
        assert small.policy_hash(tmp_path / name) == small.policy_hash(tmp_path / "plain")
        assert summary(tmp_path / name)["evals"] == summary(tmp_path / "plain")["evals"]


def copy_of(run: Path, folder: Path) -> Path:
    return Path(shutil.copytree(run, folder / "run"))


def test_resuming_a_finished_run_changes_nothing(
    untouched: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = copy_of(untouched, tmp_path)

    def contents() -> dict[str, bytes]:
        return {
            str(path.relative_to(run)): path.read_bytes()
            for path in run.rglob("*")
            if path.is_file() and path.parent.name not in ("journal", "tensorboard")
        }

    before = contents()
    out = done(capsys, "train", "--resume", str(run))
    assert "this run is finished" in out and "│ after RL " in out
    assert contents() == before
    assert_same_end(run, untouched)


def test_a_damaged_checkpoint_is_passed_over_and_named(
    untouched: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = copy_of(untouched, tmp_path)
    newest = max((run / "checkpoints").iterdir())
    shutil.rmtree(run / "checkpoints" / "step-00000004")
    shutil.copytree(newest, run / "checkpoints" / "step-00000003")  # of another step: damaged too
    with (newest / "learner.safetensors").open("r+b") as file:
        file.seek(-7, os.SEEK_END)
        byte = file.read(1)[0]
        file.seek(-7, os.SEEK_END)
        file.write(bytes([byte ^ 16]))
    message = refused(capsys, 1, "train", "--resume", str(run))
    assert "learner.safetensors is not what was saved" in message
    assert "it is that of step 4" in message


def test_the_older_checkpoint_leads_to_the_same_end(
    untouched: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    config = trapped(tmp_path, BEFORE_RL + 7 * ITERATION // 2, "SIGTERM")
    (tmp_path / "armed").touch()
    assert command(capsys, "train", config, f"run.dir={run}")[0] == 130
    newest = max((run / "checkpoints").iterdir())
    (newest / "state.json").write_text("{}")
    code, out, err = command(capsys, "train", "--resume", str(run))
    assert code == 0
    assert out.count(f"warning: {newest.name} is damaged (state.json is not what was saved)") == 1
    assert err == ""
    assert_same_end(run, untouched)


def test_what_is_no_run_can_not_be_resumed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").touch()
    for place in (tmp_path / "empty", tmp_path / "nowhere", tmp_path / "file"):
        message = refused(capsys, 2, "train", "--resume", str(place))
        assert message.startswith(f"{place}: expected the folder of a run")


@pytest.mark.parametrize(
    ("section", "changes", "key"),
    [
        ("policy", {"top_p": 0.9}, "policy.top_p"),
        ("rollout", {"group_size": 1}, "rollout.group_size"),
        ("rollout", {"grops": 1}, "rollout.grops"),
        ("env", {"id": "tests.integration.envs:test/Cpy-v0"}, "env.id"),
        ("policy", {"tiny": {"width": 32}}, "config.yaml"),
    ],
)
def test_a_config_that_was_edited_into_a_wrong_one(
    section: str,
    changes: dict[str, Any],
    key: str,
    untouched: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run = copy_of(untouched, tmp_path)
    config = yaml.safe_load((run / "config.yaml").read_text())
    config[section] = {**config[section], **changes}
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    assert key in refused(capsys, 2, "train", "--resume", str(run))


def test_more_iterations_continue_a_finished_run(
    untouched: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = copy_of(untouched, tmp_path)
    text = (run / "config.yaml").read_text()
    (run / "config.yaml").write_text(text.replace("iterations: 4", "iterations: 5"))
    out = done(capsys, "train", "--resume", str(run))
    assert "was saved under another configuration" in out
    assert "iteration 5/5" in out
    assert small.timeless(small.metrics(run))[:5] == small.timeless(small.metrics(untouched))
    assert [entry["step"] for entry in summary(run)["evals"]] == [0, 0, 2, 4, 5]
