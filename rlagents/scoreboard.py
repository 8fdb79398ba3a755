"""What the games of a tournament come to: pairings, ratings with intervals, ranks. No effects.

Letters: N players, M games.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from rlagents.algos.ratings import Rating, rate
from rlagents.algos.tournaments import Standing, ranks_of
from rlagents.league import RESAMPLES, LeagueState, Pairing


@dataclass(frozen=True, slots=True, kw_only=True)
class Game:
    """One game of two players, or what they did with the same task, compared."""

    first: int
    second: int
    points: float | None
    """Of the first: 1, 1/2, 0; None where it failed."""
    deal: Hashable = None
    """Games of one deal depend on each other: intervals resample deals."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A player and what came of its games."""

    name: str
    rank: float | None
    """From 1; None for a player without any game that did not fail. Equals share their mean."""
    rating: Rating | None
    wins: int = 0
    draws: int = 0
    losses: int = 0
    failed: int = 0
    """Games that this player was in and that failed, whoever it was that failed."""

    @property
    def games(self) -> int:
        return self.wins + self.draws + self.losses

    @property
    def share(self) -> float | None:
        """Of the points; a draw is half of one."""
        return (self.wins + self.draws / 2) / self.games if self.games else None


def margin(games: Iterable[Game]) -> float:
    """Of a match: the share of points of the games' first player, less 1/2; NaN if all failed."""
    points = [game.points for game in games if game.points is not None]
    return math.fsum(points) / len(points) - 0.5 if points else math.nan


def pairings(names: Sequence[str], games: Iterable[Game]) -> tuple[Pairing, ...]:
    """Games by pair; in a pair the one that was named first is the first."""
    known: list[tuple[str, str, float]] = []
    for game in games:
        if game.points is not None:
            first, second, points = game.first, game.second, game.points
            if first > second:
                first, second, points = second, first, 1 - points
            known.append((names[first], names[second], points))
    return LeagueState().rated(known).pairings


def rated(games: Sequence[Game], size: int, rng: np.random.Generator) -> list[Rating | None]:
    """[N] Bradley-Terry ratings with 95% intervals; None for a player without a game.

    The bootstrap draws deals, not games: those of one deal from two seats are opposites where the
    deal decides, and where every player has played a task alone each score of that task is in N-1
    comparisons.
    """
    known = [game for game in games if game.points is not None]
    seen = sorted({player for game in known for player in (game.first, game.second)})
    place = {player: i for i, player in enumerate(seen)}
    found: list[Rating | None] = [None] * size
    if not seen:
        return found
    ratings = rate(
        [(place[g.first], place[g.second], float(g.points or 0.0)) for g in known],
        len(seen),
        rng=rng,
        resamples=RESAMPLES,
        blocks=[game.deal for game in known],
    )
    for player, i in place.items():
        found[player] = ratings[i]
    return found


def table(
    names: Sequence[str],
    games: Sequence[Game],
    standing: Standing | None,
    rng: np.random.Generator,
) -> list[Row]:
    """[N] players, the best first; those without a game that did not fail come last.

    Args:
        names: [N] players.
        games: all of them.
        standing: of a topology that says itself who is better; None: the ratings do.
        rng: for the intervals.
    """
    size = len(names)
    ratings = rated(games, size, rng)
    values = np.array([math.nan if r is None else round(r.elo, 6) for r in ratings])
    ranks = ranks_of(values) if standing is None else standing.ranks
    counts = [[0, 0, 0] for _ in names]
    failed = [0] * size
    for game in games:
        for player, mine in ((game.first, game.points), (game.second, _opposite(game.points))):
            if mine is None:
                failed[player] += 1
            else:
                counts[player][0 if mine > 0.5 else 1 if mine == 0.5 else 2] += 1
    rows = [
        Row(
            name=name,
            rank=None if math.isnan(ranks[i]) else float(ranks[i]),
            rating=ratings[i],
            wins=counts[i][0],
            draws=counts[i][1],
            losses=counts[i][2],
            failed=failed[i],
        )
        for i, name in enumerate(names)
    ]
    return sorted(rows, key=lambda row: math.inf if row.rank is None else row.rank)


def _opposite(points: float | None) -> float | None:
    return None if points is None else 1 - points


def shares(order: Sequence[str], played: Iterable[Pairing]) -> np.ndarray:
    """[N, N] share of the points that the player of a row has from that of a column, else NaN."""
    place = {name: i for i, name in enumerate(order)}
    found = np.full((len(order), len(order)), np.nan)
    for p in played:
        i, j = place[p.first], place[p.second]
        found[i, j], found[j, i] = p.points / p.games, 1 - p.points / p.games
    return found


def plain(rows: Iterable[Row]) -> list[dict[str, Any]]:
    """Rows for JSON."""
    return [{**asdict(row), "games": row.games, "share": row.share} for row in rows]
