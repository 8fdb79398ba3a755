"""The league: frozen versions of the policy, against whom it plays, and what came of it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import lru_cache
from typing import Any, Self

import numpy as np

from rlagents.algos.matchmaking import chances, kept
from rlagents.algos.ratings import Rating, rate
from rlagents.algos.sampling import Plan
from rlagents.config import LeagueSection, RunConfig, player_of
from rlagents.types import Trajectory

MARGIN = "env/margin"
"""Metric of an environment with several seats: how far ahead of the others the player is."""
RESAMPLES = 200
"""Of the games, for the intervals of ratings."""
FORGET = 0.9
"""What an iteration leaves of the weight of earlier games: the policy has changed since."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Version:
    """A frozen version of the policy, `past:NUMBER`, in the run's folder under that number."""

    number: int
    """Finished iterations of RL when it was frozen."""
    step: int
    """Optimizer steps then."""

    @property
    def name(self) -> str:
        """As a player."""
        return f"past:{self.number}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Pairing:
    """All rating games of two players so far."""

    first: str
    second: str
    wins: int = 0
    """Of the first."""
    draws: int = 0
    losses: int = 0

    @property
    def games(self) -> int:
        return self.wins + self.draws + self.losses

    @property
    def points(self) -> float:
        """Of the first; a draw is half of one."""
        return self.wins + self.draws / 2

    def plus(self, points: float) -> Self:
        """After one more game, from which the first has 1, 1/2 or 0 points."""
        if points == 0.5:
            return replace(self, draws=self.draws + 1)
        name = "wins" if points > 0.5 else "losses"
        return replace(self, **{name: getattr(self, name) + 1})


@dataclass(frozen=True, slots=True, kw_only=True)
class LeagueState:
    """Part of a run's checkpoint."""

    versions: tuple[Version, ...] = ()
    """Oldest first."""
    met: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    """Player -> (points of the policy against it, games) in training, older ones forgotten."""
    pairings: tuple[Pairing, ...] = ()

    @classmethod
    def of(cls, plain: Mapping[str, Any]) -> Self:
        """Undo `dataclasses.asdict`, also after a passage through JSON.

        Raises:
            KeyError, TypeError, ValueError: when it is not one.
        """
        return cls(
            versions=tuple(Version(**version) for version in plain["versions"]),
            met={name: (float(won), float(games)) for name, (won, games) in plain["met"].items()},
            pairings=tuple(Pairing(**pairing) for pairing in plain["pairings"]),
        )

    def frozen(self, version: Version) -> Self:
        """With one version more; the same number again replaces it."""
        others = tuple(v for v in self.versions if v.number < version.number)
        return replace(self, versions=(*others, version))

    def rated(self, games: Iterable[tuple[str, str, float]]) -> Self:
        """With further games: (first, second, points of the first)."""
        found = {(p.first, p.second): p for p in self.pairings}
        for first, second, points in games:
            empty = Pairing(first=first, second=second)
            found[first, second] = found.get((first, second), empty).plus(points)
        return replace(self, pairings=tuple(found.values()))

    def remembered(self, played: Iterable[Trajectory]) -> Self:
        """After an iteration's games of the policy against others."""
        met = {name: (FORGET * won, FORGET * games) for name, (won, games) in self.met.items()}
        for trajectory in played:
            points = points_of(trajectory)
            if points is None:
                continue
            for name in set(trajectory.task.opponents):
                won, games = met.get(name, (0.0, 0.0))
                met[name] = won + points, games + 1
        return replace(self, met=met)


def points_of(trajectory: Trajectory) -> float | None:
    """What the player of a trajectory has from its game: 1, 1/2 for a draw, 0.

    None for a game without a result: it failed, or we cut it at a limit. The environment's metric
    `margin` decides, or the return where there is none.
    """
    if trajectory.stop.failed or trajectory.stop.cut:
        return None
    margin = trajectory.metrics.get(MARGIN, trajectory.episode_return)
    return 0.5 if abs(margin) < 1e-6 else float(margin > 0)


def seated(config: RunConfig, state: LeagueState, plan: Plan, block: int) -> Plan:
    """The plan, with the seat of the policy and the players of the others in every slot.

    All attempts of a group have the same seat and opponents. The policy has its seats in turn, slot
    by slot; each other seat is drawn from `league.opponents`, where a name that stands twice is
    twice as likely, and `past` from the frozen versions by `league.choice`. The same for the same
    arguments.
    """
    league = config.league
    if not league.plays:
        return plan
    rng = np.random.default_rng([config.run.seed, 6, block])
    past = Past.of(league, state)
    seats = league.learned
    slots = []
    for number, slot in enumerate(plan.slots):
        names = tuple(_drawn(league, past, rng) for _ in range(league.seats - 1))
        # Slots beyond the groups that are started are for dropped ones: mostly not played.
        seat = seats[(block * plan.groups + number) % len(seats)]
        slots.append(replace(slot, seat=seat, opponents=names))
    return replace(plan, slots=tuple(slots))


@dataclass(frozen=True, slots=True)
class Past:
    """The frozen versions that are met, and how likely each is."""

    names: tuple[str, ...]
    chances: Sequence[float]

    @classmethod
    def of(cls, league: LeagueSection, state: LeagueState) -> Self:
        """By `league.choice` among `league.keep` of them."""
        steps = tuple(version.number for version in state.versions)
        names = tuple(state.versions[i].name for i in kept(steps, league.keep))
        if not names:
            return cls((), ())
        won, games = np.array([state.met.get(n, (0.0, 0.0)) for n in names], np.float32).T
        chances_K = chances(league.choice, np.minimum(won, games), games).astype(np.float64)
        return cls(names, (chances_K / chances_K.sum()).tolist())


def _drawn(league: LeagueSection, past: Past, rng: np.random.Generator) -> str:
    name = league.opponents[rng.integers(len(league.opponents))]
    if player_of(name) != ("past", ""):
        return name
    return str(past.names[rng.choice(len(past.names), p=past.chances)]) if past.names else "self"


def win_rates(played: Iterable[Trajectory]) -> dict[str, float]:
    """Metrics of an iteration: `league/win_rate`, also by kind of opponent; draws count half."""
    points: dict[str, list[float]] = {}
    for trajectory in played:
        value = points_of(trajectory)
        if value is None or not trajectory.task.opponents:
            continue
        points.setdefault("", []).append(value)
        for name in set(trajectory.task.opponents):
            kind = player_of(name)[0]
            tag = name if kind in ("scripted", "endpoint") else kind
            points.setdefault(f"/{tag.replace(':', '_')}", []).append(value)
    return {f"league/win_rate{tag}": float(np.mean(values)) for tag, values in points.items()}


def ratings(state: LeagueState, seed: int) -> dict[str, Rating]:
    """Players in the order of their first rating game, and their ratings by all games so far.

    The first version has 1500, so that a rating says by how much a player is better than that,
    whoever else has joined. Games are counted once each, whoever was rated; a draw is half a win
    for both. Empty without games.
    """
    return dict(_ratings(state.pairings, state.versions[0].name if state.versions else "", seed))


@lru_cache(maxsize=2)  # asked for after each iteration, changed by a freeze
def _ratings(
    pairings: tuple[Pairing, ...], anchor: str, seed: int
) -> tuple[tuple[str, Rating], ...]:
    if not any(p.games for p in pairings):
        return ()
    names = tuple(dict.fromkeys(name for p in pairings for name in (p.second, p.first)))
    index = {name: i for i, name in enumerate(names)}
    results = [
        (index[p.first], index[p.second], points)
        for p in pairings
        for points, count in ((1.0, p.wins), (0.5, p.draws), (0.0, p.losses))
        for _ in range(count)
    ]
    rng = np.random.default_rng([seed, 7, len(results)])
    found = rate(results, len(names), rng=rng, resamples=RESAMPLES, anchor=index.get(anchor))
    return tuple(zip(names, found, strict=True))


def report(state: LeagueState, seed: int) -> dict[str, Any]:
    """For `summary.json`: versions, games by pair, ratings."""
    return {
        "versions": [asdict(version) for version in state.versions],
        "pairings": [asdict(pairing) for pairing in state.pairings],
        "ratings": {name: asdict(rating) for name, rating in ratings(state, seed).items()},
    }
