"""Pictures of depth for TensorBoard: how long episodes last, and what changes as they go on.

Drawn from numbers and from names of ours: nothing that an agent or an environment wrote. Margins
are fixed, since to fit them to the labels all would be drawn twice.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from rlagents.telemetry import canvas
from rlagents.telemetry.depth import Survival

Points = Sequence[tuple[int, float]]
"""(step, value) in order."""

MOST_COLUMNS = 80
"""Of a heatmap; what has more steps is averaged, neighbour with neighbour."""
_PANELS = (
    ("entropy", "entropy, nats"),
    ("kl_behaviour", "KL to the sampling policy, nats"),
    ("ratio_mean", "importance ratio"),
    ("reward", "reward per turn"),
)


def survival_figure(panels: Mapping[str, Survival], title: str) -> bytes:
    """PNG: the share of episodes that still run, and that have succeeded, against their length.

    Args:
        panels: what lengths are counted in -> the curves, of one episode at least.
        title: above them.
    """
    figure = canvas.blank(9, 3.8)
    for axes, (unit, curve) in zip(figure.subplots(1, len(panels)), panels.items(), strict=True):
        end = 1.06 * max(1.0, curve.lengths.max(initial=0))
        lengths = np.concatenate([[0.0], curve.lengths, [end]])
        running = np.concatenate([[1.0], curve.running, curve.running[-1:]])
        succeeded = np.concatenate([[0.0], curve.succeeded, curve.succeeded[-1:]])
        axes.step(lengths, running, where="post", color=canvas.BLUE, label="still running")
        shade = {"color": canvas.GREEN, "alpha": 0.15, "linewidth": 0}
        axes.fill_between(lengths, succeeded, step="post", **shade)
        axes.step(lengths, succeeded, where="post", color=canvas.GREEN, label="succeeded")
        cut = curve.cuts > 0
        if cut.any():
            mark = {"color": canvas.BLUE, "marker": "|", "markersize": 9, "linestyle": "none"}
            axes.plot(curve.lengths[cut], curve.running[cut], label="cut here", **mark)
        axes.set_ylim(-0.03, 1.05)
        axes.set_xlim(0, end)
        axes.set_xlabel(unit)
        axes.set_ylabel("share of episodes")
        canvas.tidy(axes)
    figure.axes[0].legend(loc="best", framealpha=0.9, edgecolor="none")
    figure.suptitle(title, fontsize=11)
    figure.subplots_adjust(left=0.07, right=0.985, bottom=0.15, top=0.88, wspace=0.18)
    return canvas.png(figure)


def turns_figure(lines: Iterable[Mapping[str, Any]]) -> bytes | None:
    """PNG: entropy, KL, ratio and reward, turns upwards and the run to the right.

    Args:
        lines: of `metrics.jsonl`.

    Returns:
        None where no line has a figure by depth.
    """
    read = by_turn(lines)
    panels = [(name, title) for name, title in _PANELS if name in read]
    if not panels:
        return None
    figure = canvas.blank(9, 5.2)
    grid = figure.subplots(2, 2).ravel()
    for axes, (name, title) in zip(grid, panels, strict=False):
        _heatmap(figure, axes, read[name], centred=name == "ratio_mean")
        axes.set_title(title, fontsize=10, loc="left")
    for axes in grid[len(panels) :]:
        axes.set_visible(False)
    for axes in grid[max(0, len(panels) - 2) : len(panels)]:
        axes.set_xlabel("optimizer steps")
    for axes in grid[::2]:
        axes.set_ylabel("turn")
    figure.subplots_adjust(left=0.105, right=0.98, bottom=0.09, top=0.945, hspace=0.28, wspace=0.3)
    return canvas.png(figure)


def _heatmap(figure: Any, axes: Any, values: Mapping[str, Points], *, centred: bool) -> None:
    """A row for each bucket, a column for some neighbouring steps; `centred`: 1 is white."""
    from matplotlib.ticker import MaxNLocator

    names = sorted(values)
    edges, table = table_of([values[name] for name in names])
    look: dict[str, Any] = {"cmap": "viridis"}
    if centred:
        away = max(float(np.nanmax(np.abs(table - 1))), 1e-6)
        look = {"cmap": "RdBu_r", "vmin": 1 - away, "vmax": 1 + away}
    rows = np.arange(len(names) + 1) - 0.5
    mesh = axes.pcolormesh(edges, rows, np.ma.masked_invalid(table), **look)
    axes.set_yticks(range(len(names)), [_words(name) for name in names])
    axes.set_facecolor("#e8e8e8")
    axes.tick_params(color=canvas.GREY, labelsize=8)
    # Labels are what drawing spends its time on.
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    bar = figure.colorbar(mesh, ax=axes, pad=0.02, ticks=MaxNLocator(4))
    bar.ax.tick_params(labelsize=8)
    bar.outline.set_visible(False)


def contexts_figure(contexts: Sequence[int], dropped: Mapping[int, Sequence[int]]) -> bytes:
    """PNG: how many contexts episodes have, and how many tokens each fresh one left out.

    Args:
        contexts: of each episode.
        dropped: number of a context -> tokens that those of this number left out.
    """
    figure = canvas.blank(9, 3.4)
    left, right = figure.subplots(1, 2)
    counts = np.bincount(np.asarray(contexts))
    left.bar(np.arange(len(counts)), counts, width=0.8, color=canvas.BLUE)
    left.set_xlim(0.3, max(len(counts), 3) - 0.3)
    left.set_xlabel("contexts of an episode")
    left.set_ylabel("episodes")
    places = sorted(dropped)
    if places:
        low, middle, high = zip(
            *(np.percentile(dropped[p], (10, 50, 90)) for p in places), strict=True
        )
        right.fill_between(places, low, high, color=canvas.ORANGE, alpha=0.2, linewidth=0)
        right.plot(places, middle, color=canvas.ORANGE, marker="o", markersize=4)
        right.set_ylim(bottom=0)
    else:
        right.text(0.5, 0.5, "none", ha="center", transform=right.transAxes, color=canvas.GREY)
    right.set_xlabel("number of the fresh context")
    right.set_ylabel("tokens left out (median, 10 to 90%)")
    from matplotlib.ticker import MaxNLocator

    for axes in (left, right):
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        canvas.tidy(axes)
    left.yaxis.set_major_locator(MaxNLocator(6, integer=True))
    figure.subplots_adjust(left=0.07, right=0.985, bottom=0.165, top=0.96, wspace=0.26)
    return canvas.png(figure)


_TAG = re.compile(r"depth_(\w+)/turn_(\d+(?:_\d+|_on)?)")


def by_turn(lines: Iterable[Mapping[str, Any]]) -> dict[str, dict[str, list[tuple[int, float]]]]:
    """Figure -> bucket -> (step, value)."""
    found: dict[str, dict[str, list[tuple[int, float]]]] = {}
    for line in lines:
        for key, value in line.items():
            match = _TAG.fullmatch(key)
            if match and isinstance(value, (int, float)):
                name, bucket = match.groups()
                points = found.setdefault(name, {}).setdefault(bucket, [])
                points.append((int(line["step"]), float(value)))
    return found


def table_of(rows: Sequence[Points]) -> tuple[np.ndarray, np.ndarray]:
    """[C + 1] edges and [R, C] means of the rows in C columns of neighbouring steps, NaN for none.

    A column is a step, or as many neighbours as make `MOST_COLUMNS` of them.
    """
    steps = np.unique([step for row in rows for step, _ in row])
    groups = np.array_split(steps, min(len(steps), MOST_COLUMNS))
    firsts = np.array([group[0] for group in groups])
    sums, counts = np.zeros((2, len(rows), len(groups)))
    for r, row in enumerate(rows):
        columns = np.searchsorted(firsts, [step for step, _ in row], side="right") - 1
        np.add.at(sums[r], columns, [value for _, value in row])
        np.add.at(counts[r], columns, 1)
    table = np.full_like(sums, np.nan)
    np.divide(sums, counts, out=table, where=counts > 0)
    # A step stands for those since the one before it, which are of the same iteration.
    before = steps[0] - int(np.median(np.diff(steps))) if len(steps) > 1 else 0
    return np.array([min(before, steps[0] - 1), *(group[-1] for group in groups)]), table


def _words(bucket: str) -> str:
    """`0007_0014` -> `7-14`."""
    first, _, last = bucket.partition("_")
    if last == "on":
        return f"{int(first)} on"
    return f"{int(first)}-{int(last)}" if last else str(int(first))
