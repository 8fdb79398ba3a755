import struct

import numpy as np
import pytest
from rich.console import Console

from rlagents.algos.ratings import Rating
from rlagents.scoreboard import Row
from rlagents.telemetry.league import (
    LONGEST_NAME,
    elo_figure,
    ranking_table,
    short,
    win_matrix_figure,
    win_matrix_table,
)
from tests.telemetry.hostile import HOSTILE


def size_of(png: bytes) -> tuple[int, int]:
    assert png[:8] == b"\x89PNG\r\n\x1a\n"
    width, height = struct.unpack(">II", png[16:24])
    return width, height


def printed(table: object, width: int = 80) -> str:
    console = Console(width=width, highlight=False)
    with console.capture() as capture:
        console.print(table, markup=False)
    return capture.get()


RATING = Rating(elo=1523.4, low=1490.6, high=1570.2, matches=12)


def test_short_names_keep_their_end_and_are_plain() -> None:
    assert short("scripted:oracle") == "scripted:oracle"
    long = "runs/" + 40 * "x" + "/league/12"
    assert len(short(long)) == LONGEST_NAME and short(long).endswith("x/league/12")
    assert short("a$b$") == r"a\$b\$" and short("a$b$", plain=True) == "a$b$"
    assert short(HOSTILE).isprintable()


@pytest.mark.parametrize("names", [["a", "b"], ["$x^2", HOSTILE], [f"p{i}" for i in range(40)]])
def test_pictures_are_pngs(names: list[str]) -> None:
    size_of(elo_figure(names, [RATING] * len(names)))
    size_of(win_matrix_figure(names, np.full((len(names), len(names)), 0.5)))
    size_of(win_matrix_figure(names, np.full((len(names), len(names)), np.nan)))


def test_pictures_grow_with_the_players() -> None:
    sizes = []
    for count in (4, 8, 16):
        names = [f"p{i}" for i in range(count)]
        sizes.append(
            (
                size_of(elo_figure(names, [RATING] * count))[1],
                size_of(win_matrix_figure(names, np.full((count, count), 0.5))),
            )
        )
    assert sizes[0][0] < sizes[1][0] < sizes[2][0]
    assert sizes[0][1] < sizes[1][1] < sizes[2][1]


def test_the_ranking_by_hand() -> None:
    rows = [
        Row(name="runs/a", rank=1.0, rating=RATING, wins=7, draws=1, losses=4),
        Row(name="b", rank=None, rating=None, failed=3),
    ]
    lines = printed(ranking_table(rows, "a title")).splitlines()
    assert lines[0].strip() == "a title"
    head = "rank player Elo 95% interval points W/D/L games failed"
    assert " ".join(lines[1].split()) == head
    # 7.5 points of 12 games.
    assert " ".join(lines[3].split()) == "1 runs/a 1523 1491 to 1570 62.5% 7/1/4 12 0"
    assert " ".join(lines[4].split()) == "- b - - - 0/0/0 0 3"


def test_the_matrix_by_hand() -> None:
    points = np.array([[np.nan, 0.625], [0.375, np.nan]])
    lines = printed(win_matrix_table(["a", "b"], points)).splitlines()
    assert [line.split() for line in lines] == [
        ["1", "2"],
        ["1", "a", ".", "62"],
        ["2", "b", "38", "."],
    ]


def test_hostile_names_reach_no_terminal() -> None:
    row = Row(name=HOSTILE, rank=1.0, rating=RATING, wins=1)
    table = printed(ranking_table([row], "t"), 300)
    matrix = printed(win_matrix_table([HOSTILE, "b"], np.full((2, 2), 0.5)), 300)
    for text in (table, matrix):
        assert all(char == "\n" or char.isprintable() for char in text)
    assert "[bold red]x[/]" in table  # as it is: no markup
