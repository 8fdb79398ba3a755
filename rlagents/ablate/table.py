"""The comparison of arms as tables: for the terminal, Markdown and JSON."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from rich.table import Table
from rich.text import Text

from rlagents.ablate.compare import Comparison
from rlagents.ablate.results import Estimate, Result
from rlagents.visible import escape

_WORDS = ("arm", "metric")
"""Columns that are not numbers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Content:
    title: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]


def as_json(comparison: Comparison, finished: Sequence[Result]) -> str:
    """The comparison and the runs that it is made from."""
    content = dataclasses.asdict(comparison)
    if not comparison.figures:
        del content["figures"]
    content["runs"] = [dataclasses.asdict(result) for result in finished]
    for run in content["runs"]:
        del run["metrics"]  # all there are: too many, and a run's own file has them
    return json.dumps(content, indent=2, allow_nan=False) + "\n"


def as_markdown(comparison: Comparison, failures: Sequence[str] = ()) -> str:
    """The tables in Markdown, and the words that they need."""
    parts = [f"{escape(t.title)}\n\n{_markdown(t)}" for t in _tables(comparison)]
    parts.append("\n".join(f"- {note}" for note in notes(comparison)))
    if failures:
        parts.append(
            "Failed:\n\n" + "\n".join(f"- {escape(' '.join(line.split()))}" for line in failures)
        )
    return "\n\n".join(parts) + "\n"


def as_rich(comparison: Comparison) -> Iterator[Table]:
    """The same tables for the terminal."""
    for content in _tables(comparison):
        table = Table(title=escape(content.title), title_justify="left")
        for name in content.head:
            justify = "left" if name in _WORDS else "right"
            table.add_column(name, justify=justify, overflow="fold")
        for row in content.rows:
            table.add_row(*(Text(escape(cell)) for cell in row))  # `[0.1, 0.2]` is no markup
        yield table


def notes(comparison: Comparison) -> Iterator[str]:
    """How to read the tables."""
    scores = {
        "held-out": "held-out scores",
        "training": "scores of training rollouts, on the tasks that each arm chose to sample, "
        "between the evaluations at both ends (eval.every gives held-out ones)",
    }
    yield "means over seeds with 95% t-intervals; tokens are sampled ones, discarded included"
    if len(comparison.rows) > 1:
        yield "tokens to threshold are compared by the geometric mean of the seeds' ratios"
    yield f"curves are made of {scores[comparison.source]}, linear between points"
    if comparison.budget is not None:
        yield f"equal tokens: {comparison.budget:,.0f}, the most that every run's curve has"
    if comparison.threshold is None:
        yield "no threshold: no arm came above its start"
    else:
        yield f"threshold: {comparison.threshold:.3f}"
    if comparison.figures:
        yield "metrics: means over the lines of a run; at the end, over the last fifth of them"
        if len(comparison.rows) > 1:
            yield f"differences of metrics: at the end, to {comparison.rows[0].arm}, paired by seed"


def _tables(comparison: Comparison) -> Iterator[_Content]:
    rows = comparison.rows
    yield _Content(
        title="Score",
        head=("arm", "runs", "final score", "at equal tokens"),
        rows=[
            (
                row.arm,
                f"{row.runs} of {comparison.seeds}",
                _cell(row.final, "{:.3f}"),
                _cell(row.at_equal_tokens, "{:.3f}"),
            )
            for row in rows
        ],
    )
    reached = comparison.threshold is not None
    yield _Content(
        title="Cost",
        head=("arm", "tokens to threshold", "reached by", "tokens", "steps", "seconds"),
        rows=[
            (
                row.arm,
                _cell(row.to_threshold, "{:,.0f}"),
                f"{row.reached} of {row.runs}" if reached else "-",
                *(
                    "-" if value is None else f"{value:,.0f}"
                    for value in (row.tokens, row.steps, row.wall_s)
                ),
            )
            for row in rows
        ],
    )
    if len(rows) > 1:
        yield _Content(
            title=f"Difference to {rows[0].arm}, paired by seed",
            head=("arm", "final score", "at equal tokens", "tokens to threshold"),
            rows=[
                (
                    row.arm,
                    _cell(row.final_difference, "{:+.3f}"),
                    _cell(row.at_equal_tokens_difference, "{:+.3f}"),
                    _cell(row.to_threshold_ratio, "x {:.2f}"),
                )
                for row in rows[1:]
            ],
        )
    if comparison.figures:
        yield _Content(
            title="Metrics",
            head=("metric", "arm", "mean", "at the end", "difference"),
            rows=[
                (
                    figure.tag,
                    figure.arm,
                    _cell(figure.mean, "{:.4g}"),
                    _cell(figure.end, "{:.4g}"),
                    _cell(figure.end_difference, "{:+.4g}"),
                )
                for figure in comparison.figures
            ],
        )


def _cell(value: Estimate | None, form: str) -> str:
    """`0.512 [0.473, 0.551]`."""
    if value is None:
        return "-"
    mean = f"{value.bound} {form.format(value.mean)}".strip()
    if value.low is None or value.high is None:
        return mean
    plain = form.removeprefix("x ")
    return f"{mean} [{plain.format(value.low)}, {plain.format(value.high)}]"


def _markdown(table: _Content) -> str:
    rule = ["---" if name in _WORDS else "---:" for name in table.head]
    lines = [table.head, rule, *table.rows]
    return "\n".join(
        "| " + " | ".join(escape(cell).replace("|", "\\|") for cell in line) + " |"
        for line in lines
    )
