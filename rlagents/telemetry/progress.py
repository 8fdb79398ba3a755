"""Progress on the terminal: live bars where it can show them, plain lines everywhere else."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import TracebackType
from typing import IO, Any, Protocol, Self

from rich.console import Console, RenderableType
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table

from rlagents.visible import escape

STAGES: Mapping[str, str] = {
    "initial": "before warm start",
    "warm_start": "after warm start",
    "rl": "after RL",
}
"""Stages of a run's evaluations, in words."""


def stage_words(stage: str, warm: bool = True) -> str:
    """When an evaluation was; `warm`: whether the run has a warm start."""
    return "before training" if stage == "initial" and not warm else STAGES.get(stage, stage)


class Phase(Protocol):
    """Work under way."""

    def expect(self, total: int) -> None:
        """There is more to do than was known, or less."""

    def advance(self, n: int = 1, **figures: float | str) -> None:
        """Count `n` more things done, and show the newest figures beside them."""


class Display:
    """The terminal: one live block of bars, and lines above it.

    Args:
        stream: default: standard output.
        live: force bars or plain lines; by default bars on a terminal that can redraw.
        every_s: seconds between plain lines of a phase.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        stream: IO[str] | None = None,
        *,
        live: bool | None = None,
        every_s: float = 5.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._stream = sys.stdout if stream is None else stream
        self.console = Console(file=self._stream, highlight=False, soft_wrap=True)
        can_redraw = self.console.is_terminal and not self.console.is_dumb_terminal
        self.live = can_redraw if live is None else live
        self._every_s = every_s
        self._clock = clock
        self._mutex = threading.RLock()
        self._progress: Progress | None = None
        self._open = 0

    @contextmanager
    def phase(self, name: str, total: int | None = None) -> Iterator[Phase]:
        """Show a phase while the block runs. Phases nest, and may run in several threads."""
        if not self.live:
            plain = _PlainPhase(self, name, total, self._clock, self._every_s)
            try:
                yield plain
            finally:
                plain.finish()
            return
        progress = self._enter()
        task = progress.add_task(escape(name), total=total, figures="")
        try:
            yield _LivePhase(progress, task)
        finally:
            progress.remove_task(task)
            self._leave()

    def print(self, what: RenderableType) -> None:
        """Print above the bars. A string is printed as it is, without markup."""
        with self._mutex:
            self.console.print(what, markup=False)

    def close(self) -> None:
        """Take the bars away; may be called twice."""
        with self._mutex:
            if self._progress is not None:
                self._progress.stop()
                self._progress = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _enter(self) -> Progress:
        with self._mutex:
            if self._progress is None:
                self._progress = Progress(
                    SpinnerColumn(),
                    TextColumn("{task.description}", markup=False),
                    BarColumn(bar_width=24),
                    MofNCompleteColumn(),
                    TimeElapsedColumn(),
                    TimeRemainingColumn(),
                    TextColumn("{task.fields[figures]}", markup=False),
                    console=self.console,
                    transient=True,
                    refresh_per_second=4,
                )
                self._progress.start()
            self._open += 1
            return self._progress

    def _leave(self) -> None:
        with self._mutex:
            self._open -= 1
            if self._open == 0:
                self.close()


class _LivePhase:
    def __init__(self, progress: Progress, task: TaskID) -> None:
        self._progress = progress
        self._task = task

    def expect(self, total: int) -> None:
        self._progress.update(self._task, total=total)

    def advance(self, n: int = 1, **figures: float | str) -> None:
        if figures:
            self._progress.update(self._task, advance=n, figures=_figures(figures))
        else:
            self._progress.update(self._task, advance=n)


class _PlainPhase:
    def __init__(
        self,
        display: Display,
        name: str,
        total: int | None,
        clock: Callable[[], float],
        every_s: float,
    ) -> None:
        self._display, self._name, self._total = display, name, total
        self._clock, self._every_s = clock, every_s
        self._began = self._spoke = clock()
        self._done, self._said = 0, -1
        self._figures: dict[str, float | str] = {}
        self._mutex = threading.Lock()

    def expect(self, total: int) -> None:
        with self._mutex:
            self._total = total

    def advance(self, n: int = 1, **figures: float | str) -> None:
        with self._mutex:
            self._done += n
            self._figures.update(figures)
            if self._clock() - self._spoke >= self._every_s:
                self._say()

    def finish(self) -> None:
        """Say how it ended, unless it was too short to be worth a line."""
        with self._mutex:
            if self._clock() - self._began >= self._every_s and self._said != self._done:
                self._say()

    def _say(self) -> None:
        self._spoke, self._said = self._clock(), self._done
        of = "" if self._total is None else f"/{self._total}"
        seconds = self._spoke - self._began
        line = f"{self._name} {self._done}{of}  {seconds:.0f} s  {_figures(self._figures)}"
        self._display.print(escape(line.rstrip()))


class ConsoleSink:
    """One line a step on the display, with the figures people watch."""

    SHOWN: Mapping[str, str] = {
        "train/score_mean": "score",
        "eval/score_mean": "eval",
        "train/loss": "loss",
        "policy/entropy": "entropy",
        "policy/grad_norm": "grad",
        "rollout/turns_per_trajectory": "turns",
        "time/rollout_s": "rollout_s",
        "time/learn_s": "learn_s",
    }

    def __init__(self, display: Display, shown: Mapping[str, str] | None = None) -> None:
        self._display = display
        self._shown = self.SHOWN if shown is None else shown

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Print the step's line, unless it has none of the figures shown."""
        figures = {short: metrics[tag] for tag, short in self._shown.items() if tag in metrics}
        if figures:
            self._display.print(f"step {step:>4}  {_figures(figures)}")

    def text(self, step: int, tag: str, text: str) -> None:
        """Texts are for `rlagents show` and TensorBoard."""

    def image(self, step: int, tag: str, png: bytes) -> None:
        """So are pictures."""

    def close(self) -> None:
        """The display belongs to someone else."""


def results_table(evals: Sequence[Mapping[str, Any]]) -> Table:
    """The table at the end of a run: the score on held-out tasks after each stage.

    Args:
        evals: as in `summary.json`: `stage`, `step`, `score_mean`, `episodes`, and `score_ci95`,
            either `(low, high)` or half the width of the interval (None without a score). The last
            entry of a stage counts; greedy sampling (`mode`) is a row of its own.
    """
    table = Table(title="score on held-out tasks", title_justify="left")
    table.add_column("")
    for name in ("score", "95% interval", "episodes", "step"):
        table.add_column(name, justify="right")
    latest = {(e["stage"], e.get("mode", "sampled")): e for e in evals}
    order, warm = list(STAGES), any(stage == "warm_start" for stage, _ in latest)
    known = [place for place in latest if place[0] in order]
    known.sort(key=lambda place: (place[1] != "sampled", order.index(place[0])))
    for stage, mode in [*known, *(place for place in latest if place[0] not in order)]:
        entry = latest[stage, mode]
        table.add_row(
            escape(stage_words(stage, warm)) + ("" if mode == "sampled" else f", {mode}"),
            *score_cells(entry["score_mean"], entry["score_ci95"]),
            str(entry["episodes"]),
            str(entry.get("step", "")),
        )
    return table


def score_cells(mean: float | None, ci95: float | Sequence[float] | None) -> tuple[str, str]:
    """A score and its interval for a table."""
    if mean is None or ci95 is None:
        return "-", "-"
    low, high = interval(mean, ci95)
    return f"{mean:.3f}", f"{low:.3f} to {high:.3f}"


def interval(mean: float, ci95: float | Sequence[float]) -> tuple[float, float]:
    """Low and high end of an interval given as both ends or as half its width."""
    if isinstance(ci95, (int, float)):
        return mean - ci95, mean + ci95
    low, high = ci95
    return low, high


def _figures(figures: Mapping[str, float | str]) -> str:
    return "  ".join(
        f"{name} {value:.4g}" if isinstance(value, (int, float)) else f"{name} {escape(value)}"
        for name, value in figures.items()
    )
