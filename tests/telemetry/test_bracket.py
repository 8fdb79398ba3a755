import math

import numpy as np
import pytest
from rich.console import Console

from rlagents.algos.topologies import topology
from rlagents.algos.tournaments import Match, Standing, play
from rlagents.telemetry.bracket import Node, bracket_figure, bracket_lines, tree_of
from tests.telemetry.hostile import HOSTILE
from tests.telemetry.test_league import size_of

KINDS = ("seeded_single_elimination", "double_elimination")


def played(kind: str, size: int, seed: int = 0, tie: bool = False) -> Standing:
    """With a judge who is never wrong: the greater number is better."""
    rng = np.random.default_rng(seed)

    def judge(pairs: np.ndarray) -> np.ndarray:
        gaps = (pairs[:, 0] - pairs[:, 1]) / (2 * size)
        return gaps.astype(np.float32) * (not tie)

    return play(topology(kind)(size, rng), judge)


def nodes(node: Node) -> list[Node]:
    return [node] + [n for side in node.sides if side is not None for n in nodes(side)]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", range(2, 20))
def test_every_match_of_the_bracket_is_once_in_the_tree(kind: str, size: int) -> None:
    standing = played(kind, size)
    bracket = [m for m in standing.matches if m.part != "seeding"]
    root = tree_of(standing.matches, size - 1)
    assert root is not None and root.winner == size - 1
    found = nodes(root)
    assert sorted(map(str, (n.match for n in found))) == sorted(map(str, bracket))
    for node in found:
        # Nobody here is ever wrong, so the greater number goes on.
        assert node.winner == max(node.match.first, node.match.second)
        for member, side in zip((node.match.first, node.match.second), node.sides, strict=True):
            assert side is None or (side.winner == member and side.match.round < node.match.round)


@pytest.mark.parametrize("kind", KINDS)
def test_ties_decide_nothing_but_who_went_on_is_known(kind: str) -> None:
    root = tree_of(played(kind, 6, tie=True).matches)
    assert root is not None and root.winner is None
    assert all(n.winner in (n.match.first, n.match.second) for n in nodes(root)[1:])


def test_no_bracket() -> None:
    rng = np.random.default_rng(0)
    standing = play(topology("swiss")(4, rng), lambda pairs: np.zeros(len(pairs), np.float32))
    assert tree_of(standing.matches) is None
    assert bracket_lines("abcd", standing.matches) is None
    with pytest.raises(ValueError, match="expected a bracket"):
        bracket_figure("abcd", standing.matches)


FINAL = (
    Match(first=0, second=1, margin=0.25, round=0, part="winners"),
    Match(first=2, second=3, margin=math.nan, round=0, part="winners"),
    Match(first=0, second=3, margin=-0.5, round=1, part="winners"),
)


def printed(names: list[str]) -> str:
    console = Console(width=200, highlight=False)
    with console.capture() as capture:
        console.print(bracket_lines(names, FINAL))
    return capture.get()


def test_the_text_by_hand() -> None:
    assert printed(["ann", "bob", "cid", "dan"]).splitlines() == [
        "ann 0 : 100 dan",
        "├── ann 75 : 25 bob",
        "└── cid - : - dan",
    ]
    text = printed([HOSTILE, "[bold]b[/]", "c", "d"])
    assert all(char == "\n" or char.isprintable() for char in text)
    assert "[bold]b[/]" in text


@pytest.mark.parametrize("kind", KINDS)
def test_pictures_grow_with_the_players(kind: str) -> None:
    sizes = []
    for size in (4, 8, 16):
        names = [HOSTILE, "$x^2", *(f"p{i}" for i in range(size - 2))]
        sizes.append(size_of(bracket_figure(names, played(kind, size).matches, title="t")))
    widths, heights = zip(*sizes, strict=True)
    assert widths[0] < widths[1] < widths[2]
    assert heights[0] < heights[1] < heights[2]
    size_of(bracket_figure("abcd", FINAL))
