"""A knock-out bracket, as a picture and as text for the terminal.

Works on plain matches and names. The winners' and the losers' bracket are one tree: its root is the
last match, and under each match stand those that its two members came from.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from rich.text import Text
from rich.tree import Tree

from rlagents.telemetry import canvas
from rlagents.telemetry.league import short

BOX, GAP = 2.3, 0.75
"""Inches: width of a match, and between two rounds."""
ROW = 0.26
"""Inches that a player takes in height."""


class Meeting(Protocol):
    """A match; `round` counts up, `part` is `winners`, `losers`, `final`, or another."""

    @property
    def first(self) -> int: ...

    @property
    def second(self) -> int: ...

    @property
    def margin(self) -> float: ...

    @property
    def round(self) -> int: ...

    @property
    def part(self) -> str: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """A match and where its members came from."""

    match: Meeting
    sides: tuple[Node | None, Node | None]
    """The match that the first, and that the second, came from; None: from nowhere, or fallen."""
    winner: int | None
    """Who goes on, or has won it all; None where nothing decided."""


def tree_of(matches: Sequence[Meeting], champion: int | None = None) -> Node | None:
    """The bracket among the matches; None where there is none.

    Args:
        matches: in the order of the rounds; those of other parts are left out.
        champion: who won, where the last match does not say it itself.
    """
    bracket = [m for m in matches if m.part in ("winners", "losers", "final")]
    if not bracket:
        return None

    def node(at: int, winner: int | None) -> Node:
        match = bracket[at]
        sides: list[Node | None] = []
        for member, final_of in ((match.first, "winners"), (match.second, "losers")):
            part = final_of if match.part == "final" else match.part
            before = [
                i
                for i in range(at)
                if bracket[i].part == part and member in (bracket[i].first, bracket[i].second)
            ]
            sides.append(node(before[-1], member) if before else None)
        return Node(match=match, sides=(sides[0], sides[1]), winner=winner)

    last = bracket[-1]
    winner = champion if last.margin == 0 or math.isnan(last.margin) else None
    if winner is None and abs(last.margin) > 0:
        winner = last.first if last.margin > 0 else last.second
    return node(len(bracket) - 1, winner)


def bracket_lines(
    names: Sequence[str], matches: Sequence[Meeting], champion: int | None = None
) -> Tree | None:
    """The bracket for the terminal: the last match at the top, below it those that led to it."""
    root = tree_of(matches, champion)
    if root is None:
        return None
    tree = Tree(_words(names, root))
    _grow(tree, names, root)
    return tree


def _grow(tree: Tree, names: Sequence[str], node: Node) -> None:
    for side in node.sides:
        if side is not None:
            _grow(tree.add(_words(names, side)), names, side)


def _words(names: Sequence[str], node: Node) -> Text:
    match, words = node.match, Text()
    if match.part != "winners":
        words.append(f"{match.part}: ", style="dim")
    for member, margin, between in ((match.first, match.margin, " "), (match.second, None, "")):
        style = "bold" if member == node.winner else ""
        words.append(short(names[member], plain=True), style=style)
        if margin is not None:
            words.append(f" {percent(margin)} : {percent(-margin)}{between}")
    return words


def percent(margin: float) -> str:
    """The share of points of a margin, which is a share less 1/2."""
    return "-" if math.isnan(margin) else f"{50 + 100 * margin:.0f}"


def bracket_figure(
    names: Sequence[str],
    matches: Sequence[Meeting],
    champion: int | None = None,
    title: str = "",
) -> bytes:
    """PNG: the bracket, from left to right; who goes on is bold, beside each its points in %.

    Args:
        names: [N] players.
        matches: of an elimination, in the order of the rounds.
        champion: who won, where the last match does not say it itself.
        title: above the picture.

    Raises:
        ValueError: where there is no bracket among the matches.
    """
    root = tree_of(matches, champion)
    if root is None:
        raise ValueError("matches: expected a bracket, got none")
    places: dict[int, tuple[float, Node]] = {}
    rows = _place(root, 0.0, places)
    nodes = [node for _, node in places.values()]
    rounds = sorted({node.match.round for node in nodes})
    column = {number: i for i, number in enumerate(rounds)}
    width = len(rounds) * BOX + (len(rounds) - 1) * GAP + 0.3
    height = max(rows, 2) * ROW + 0.75
    figure = canvas.blank(max(width, 4.0), height)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_axis_off()
    axes.set_xlim(-0.15, max(width, 4.0) - 0.15)
    axes.set_ylim(height, 0)
    left = {id(node): column[node.match.round] * (BOX + GAP) for node in nodes}
    for y, node in places.values():
        x, top = left[id(node)], 0.6 + y * ROW
        _box(axes, names, node, x, top)
        for line, side in zip((-0.5, 0.5), node.sides, strict=True):
            if side is not None:
                start = left[id(side)] + BOX
                other = 0.6 + places[id(side)][0] * ROW
                bend = x - GAP / 2
                axes.plot(
                    [start, bend, bend, x],
                    [other, other, top + line * ROW, top + line * ROW],
                    color=canvas.GREY,
                    linewidth=1,
                    solid_joinstyle="round",
                )
    axes.text(0, 0.22, title, fontsize=11, va="center")
    return canvas.png(figure)


def _place(node: Node, row: float, places: dict[int, tuple[float, Node]]) -> float:
    """Give a match and all below it their middles, in rows from `row`; the first row after them."""
    middles = []
    for side in node.sides:
        if side is None:
            middles.append(row + 0.6)
            row += 1.2
        else:
            row = _place(side, row, places)
            middles.append(places[id(side)][0])
    places[id(node)] = (sum(middles) / 2, node)
    return row


def _box(axes: Any, names: Sequence[str], node: Node, x: float, y: float) -> None:
    from matplotlib.patches import Rectangle

    match = node.match
    frame = {"facecolor": "#F6F6F6", "edgecolor": canvas.GREY, "linewidth": 0.8, "zorder": 2}
    if match.part == "losers":
        frame["facecolor"] = "#FBEFE6"
    elif match.part == "final":
        frame["facecolor"] = "#E8F1FA"
    axes.add_patch(Rectangle((x, y - ROW), BOX, 2 * ROW, **frame))
    for member, margin, line in (
        (match.first, match.margin, -0.5),
        (match.second, -match.margin, 0.5),
    ):
        weight = "bold" if member == node.winner else "normal"
        look = {"fontsize": 8, "va": "center", "zorder": 3, "fontweight": weight}
        axes.text(x + 0.06, y + line * ROW, short(names[member]), **look)
        axes.text(x + BOX - 0.06, y + line * ROW, percent(margin), ha="right", **look)
