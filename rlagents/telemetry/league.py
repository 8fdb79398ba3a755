"""Pictures of players: ratings with intervals, and who beats whom.

Names of players may come from outside (folders, models): they are drawn as plain text, shortened.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from rlagents.telemetry import canvas
from rlagents.visible import escape

LONGEST_NAME = 28
MOST_CELLS = 24
"""Players up to which the matrix has numbers in its cells."""


class Rated(Protocol):
    """A rating on the Elo scale."""

    @property
    def elo(self) -> float: ...

    @property
    def low(self) -> float: ...

    @property
    def high(self) -> float: ...


def short(name: str) -> str:
    """A name as it fits beside a picture: its end, which tells runs of one folder apart."""
    name = escape(name).replace("$", r"\$")  # no mathematics
    return name if len(name) <= LONGEST_NAME else "..." + name[3 - LONGEST_NAME :]


def elo_figure(names: Sequence[str], ratings: Sequence[Rated], title: str = "Elo") -> bytes:
    """PNG: a rating a line, with its interval, in the order given, the first at the top.

    Args:
        names: [N] players.
        ratings: [N] of them.
        title: above the picture.
    """
    figure = canvas.blank(7.5, 1.2 + 0.28 * max(len(names), 3))
    axes = figure.subplots()
    places = np.arange(len(names))
    values = np.array([r.elo for r in ratings])
    low = values - [r.low for r in ratings]
    high = [r.high for r in ratings] - values
    axes.errorbar(
        values,
        places,
        xerr=np.maximum([low, high], 0),
        fmt="o",
        color=canvas.BLUE,
        ecolor=canvas.BLUE,
        capsize=3,
        markersize=5,
    )
    axes.set_yticks(places, [short(name) for name in names], fontsize=8)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.set_xlabel("Elo, with 95% interval")
    canvas.tidy(axes)
    axes.grid(axis="x", color="#000000", alpha=0.12, linewidth=0.8)
    axes.set_title(title, fontsize=11)
    figure.tight_layout()
    return canvas.png(figure)


def win_matrix_figure(names: Sequence[str], points: np.ndarray) -> bytes:
    """PNG: what share of its games the player of a row has from the player of a column.

    Args:
        names: [N] players.
        points: [N, N] shares between 0 and 1, a draw half; NaN where they have not met.
    """
    size = 2.2 + 0.42 * max(len(names), 3)
    figure = canvas.blank(size + 0.8, size)
    axes = figure.subplots()
    image = axes.imshow(points, cmap="RdBu", vmin=0, vmax=1)
    labels = [short(name) for name in names]
    axes.set_xticks(np.arange(len(names)), labels, rotation=60, ha="right", fontsize=8)
    axes.set_yticks(np.arange(len(names)), labels, fontsize=8)
    if len(names) <= MOST_CELLS:
        for i, j in zip(*np.nonzero(np.isfinite(points)), strict=True):
            strong = abs(points[i, j] - 0.5) > 0.3
            colour = "white" if strong else "black"
            axes.text(
                j, i, f"{100 * points[i, j]:.0f}", ha="center", va="center", color=colour, size=7
            )
    axes.set_title("points of the row against the column, %", fontsize=10)
    figure.colorbar(image, ax=axes, fraction=0.046, pad=0.03)
    figure.tight_layout()
    return canvas.png(figure)
