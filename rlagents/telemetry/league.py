"""Players compared, as pictures and as tables: ratings with intervals, and who beats whom.

Names of players may come from outside (folders, models): they are shown as plain text, shortened.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from rich import box
from rich.table import Table

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


class Ranked(Protocol):
    """A player with a rank and what came of its games."""

    @property
    def name(self) -> str: ...

    @property
    def rank(self) -> float | None: ...

    @property
    def rating(self) -> Rated | None: ...

    @property
    def share(self) -> float | None: ...

    @property
    def wins(self) -> int: ...

    @property
    def draws(self) -> int: ...

    @property
    def losses(self) -> int: ...

    @property
    def games(self) -> int: ...

    @property
    def failed(self) -> int: ...


def short(name: str, *, plain: bool = False) -> str:
    """A name as it fits beside a picture: its end, which tells runs of one folder apart.

    `plain`: for a terminal, which takes no mathematics for such.
    """
    name = " ".join(escape(name).split())
    name = name if len(name) <= LONGEST_NAME else "..." + name[3 - LONGEST_NAME :]
    return name if plain else name.replace("$", r"\$")


def ranking_table(rows: Sequence[Ranked], title: str) -> Table:
    """The players for the terminal, a line each, in the order given."""
    table = Table(
        title=title,
        title_justify="left",
        box=box.SIMPLE_HEAD,
        show_edge=False,
        collapse_padding=True,
        pad_edge=False,
    )
    table.add_column("rank", justify="right")
    table.add_column("player", overflow="fold")
    for name in ("Elo", "95% interval", "points", "W/D/L", "games", "failed"):
        table.add_column(name, justify="right", no_wrap=True)
    for row in rows:
        elo = interval = share = "-"
        if row.rating is not None:
            elo = f"{row.rating.elo:.0f}"
            interval = f"{row.rating.low:.0f} to {row.rating.high:.0f}"
        if row.share is not None:
            share = f"{100 * row.share:.1f}%"
        table.add_row(
            "-" if row.rank is None else f"{row.rank:g}",
            " ".join(escape(row.name).split()),
            elo,
            interval,
            share,
            f"{row.wins}/{row.draws}/{row.losses}",
            str(row.games),
            str(row.failed),
        )
    return table


def win_matrix_table(names: Sequence[str], points: np.ndarray) -> Table:
    """The win matrix for the terminal; a column is the player whose line has its number.

    Args:
        names: [N] players.
        points: [N, N] as for `win_matrix_figure`; here in %.
    """
    table = Table(box=None, padding=(0, 1))
    table.add_column("", justify="right")
    table.add_column("")
    for number in range(len(names)):
        table.add_column(str(number + 1), justify="right", no_wrap=True)
    for i, name in enumerate(names):
        cells = [f"{100 * p:.0f}" if np.isfinite(p) else "." for p in points[i]]
        table.add_row(str(i + 1), short(name, plain=True), *cells)
    return table


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
    axes.set_facecolor("#DDDDDD")  # where two have not met
    image = axes.imshow(100 * points, cmap="RdBu", vmin=0, vmax=100)
    labels = [short(name) for name in names]
    axes.set_xticks(np.arange(len(names)), labels, rotation=60, ha="right", fontsize=8)
    axes.set_yticks(np.arange(len(names)), labels, fontsize=8)
    if len(names) <= MOST_CELLS:
        for i, j in zip(*np.nonzero(np.isfinite(points)), strict=True):
            strong = abs(points[i, j] - 0.5) > 0.29
            colour = "white" if strong else "black"
            axes.text(
                j, i, f"{100 * points[i, j]:.0f}", ha="center", va="center", color=colour, size=7
            )
    axes.set_title("points of the row against the column, %", fontsize=10)
    figure.colorbar(image, ax=axes, fraction=0.046, pad=0.03)
    figure.tight_layout()
    return canvas.png(figure)
