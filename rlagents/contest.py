"""A tournament's settings, and what its games come to. Torch-free and without effects."""

from __future__ import annotations

import math
import os
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self, get_args

import gymnasium
import numpy as np

from rlagents import yaml_text
from rlagents.algos.ratings import Rating, bradley_terry, elo
from rlagents.algos.topologies import expected_comparisons
from rlagents.algos.tournaments import Standing, ranks_of
from rlagents.config import RunConfig, player_of
from rlagents.config.scoring import TopologyName
from rlagents.errors import ConfigError, nearest
from rlagents.league import RESAMPLES, LeagueState, Pairing
from rlagents.preflight import check_player
from rlagents.schema import known_keys, shown

TOPOLOGIES: tuple[str, ...] = get_args(TopologyName)
SETTINGS = ("players", "games", "topology", "out")
"""Keys among the overrides that are not of the configuration."""
MANY_GAMES = 10_000
PRIOR = 1.0
"""Weight of the prior of ratings, in games against an average player."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Contest:
    """What `rlagents tournament` is asked for."""

    players: tuple[str, ...]
    """`self`, `scripted:NAME`, `endpoint:NAME`, or the folder of a run or of a model."""
    games: int = 32
    """Of every match of two players; where a player plays alone, tasks of each."""
    topology: str = "round_robin"
    out: str = ""
    """The folder that it is written to; empty: a new one."""

    @classmethod
    def taken(cls, overrides: Sequence[str]) -> tuple[Self, list[str]]:
        """A tournament's own settings out of `key=value` texts, and the other texts.

        Raises:
            ConfigError: for a value that is none, or a key that is nearly one of ours.
        """
        found: dict[str, Any] = {}
        rest: list[str] = []
        sections = {key.partition(".")[0] for key in known_keys()}
        for text in overrides:
            key, equals, value = text.partition("=")
            if equals and key in SETTINGS:
                found[key] = _READ[key](value)
            elif key == "policy.from":
                raise ConfigError("policy.from: expected players=[...], who play")
            elif "." not in key and key not in sections and nearest(key, SETTINGS):
                raise ConfigError(f"{key[:60]}: unknown key{nearest(key, SETTINGS)}")
            else:
                rest.append(text)
        if "players" not in found:
            raise ConfigError("players: expected two or more, players=[self,scripted:random]")
        return cls(**found), rest

    def check(self, config: RunConfig) -> int:
        """See that all players exist, as far as that is known at once; seats of the environment.

        Raises:
            ConfigError: naming the setting.
        """
        if (Path(self.out) / "config.yaml").exists() and self.out:
            raise ConfigError(
                f"out: {self.out!r} holds a run or a tournament already; choose another folder"
            )
        seats = seats_of(config)
        for name in self.players:
            if player_of(name)[0] == "past":
                raise ConfigError(
                    f"players: {name!r}: only a run that trains has a past; "
                    "name the folder of a frozen version, RUN_DIR/league/NUMBER"
                )
            check_player(config, "players", name)
        if seats > 1 and self.games % seats:
            raise ConfigError(
                f"games: expected a multiple of {seats}, since every deal of {config.env.id} "
                f"is played from each of its seats, got {self.games}"
            )
        return seats

    def episodes(self, seats: int) -> int:
        """How many there are in all."""
        if seats == 1:
            return self.games * len(self.players)
        return self.games * expected_comparisons(self.topology, len(self.players))


def seats_of(config: RunConfig) -> int:
    """Seats of the environment: that it can be made has been seen before."""
    env: Any = gymnasium.make(config.env.id, disable_env_checker=True, **config.env.kwargs)
    try:
        return int(getattr(env.unwrapped, "seats", 1))
    finally:
        env.close()


def _players(text: str) -> tuple[str, ...]:
    values = yaml_text.parse(text, "players")
    if not isinstance(values, list):
        expected = "a list such as [self,scripted:random,runs/a]"
        raise ConfigError(f"players: expected {expected}, got {text[:80]!r}")
    names = [getattr(value, "text", value) for value in values]
    for name in names:
        if not isinstance(name, str) or not name.strip():
            raise ConfigError(f"players: expected a player's name, got {shown(name)!r}")
    seen: dict[str, str] = {}
    for name in names:
        place = os.path.realpath(name) if os.path.exists(name) else name
        if place in seen:
            raise ConfigError(f"players: {name!r} stands twice; expected different players")
        seen[place] = name
    if len(names) < 2:
        raise ConfigError(f"players: expected two or more, got {text[:80]!r}")
    return tuple(names)


def _games(text: str) -> int:
    if not text.isascii() or not text.isdigit() or not 1 <= int(text[:9]) <= MANY_GAMES:
        expected = f"a number from 1 to {MANY_GAMES:,}"
        raise ConfigError(f"games: expected {expected}, got {text[:40]!r}")
    return int(text)


def _topology(text: str) -> str:
    if text not in TOPOLOGIES:
        known = ", ".join(TOPOLOGIES)
        hint = nearest(text, TOPOLOGIES)
        raise ConfigError(f"topology: expected one of {known}, got {text[:40]!r}{hint}")
    return text


def _out(text: str) -> str:
    if not text or "\0" in text:
        raise ConfigError(f"out: expected a folder, got {text!r}")
    return text


_READ: Mapping[str, Any] = {
    "players": _players,
    "games": _games,
    "topology": _topology,
    "out": _out,
}


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

    As `algos.ratings.rate`, but the bootstrap draws deals, not games: those of one deal from two
    seats are opposites where the deal decides, and where every player has played a task alone each
    score of that task is in N-1 comparisons. With a single deal the interval is a point.
    """
    known = [game for game in games if game.points is not None]
    seen = sorted({player for game in known for player in (game.first, game.second)})
    place = {player: i for i, player in enumerate(seen)}
    pairs = np.array([(place[g.first], place[g.second]) for g in known], np.int32).reshape(-1, 2)
    points = np.array([g.points for g in known], np.float64)
    deals: dict[Hashable, list[int]] = {}
    for number, game in enumerate(known):
        deals.setdefault(game.deal, []).append(number)
    blocks = [np.array(numbers) for numbers in deals.values()]
    found: list[Rating | None] = [None] * size
    if not seen:
        return found

    def fitted(chosen: np.ndarray) -> np.ndarray:
        return elo(bradley_terry(pairs[chosen], points[chosen], len(seen), prior=PRIOR))

    point = fitted(np.arange(len(known)))
    draws = [point]
    for _ in range(RESAMPLES):
        drawn = rng.integers(len(blocks), size=len(blocks))
        draws.append(fitted(np.concatenate([blocks[i] for i in drawn])))
    low, high = np.quantile(draws, [0.025, 0.975], axis=0)
    counts = np.bincount(pairs.ravel(), minlength=len(seen))
    for player, i in place.items():
        found[player] = Rating(
            elo=float(point[i]),
            low=float(min(low[i], point[i])),
            high=float(max(high[i], point[i])),
            matches=int(counts[i]),
        )
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
