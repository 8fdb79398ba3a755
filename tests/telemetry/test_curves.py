import json
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rlagents.errors import ConfigError
from rlagents.telemetry import curves
from rlagents.telemetry.curves import (
    Curve,
    Point,
    iteration_lines,
    learning_curve,
    mean_training,
    read_curve,
)

EVALS = (
    ("initial", "sampled", 0, 0.0, [0.0, 0.0]),
    ("initial", "greedy", 0, 0.125, [0.0, 0.25]),
    ("warm_start", "sampled", 0, 0.5, [0.375, 0.625]),
    ("rl", "sampled", 4, 0.75, 0.125),  # half the width of the interval
    ("rl", "greedy", 4, None, None),  # every episode failed
)


def entry(stage: str, mode: str, step: int, score: float | None, ci95: Any) -> dict[str, Any]:
    return {"stage": stage, "mode": mode, "step": step, "score_mean": score, "score_ci95": ci95}


def run_folder(
    folder: Path,
    lines: tuple[dict[str, Any], ...] = (
        {"step": 0, "eval/score_mean": 0.5},
        {"step": 1, "train/loss": 0.1},  # the first of two steps of an iteration
        {"step": 2, "train/score_mean": 0.5},
        {"step": 3, "train/score_mean": None},
        {"step": 4, "train/score_mean": 0.625},
    ),
    evals: tuple[tuple[Any, ...], ...] = EVALS,
) -> Path:
    folder.mkdir()
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (folder / "summary.json").write_text(json.dumps({"evals": [entry(*e) for e in evals]}))
    return folder


def test_scores_stand_at_the_step_of_the_weights_that_were_scored(tmp_path: Path) -> None:
    curve = read_curve(run_folder(tmp_path / "a"))
    # Steps 1 and 2 learned from rollouts of step 0; step 4 from rollouts of step 2.
    assert curve.training == ((0, 0.5), (2, 0.625))
    assert curve.warm


def test_evaluations_with_their_intervals(tmp_path: Path) -> None:
    points = read_curve(run_folder(tmp_path / "a")).points
    assert points == (
        Point(stage="initial", mode="sampled", step=0, score=0.0, low=0.0, high=0.0),
        Point(stage="initial", mode="greedy", step=0, score=0.125, low=0.0, high=0.25),
        Point(stage="warm_start", mode="sampled", step=0, score=0.5, low=0.375, high=0.625),
        Point(stage="rl", mode="sampled", step=4, score=0.75, low=0.625, high=0.875),
    )


def test_a_run_under_way_is_read_as_far_as_it_is(tmp_path: Path) -> None:
    folder = run_folder(tmp_path / "a")
    (folder / "summary.json").unlink()
    with (folder / "metrics.jsonl").open("a") as file:
        file.write('7\n{"step": 5, "train/sco')
    assert read_curve(folder) == Curve(training=((0, 0.5), (2, 0.625)), points=())


def test_long_runs_are_thinned_evenly(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    assert list(iteration_lines(path)) == []
    lines = [
        text
        for i in range(1000)
        for text in (
            json.dumps({"step": 2 * i + 1, "depth_entropy/turn_0000": 1.0}),  # within an iteration
            json.dumps({"step": 2 * i + 2, "train/iteration": i + 1.0}),
        )
    ]
    path.write_text("\n".join([*lines[:20], '{"step": 9, "train/iteration": 1', *lines[20:]]))
    # 1001 lines that say so, the broken one among them is number 10: 1001 > 4 * 200, so each 8th.
    steps = [line["step"] for line in iteration_lines(path)]
    assert len(steps) == 126 and set(np.diff(steps[2:])) == {16}
    assert (steps[0], steps[-1]) == (2, 2000)
    path.write_text("\n".join(lines[:400]))
    assert [line["step"] for line in iteration_lines(path)] == list(range(2, 401, 2))


def test_the_mean_of_runs_is_over_the_steps_that_all_have() -> None:
    one = Curve(training=((0, 0.5), (1, 0.25), (2, 1.0)), points=())
    two = Curve(training=((0, 0.25), (2, 0.5), (3, 1.0)), points=())
    assert mean_training([one, two]) == [(0, 0.375), (2, 0.75)]
    assert mean_training([one]) == list(one.training)
    assert mean_training([one, Curve(training=(), points=())]) == []


def drawn(folders: list[Path], out: Path) -> set[tuple[int, ...]]:
    """The colours in the picture."""
    from matplotlib.image import imread

    learning_curve(folders, out)
    head = out.read_bytes()[:24]
    assert head[:8] == b"\x89PNG\r\n\x1a\n"
    assert struct.unpack(">II", head[16:]) == (900, 450)
    pixels = (imread(out)[..., :3] * 255).round().astype(int)
    return {tuple(pixel) for pixel in pixels.reshape(-1, 3).tolist()}


BLUE, VERMILION = (0x00, 0x72, 0xB2), (0xD5, 0x5E, 0x00)


def test_a_picture_has_what_the_runs_have(tmp_path: Path) -> None:
    both, sampled_only = run_folder(tmp_path / "a"), run_folder(tmp_path / "b", evals=EVALS[2:4])
    assert {BLUE, VERMILION} <= drawn([both, sampled_only], tmp_path / "1.png")
    colours = drawn([sampled_only], tmp_path / "2.png")
    assert BLUE in colours and VERMILION not in colours


@pytest.mark.parametrize(
    ("lines", "evals"),
    [
        ((), EVALS[:1]),  # evaluated only
        (({"step": 1, "train/score_mean": -3.5},), ()),  # one iteration, another scale
        (({"step": 1, "train/score_mean": 0.5},), EVALS[:2]),  # no warm start
    ],
)
def test_small_runs_can_be_drawn(lines: Any, evals: Any, tmp_path: Path) -> None:
    folder = run_folder(tmp_path / "a", lines, evals)
    assert len(drawn([folder], tmp_path / "out.png")) > 10
    assert len(drawn([folder, folder], tmp_path / "out.png")) > 10


def test_what_cannot_be_drawn_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = run_folder(tmp_path / "a")
    (tmp_path / "empty").mkdir()
    broken = run_folder(tmp_path / "broken")
    (broken / "summary.json").write_text("{}")
    (tmp_path / "taken.png").mkdir()
    png = str(tmp_path / "out.png")
    for arguments, message in [
        ([png], "expected RUN_DIR... OUT.png"),
        ([str(tmp_path / "empty"), png], "empty: expected a run folder with scores, found none"),
        ([str(broken), png], "summary.json: expected the summary of a run: KeyError: 'evals'"),
        ([str(folder), str(folder)], "a: expected a .png file in a folder that exists"),
        ([str(folder), str(tmp_path / "no" / "out.png")], "expected a .png file in a folder"),
        ([str(folder), str(tmp_path / "taken.png")], "can't write"),
    ]:
        assert curves.main(arguments) == 2
        err = capsys.readouterr().err
        assert err.startswith("error: ") and message in err and err.count("\n") == 1
    with pytest.raises(ConfigError, match="at least one run folder"):
        learning_curve([], png)
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ConfigError, match="a picture needs matplotlib .*: install rlagents"):
        learning_curve([folder], png)
    assert not Path(png).exists()


def test_the_command_draws(tmp_path: Path) -> None:
    folder, out = run_folder(tmp_path / "a"), tmp_path / "out.png"
    command = [sys.executable, "-m", "rlagents.telemetry.curves", str(folder), str(out)]
    root = Path(__file__).resolve().parent.parent.parent
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=root)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert out.stat().st_size > 5000
