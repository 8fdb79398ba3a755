"""The learning curve of one run, or of several seeds, as a picture.

    python -m rlagents.telemetry.curves RUN_DIR... OUT.png

Everything is read from `metrics.jsonl` and `summary.json`. `matplotlib` (in the `dev` extra) is
imported only to draw.
"""

from __future__ import annotations

import json
import os
import statistics
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlagents.errors import ConfigError, boundary
from rlagents.telemetry import canvas
from rlagents.telemetry.progress import interval

# The marks differ too, so that no one needs to tell colours apart.
_LOOKS = {"sampled": (canvas.BLUE, "o"), "greedy": (canvas.ORANGE, "D")}


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """One evaluation on held-out tasks."""

    stage: str
    """`initial`, `warm_start` or `rl`."""
    mode: str
    """`sampled` or `greedy`."""
    step: int
    """Optimizer steps of RL before it."""
    score: float
    low: float
    """Lower end of the 95% interval."""
    high: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Curve:
    """The scores of one run."""

    training: tuple[tuple[int, float], ...]
    """(step, mean score) of each iteration's rollouts; the step is that of the weights that
    sampled them, as it is for evaluations: 0 for the first iteration."""
    points: tuple[Point, ...]

    @property
    def warm(self) -> bool:
        """Whether the run has a warm start, which lies between two evaluations at step 0."""
        return any(point.stage == "warm_start" for point in self.points)


def read_curve(run_dir: str | os.PathLike[str]) -> Curve:
    """The scores in a run folder, also of a run that has not ended.

    Raises:
        ConfigError: when there is no score to be found.
    """
    folder = Path(run_dir)
    curve = Curve(
        training=tuple(_training(folder / "metrics.jsonl")),
        points=tuple(_points(folder / "summary.json")),
    )
    if not (curve.training or curve.points):
        raise ConfigError(f"{folder}: expected a run folder with scores, found none")
    return curve


def mean_training(curves: Sequence[Curve]) -> list[tuple[int, float]]:
    """(step, mean over the runs) at the steps that all runs have."""
    runs = [dict(curve.training) for curve in curves]
    steps = sorted(set.intersection(*map(set, runs))) if runs else []
    return [(step, statistics.fmean(run[step] for run in runs)) for step in steps]


def learning_curve(
    run_dirs: Sequence[str | os.PathLike[str]], path: str | os.PathLike[str]
) -> None:
    """Draw score against optimizer steps into a PNG of 900 x 450 pixels.

    Lines are the scores of training rollouts (with several runs, each one and their mean), marks
    the evaluations on held-out tasks, each with the interval that its run reports.

    Raises:
        ConfigError: without runs, scores, matplotlib, or a place to write to.
    """
    target = Path(path)
    if not run_dirs:
        raise ConfigError("expected at least one run folder, got none")
    if target.suffix.lower() != ".png" or not target.parent.is_dir():
        raise ConfigError(f"{target}: expected a .png file in a folder that exists")
    curves = [read_curve(run_dir) for run_dir in run_dirs]
    figure = canvas.blank(9, 4.5)
    _draw(figure, curves)
    with boundary(ConfigError, f"can't write {target}"):
        figure.savefig(target)


def _training(path: Path) -> Iterator[tuple[int, float]]:
    step = 0
    for line in metric_lines(path):
        score = line.get("train/score_mean")
        if isinstance(score, (int, float)):
            yield step, float(score)
            step = int(line["step"])


def metric_lines(path: Path) -> Iterator[Mapping[str, Any]]:
    """The lines of a `metrics.jsonl`; none where there is no file."""
    if not path.is_file():
        return
    with path.open(encoding="utf-8", errors="replace") as file:
        yield from filter(None, map(_metrics, file))


def iteration_lines(path: Path, most: int = 200) -> Iterator[Mapping[str, Any]]:
    """Those that end an iteration, evenly thinned to `most` of them; only these are parsed."""
    if not path.is_file():
        return
    kept: list[str] = []
    stride = 1
    with path.open(encoding="utf-8", errors="replace") as file:
        for number, text in enumerate(text for text in file if '"train/iteration"' in text):
            if number % stride == 0:
                kept.append(text)
            if len(kept) > most:
                kept, stride = kept[::2], 2 * stride
    yield from filter(None, map(_metrics, kept))


def _metrics(text: str) -> Mapping[str, Any] | None:
    try:
        line = json.loads(text)
    except ValueError:
        return None  # half a line: the run is being written
    return line if isinstance(line, dict) and isinstance(line.get("step"), int) else None


def _points(path: Path) -> Iterator[Point]:
    if not path.is_file():
        return
    with boundary(ConfigError, f"{path}: expected the summary of a run"):
        for entry in json.loads(path.read_text(encoding="utf-8"))["evals"]:
            if entry["score_mean"] is None or entry["score_ci95"] is None:
                continue  # every episode failed
            low, high = interval(entry["score_mean"], entry["score_ci95"])
            yield Point(
                stage=entry["stage"],
                mode=entry["mode"],
                step=entry["step"],
                score=entry["score_mean"],
                low=low,
                high=high,
            )


def _draw(figure: Any, curves: Sequence[Curve]) -> None:
    axes = figure.subplots()
    steps = [step for curve in curves for step, _ in curve.training]
    last = max(1, *steps, *(point.step for curve in curves for point in curve.points))
    before = -0.16 * last if any(curve.warm for curve in curves) else 0.0
    _draw_training(axes, curves)
    for mode, side in (("sampled", -1), ("greedy", 1)):
        first = True
        for index, curve in enumerate(curves):
            points = [point for point in curve.points if point.mode == mode]
            if not points:
                continue
            # Runs and modes stand side by side, or their marks would hide each other.
            shift = (index - (len(curves) - 1) / 2 + side * len(curves) / 2) * 0.011 * last
            places = [
                (before if curve.warm and point.stage == "initial" else point.step) + shift
                for point in points
            ]
            _draw_points(axes, points, places, mode, named=first)
            first = False
    _furnish(axes, curves, last, before)
    figure.tight_layout()


def _draw_training(axes: Any, curves: Sequence[Curve]) -> None:
    colour = _LOOKS["sampled"][0]
    if len(curves) == 1:
        label, width, opacity = "training rollouts", 2.0, 0.55
    else:
        label, width, opacity = "training rollouts, each run", 1.0, 0.4
        mean = mean_training(curves)
        if mean:
            name = f"training rollouts, mean of {len(curves)} runs"
            axes.plot(*zip(*mean, strict=True), color=colour, linewidth=2.2, label=name)
    for index, curve in enumerate(curve for curve in curves if curve.training):
        axes.plot(
            *zip(*curve.training, strict=True),
            color=colour,
            linewidth=width,
            alpha=opacity,
            label=label if index == 0 else None,
        )


def _draw_points(
    axes: Any, points: Sequence[Point], places: Sequence[float], mode: str, *, named: bool
) -> None:
    colour, mark = _LOOKS[mode]
    axes.errorbar(
        places,
        [point.score for point in points],
        yerr=[
            [point.score - point.low for point in points],
            [point.high - point.score for point in points],
        ],
        color=colour,
        marker=mark,
        markersize=7,
        markeredgecolor="white",
        markeredgewidth=0.8,
        linestyle="none",
        elinewidth=1.4,
        capsize=3,
        zorder=3,
        label=f"held-out tasks, {mode} (95% interval)" if named else None,
    )


def _furnish(axes: Any, curves: Sequence[Curve], last: float, before: float) -> None:
    """Axes, ticks, and the names of the stages."""
    from matplotlib.ticker import MaxNLocator

    margin = 0.04 * last
    axes.set_xlim(before - margin, last + margin)
    values = [point.score for curve in curves for point in curve.points]
    values += [score for curve in curves for _, score in curve.training]
    if min(values) >= 0 and max(values) <= 1:
        axes.set_ylim(-0.03, 1.05)
    ticks = [t for t in MaxNLocator(8, integer=True).tick_values(0, last) if 0 <= t <= last]
    labels = [f"{tick:g}" for tick in ticks]
    if before:
        axes.axvspan(before - margin, 0, color="#000000", alpha=0.05, linewidth=0)
        above = {"y": 1.02, "transform": axes.get_xaxis_transform(), "color": canvas.GREY}
        axes.text((before - margin) / 2, s="warm start", ha="center", **above)
        axes.text((last + margin) / 2, s="reinforcement learning", ha="center", **above)
        ticks, labels = [before, *ticks], ["untrained", *labels]
    axes.set_xticks(ticks, labels)
    axes.set_xlabel("optimizer steps of RL")
    axes.set_ylabel("mean score")
    canvas.tidy(axes)
    axes.legend(loc="best", framealpha=0.9, edgecolor="none")


def main(argv: Sequence[str]) -> int:
    """Run the command; exit code 2 and one line for what can't be drawn."""
    try:
        if len(argv) < 2:
            raise ConfigError("expected RUN_DIR... OUT.png")
        learning_curve(argv[:-1], argv[-1])
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
