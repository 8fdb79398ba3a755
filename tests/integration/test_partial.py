"""Whole runs with partial rollouts: stopped in any way, they lose nothing."""

import itertools
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from rlagents.journal import JournalReader
from rlagents.rollout.recorded import is_part, joined, snapshot_of
from rlagents.types import Group, Trajectory
from tests.integration import envs, small
from tests.integration.small import command, done, refused, summary
from tests.rollout.toys import token_ids

ENV = "tests.integration.spread:test/Spread-v0"
ROOT = Path(__file__).resolve().parents[2]
PARTIAL: dict[str, Any] = {
    "rollout": {"budget_turns": 40, "max_turns": 30, "groups": 4, "concurrency": 12},
    "warm_start": None,
    "eval": {"episodes": 4, "every": 2},
    "train": {"iterations": 6},
    "scoring": {
        "name": "function",
        "function": "tests.integration.test_partial:varied",
        "concurrency": 2,
        "queue": 3,
    },
}
ITERATION = 40
"""Steps of the environment in an iteration, about."""


def varied(group: Group) -> list[float]:
    """Scores that differ in every group, so that each iteration has steps."""
    return [sum(int(n.action_ids.sum()) for n in t.turns) % 97 / 97 for t in group.trajectories]


def partial(folder: Path, at: int = -1, sign: str = "SIGKILL", **sections: Any) -> str:
    """A config whose environment sends a signal at its step number `at`, once it is armed."""
    kwargs = {"armed": str(folder / "armed"), "at": at, "sign": sign}
    return small.write(folder, env={"id": ENV, "kwargs": kwargs}, **{**PARTIAL, **sections})


@pytest.fixture(autouse=True)
def _from_zero() -> None:
    envs.forget_calls()


def assert_whole(run: Path) -> dict[Any, Trajectory]:
    """Every group that was started is settled as a whole or still open, and counted once."""
    reader = JournalReader(run / "journal")
    keys = [key for key in reader.keys() if key.stream == "train"]  # noqa: SIM118
    assert len(set(keys)) == len(keys)
    records = {key: reader.get(key) for key in keys}
    found = {key: r.trajectory for key, r in records.items() if r is not None}
    assert len(found) == len(keys)
    settled = [key for key in keys if "disposition" in reader.notes(key)]
    sizes = Counter((key.iteration, key.group) for key in settled)
    assert set(sizes.values()) == {4}
    ledger = summary(run)["ledger"]
    counted = ledger["trained"] + ledger["filtered"]["total"] + ledger["failed"]["total"]
    assert counted == len(settled) and ledger["failed"]["total"] == 0
    assert ledger["started"] == counted + ledger["in_flight"]
    open_groups = ledger["in_flight"] // 4
    assert ledger["in_flight"] == 4 * open_groups and open_groups <= 4 + 3  # 3 wait for scores
    # The groups that were started are the first ones of the deal.
    started = len(sizes) + open_groups
    places = [(n // 4, n % 4) for n in range(started)]
    assert set(sizes) <= set(places)
    for key, trajectory in found.items():
        same = [t for k, t in found.items() if (k.iteration, k.group) == (key.iteration, key.group)]
        assert {(t.task.seed, t.task.task_id) for t in same} == {
            (trajectory.task.seed, trajectory.task.task_id)
        }
        versions = [turn.weights_version for turn in trajectory.turns]
        assert versions == sorted(versions)
    return found


def paused(run: Path) -> dict[Any, Any]:
    reader = JournalReader(run / "journal")
    records = (reader.get(key) for key in filter(is_part, reader.keys()))
    return joined(record.trajectory for record in records if record is not None)


def assert_went_on(run: Path, found: dict[Any, Trajectory]) -> int:
    """What was recorded of a paused trajectory is how it began; how many went on from there."""
    count = 0
    for key, turns in paused(run).items():
        if key in found:
            trajectory = found[key]
            assert token_ids(trajectory)[: len(turns)] == [
                (t.context, t.observation_ids.tolist(), t.action_ids.tolist()) for t in turns
            ]
            for before, now in zip(turns, trajectory.turns, strict=False):
                assert before.weights_version == now.weights_version
                assert np.array_equal(before.behaviour_logprobs, now.behaviour_logprobs)
            count += len(trajectory.turns) > len(turns)
    return count


def test_a_run_to_its_end(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = tmp_path / "run"
    out = done(capsys, "train", partial(tmp_path), f"run.dir={run}")
    assert " trajectories paused, " in out and "evaluation after iteration 4: score" in out
    found = assert_whole(run)
    assert assert_went_on(run, found) > 0
    lines = [line for line in small.metrics(run) if "rollout/paused" in line]
    assert len(lines) == 6 and lines[0]["rollout/resumed"] == 0
    for before, after in itertools.pairwise(lines):
        assert after["rollout/resumed"] == before["rollout/paused"] > 0
    assert max(line["staleness/max"] for line in lines) >= 2
    evaluated = [(e["step"], e["episodes"], e["failed"]) for e in summary(run)["evals"]]
    assert [e[1:] for e in evaluated] == [(4, 0)] * len(evaluated)


def test_killed_in_the_middle_and_resumed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = partial(tmp_path, at=5 * ITERATION)
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
    assert 1 <= summary(run)["iterations"] < 6
    before = paused(run)
    assert before
    out = done(capsys, "train", "--resume", str(run))
    assert "resuming after iteration" in out
    found = assert_whole(run)
    assert assert_went_on(run, found) > 0
    assert assert_kept(before, found, paused(run)) > 0


@pytest.mark.parametrize("every", [0, 1, 2])
def test_ctrl_c_and_resumed(every: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = partial(tmp_path, at=5 * ITERATION, sign="SIGINT", checkpoint={"every": every})
    (tmp_path / "armed").touch()
    run = tmp_path / "run"
    code, _, err = command(capsys, "train", config, f"run.dir={run}")
    assert (code, err) == (130, f"interrupted; resume with: rlagents train --resume {run}\n")
    ledger = summary(run)["ledger"]
    settled = ledger["trained"] + ledger["filtered"]["total"] + ledger["failed"]["total"]
    assert ledger["started"] == settled + ledger["in_flight"]
    before, iterations = paused(run), summary(run)["iterations"]
    assert 2 <= iterations < 6
    # All that the last whole iteration left is there, however rarely there are checkpoints.
    keys = [k for k in JournalReader(run / "journal").keys() if is_part(k)]  # noqa: SIM118
    assert {snapshot_of(key) for key in keys} == set(range(iterations))
    done(capsys, "train", "--resume", str(run))
    found = assert_whole(run)
    assert assert_went_on(run, found) > 0
    assert assert_kept(before, found, paused(run)) > 0


def assert_kept(before: dict[Any, Any], found: dict[Any, Trajectory], after: dict[Any, Any]) -> int:
    """What was recorded is part of what ended, or still of what is paused; in how many cases.

    A turn that had been sampled again would be one of newer weights.
    """
    for key, turns in before.items():
        kept = found[key].turns if key in found else after[key]
        assert [(t.action_ids.tolist(), t.weights_version) for t in turns] == [
            (t.action_ids.tolist(), t.weights_version) for t in kept[: len(turns)]
        ]
    return len(before)


def test_pieces_are_listed_only_where_they_are_asked_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    done(capsys, "train", partial(tmp_path, train={"iterations": 2}), f"run.dir={run}")
    shown = done(capsys, "show", str(run))
    assert "train/0/0/0" in shown and "paused/" not in shown
    assert "paused/1/" in done(capsys, "show", str(run), "paused")


def test_every_turn_is_counted_in_the_iteration_that_recorded_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    done(capsys, "train", partial(tmp_path), f"run.dir={run}")
    found = {**paused(run), **{key: t.turns for key, t in assert_whole(run).items()}}
    counted = summary(run)
    assert counted["env_turns"] == sum(len(turns) for turns in found.values())
    tokens = sum(len(t.action_ids) for turns in found.values() for t in turns)
    assert counted["tokens_sampled"] == tokens
    lines = [line for line in small.metrics(run) if "rollout/paused" in line]
    assert lines[-1]["train/tokens_sampled"] == tokens


def test_more_iterations_go_on_with_what_was_paused_at_the_end(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    done(capsys, "train", partial(tmp_path, train={"iterations": 2}), f"run.dir={run}")
    before = paused(run)
    text = (run / "config.yaml").read_text()
    (run / "config.yaml").write_text(text.replace("iterations: 2", "iterations: 5"))
    done(capsys, "train", "--resume", str(run))
    found = assert_whole(run)
    assert assert_went_on(run, found) > 0
    assert any(key in found and len(turns) > 0 for key, turns in before.items())
    line = [line for line in small.metrics(run) if "rollout/resumed" in line][2]
    assert line["rollout/resumed"] > 0


def test_with_stages(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    stages = [{"iterations": 3, "env_kwargs": {"high": 10}, "max_turns": 6}, {}]
    config = partial(
        tmp_path,
        at=6 * ITERATION,
        sign="SIGTERM",
        schedule={"stages": stages},
    )
    (tmp_path / "armed").touch()
    run = tmp_path / "run"
    code, first, _ = command(capsys, "train", config, f"run.dir={run}")
    assert code == 130
    text = (run / "config.yaml").read_text()
    one = {**yaml.safe_load(text), "schedule": {"stages": [stages[0]]}}
    (run / "config.yaml").write_text(yaml.safe_dump(one))
    assert refused(capsys, 2, "train", "--resume", str(run)) == (
        "schedule.stages: expected the 2 or more that this run has reached, got 1"
    )
    (run / "config.yaml").write_text(text)
    out = first + done(capsys, "train", "--resume", str(run))
    assert "stage 1 of 2: high 10, max_turns 6" in out and "stage 2 of 2" in out
    found = assert_whole(run)
    kinds = {t.task.kwargs.get("high", 20) for t in found.values()}
    assert kinds == {10, 20}
    for t in found.values():
        assert len(t.turns) <= (6 if t.task.kwargs.get("high") == 10 else 30)
    lines = [line for line in small.metrics(run) if "schedule/stage" in line]
    assert [line["schedule/stage"] for line in lines] == [0, 0, 0, 1, 1, 1]
    assert all("score/queue_depth_mean" in line for line in lines)


def test_what_needs_a_correction_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = partial(tmp_path, algo={"proximal": "recomputed"})
    message = refused(capsys, 2, "train", config, f"run.dir={tmp_path / 'run'}")
    assert message.startswith("rollout.budget_turns: ") and "algo.correction.weight" in message
