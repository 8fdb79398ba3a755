"""A run in stages: each group is of one stage, and what a limit cuts keeps its return so far."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest

from rlagents.cli import main
from rlagents.journal import JournalReader
from rlagents.types import StopReason
from tests.integration import envs, small
from tests.integration.small import command, done, refused

STAGES = [
    {"iterations": 1, "max_turns": 2},  # cut before the third letter
    {"iterations": 2, "env_kwargs": {"turns": 2}, "window": 48},
    {},
]


def written(folder: Path, **sections: Any) -> str:
    settings = {"schedule": {"stages": STAGES}, "train": {"iterations": 4}, **sections}
    return small.write(folder, **settings)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("stages")
    assert main(["train", written(folder), f"run.dir={folder / 'run'}"]) == 0
    return folder / "run"


def records(run: Path, stream: str) -> dict[tuple[int, int], list[Any]]:
    """The journal's records of a stream, by iteration and group."""
    reader, groups = JournalReader(run / "journal"), defaultdict(list)
    for key in sorted(reader.keys(), key=str):
        if key.stream.startswith(stream):
            groups[key.iteration, key.group].append(reader.get(key))
    return groups


def logged(run: Path) -> list[tuple[float, float]]:
    """Stage and finished iterations in it, of each iteration."""
    names = ("schedule/stage", "schedule/iterations_in_stage")
    return [(line[names[0]], line[names[1]]) for line in small.metrics(run) if names[0] in line]


def test_a_group_is_played_whole_under_one_stage(run: Path) -> None:
    expected = {
        0: ({}, 2, StopReason.TURN_LIMIT),
        1: ({"turns": 2}, 2, StopReason.TERMINATED),
        2: ({"turns": 2}, 2, StopReason.TERMINATED),
        3: ({}, 3, StopReason.TERMINATED),
    }
    groups = records(run, "train")
    assert {iteration for iteration, _ in groups} == set(expected)
    for (iteration, _), members in groups.items():
        played = [(dict(m.trajectory.task.kwargs), len(m.trajectory.turns)) for m in members]
        stops = {m.trajectory.stop for m in members}
        kwargs, turns, stop = expected[iteration]
        assert len(members) == 4 and stops == {stop}
        assert played == [(kwargs, turns)] * 4
        assert len({m.trajectory.task.task_id for m in members}) == 1


def test_a_trajectory_that_the_stage_cuts_is_scored_on_its_return_so_far(run: Path) -> None:
    cut = [m for (i, _), members in records(run, "train").items() if i == 0 for m in members]
    for member in cut:
        right = sum(turn.observation == turn.action for turn in member.trajectory.turns)
        assert member.notes["score"] == pytest.approx(right / 3)  # of three letters, two were shown
    assert len({member.notes["score"] for member in cut}) > 1
    assert "trained" in {member.notes["disposition"] for member in cut}


def test_a_window_that_the_strategy_refuses_is_found_before_the_first_stage(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The last stage has no room for the request of a summary, which only the chat can count."""
    stages = [{"iterations": 1}, {"window": 64}]
    config = written(
        tmp_path,
        schedule={"stages": stages},
        context={"strategy": "compact", "window": 512},
        warm_start=None,
    )
    message = refused(capsys, 2, "train", config, f"run.dir={tmp_path / 'run'}")
    assert message.startswith("schedule.stages[1]: context.window: got 64, expected more than ")
    assert not (tmp_path / "run").exists()


def test_evaluations_have_the_run_s_own_settings(run: Path) -> None:
    members = [m for group in records(run, "eval").values() for m in group]
    assert members
    for member in members:
        assert len(member.trajectory.turns) == 3
        assert member.trajectory.stop is StopReason.TERMINATED
        assert member.trajectory.task.kwargs == {}


def test_the_stage_is_logged(run: Path) -> None:
    assert logged(run) == [(0, 0), (1, 0), (1, 1), (2, 0)]


def test_a_stage_change_is_told_and_survives_a_resume(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    envs.forget_calls()
    evaluated, demonstrated, iteration = 3 * 4, 32 * 3, 2 * 4 * 2
    third = 2 * evaluated + demonstrated + 2 * iteration + iteration // 2
    kwargs = {"armed": str(tmp_path / "armed"), "at": third, "sign": "SIGINT"}
    config = written(
        tmp_path,
        env={"id": small.TRAP, "kwargs": kwargs},
        algo={"sampling": {"filter": "none"}},  # no refills, so that the steps can be counted
    )
    (tmp_path / "armed").touch()
    run = tmp_path / "run"
    code, out, _ = command(capsys, "train", config, f"run.dir={run}")
    assert code == 130 and small.summary(run)["iterations"] == 2
    assert "stage 2 of 3: turns 2, window 48" in out
    out = done(capsys, "train", "--resume", str(run))
    assert "stage 3 of 3: the run's settings" in out
    assert logged(run) == [(0, 0), (1, 0), (1, 1), (2, 0)]
    played = {
        (iteration, member.trajectory.task.kwargs.get("turns"))
        for (iteration, _), members in records(run, "train").items()
        for member in members
    }
    assert played == {(0, None), (1, 2), (2, 2), (3, None)}
