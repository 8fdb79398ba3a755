"""A tournament's settings, and what its games come to."""

import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlagents.algos.topologies import topology
from rlagents.algos.tournaments import play
from rlagents.contest import TOPOLOGIES, Contest
from rlagents.errors import ConfigError
from rlagents.scoreboard import (
    Game,
    Row,
    margin,
    pairings,
    plain,
    rated,
    shares,
    table,
)

NAMES = ("a", "b", "c")


def games(first: int, second: int, *points: float | None, deal: int = 0) -> list[Game]:
    """One game a deal."""
    return [
        Game(first=first, second=second, points=p, deal=(first, second, deal + i))
        for i, p in enumerate(points)
    ]


def test_settings_are_taken_out_of_the_overrides() -> None:
    contest, rest = Contest.taken(
        ["run.seed=3", "players=[self, 'x: y', 12]", "games=4", "topology=swiss", "out=a=b"]
    )
    assert contest == Contest(players=("self", "x: y", "12"), games=4, topology="swiss", out="a=b")
    assert rest == ["run.seed=3"]
    assert Contest.taken(["players=[a,b]"])[0] == Contest(players=("a", "b"))
    assert Contest.taken(["games=4", "players=[a,b]", "games=6"])[0].games == 6


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("run.seed=3", "players: expected two or more, players="),
        ("players=[a]", r"players: expected two or more, got '\[a\]'"),
        ("players=[]", "players: expected two or more"),
        ("players=", "players: expected a list such as"),
        ("players=a,b", "players: expected a list such as .* got 'a,b'"),
        ("players=[a", "players.*not YAML"),
        ("players=[a,b,a]", "players: 'a' stands twice"),
        ("players=[., ./]", r"players: '\./' stands twice"),
        ("players=[a,'']", "players: expected a player's name"),
        ("players=[a,[b]]", "players: expected a player's name"),
        ("players=[a,null]", "players: expected a player's name"),
        ("playrs=[a,b]", "playrs: unknown key; did you mean 'players'"),
        ("game=3", "game: unknown key; did you mean 'games'"),
        ("games=0", "games: expected a number from 1 to 10,000, got '0'"),
        ("games=-1", "games: expected a number"),
        ("games=99999999999", "games: expected a number"),
        ("games=²", "games: expected a number"),
        ("topology=swis", "topology: expected one of round_robin, .*did you mean 'swiss'"),
        ("out=", "out: expected a folder"),
        ("policy.from=x", r"policy.from: expected players="),
    ],
)
def test_wrong_settings_are_one_line(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Contest.taken([text])


@pytest.mark.parametrize("name", TOPOLOGIES)
def test_the_number_of_games_is_known(name: str) -> None:
    for size in (2, 5):
        contest = Contest(players=tuple("abcde"[:size]), games=4, topology=name)
        rng = np.random.default_rng(0)
        standing = play(topology(name)(size, rng), lambda pairs: np.ones(len(pairs), np.float32))
        assert contest.episodes(2) == 4 * standing.comparisons
        assert contest.episodes(1) == 4 * size


def test_a_margin_is_a_share_of_points_less_half_and_leaves_failures_out() -> None:
    assert margin(games(0, 1, 1.0, 0.5, None, 1.0)) == pytest.approx(2.5 / 3 - 0.5)
    assert math.isnan(margin(games(0, 1, None, None)))
    assert math.isnan(margin([]))


def test_pairs_are_counted_together_whoever_is_first() -> None:
    found = pairings(NAMES, games(0, 1, 1.0, 0.5) + games(1, 0, 1.0, None) + games(2, 0, 1.0))
    assert [(p.first, p.second, p.wins, p.draws, p.losses) for p in found] == [
        ("a", "b", 1, 1, 1),
        ("a", "c", 0, 0, 1),
    ]
    points = shares(["c", "a", "b"], found)
    expected = [[np.nan, 1, np.nan], [0, np.nan, 0.5], [np.nan, 0.5, np.nan]]
    np.testing.assert_array_equal(points, expected)


def test_rows_by_hand() -> None:
    played = games(0, 1, 0.0, 0.0, 0.5, None) + games(0, 2, 1.0, 1.0) + games(1, 2, 1.0, 0.0)
    rows = table(NAMES, played, None, np.random.default_rng(0))
    assert [(r.name, r.rank, r.wins, r.draws, r.losses, r.failed, r.games) for r in rows] == [
        ("b", 1, 3, 1, 1, 1, 5),
        ("a", 2, 2, 1, 2, 1, 5),
        ("c", 3, 1, 0, 3, 0, 4),
    ]
    assert [row.share for row in rows] == [3.5 / 5, 2.5 / 5, 1 / 4]
    for row in rows:
        assert row.rating is not None
        assert row.rating.low < row.rating.elo < row.rating.high
        assert row.rating.matches == row.games
    assert plain(rows)[0]["share"] == 0.7


def test_who_always_fails_is_last_without_a_rank() -> None:
    rows = table(NAMES, games(0, 1, None) + games(0, 2, 0.0) + games(1, 2, None), None, rng())
    assert [(r.name, r.rank, r.share, r.failed) for r in rows] == [
        ("c", 1, 1.0, 1),
        ("a", 2, 0.0, 1),
        ("b", None, None, 2),
    ]
    assert rows[-1] == Row(name="b", rank=None, rating=None, failed=2)
    ratings = [row.rating.elo for row in rows if row.rating is not None]
    assert np.mean(ratings) == pytest.approx(1500)  # of those who have one


def test_nothing_played_ranks_nobody() -> None:
    assert [row.rank for row in table(NAMES, [], None, rng())] == [None, None, None]
    assert rated([], 2, rng()) == [None, None]


def test_equals_share_a_rank_and_a_topology_may_say_who_is_better() -> None:
    played = games(0, 1, 1.0, 0.0) + games(0, 2, 1.0, 1.0) + games(1, 2, 1.0, 1.0)
    assert [row.rank for row in table(NAMES, played, None, rng())] == [1.5, 1.5, 3]
    margins = {(0, 1): -0.2, (0, 2): -0.1, (1, 2): -0.3}
    standing = play(
        topology("round_robin")(3, rng()),
        lambda pairs: np.array([margins[first, second] for first, second in pairs.tolist()]),
    )
    rows = table(NAMES, played, standing, rng())
    assert [(row.name, row.rank) for row in rows] == [("c", 1), ("b", 2), ("a", 3)]


def test_intervals_take_the_games_of_a_deal_together() -> None:
    # The deal decides: from both seats the winner is who has the better one.
    both = [
        Game(first=0, second=1, points=float(seat), deal=deal)
        for deal in range(40)
        for seat in (0, 1)
    ]
    # One task decides five comparisons alike.
    alike = [
        Game(first=0, second=second, points=float(deal % 2), deal=deal)
        for deal in range(40)
        for second in range(1, 6)
    ]
    for played, size, wider in ((both, 2, False), (alike, 6, True)):
        single = [
            Game(first=g.first, second=g.second, points=g.points, deal=i)
            for i, g in enumerate(played)
        ]
        together, apart = rated(played, size, rng())[0], rated(single, size, rng())[0]
        assert together is not None and apart is not None
        assert together.elo == pytest.approx(apart.elo)
        widths = together.high - together.low, apart.high - apart.low
        assert widths[0] > 1.4 * widths[1] if wider else widths[0] <= widths[1]


def test_a_sweep_is_no_certainty() -> None:
    # p = share with the prior's game against an average player at 0: the strengths are s and -s,
    # and 8 (1 - p(2s)) = p(s) - 1/2 for a prior of one game of which half is won.
    first, second = (r for r in rated(games(0, 1, *[1.0] * 8), 2, rng()) if r is not None)
    assert first.low < first.elo < first.high
    assert first.high - first.low > 200
    assert first.elo - 1500 == pytest.approx(1500 - second.elo)
    s = (first.elo - 1500) * math.log(10) / 400
    assert 8 * (1 - 1 / (1 + math.exp(-2 * s))) == pytest.approx(1 / (1 + math.exp(-s)) - 0.5)


@given(st.permutations(range(4)), st.integers(0, 2**20))
def test_who_is_which_number_decides_nothing(order: list[int], seed: int) -> None:
    draw = np.random.default_rng(seed)
    names = "abcd"
    played = [
        Game(first=i, second=j, points=float(draw.choice([0, 0.5, 1])), deal=(i, j, n))
        for i in range(4)
        for j in range(i + 1, 4)
        for n in range(3)
    ]
    place = {player: at for at, player in enumerate(order)}
    moved = [
        Game(first=place[g.first], second=place[g.second], points=g.points, deal=g.deal)
        for g in played
    ]
    one = table(names, played, None, rng())
    other = table([names[player] for player in order], moved, None, rng())
    assert {row.name: row.rank for row in one} == {row.name: row.rank for row in other}
    for row in one:
        (twin,) = [r for r in other if r.name == row.name]
        assert (row.wins, row.draws, row.losses) == (twin.wins, twin.draws, twin.losses)
        assert row.rating is not None and twin.rating is not None
        assert row.rating.elo == pytest.approx(twin.rating.elo, abs=1e-4)


def test_out_must_be_free(tmp_path: Path) -> None:
    from rlagents.config import RunConfig

    (tmp_path / "config.yaml").touch()
    with pytest.raises(ConfigError, match="out: .* holds a run or a tournament already"):
        Contest(players=("a", "b"), out=str(tmp_path)).check(RunConfig())


def rng() -> np.random.Generator:
    return np.random.default_rng(0)
