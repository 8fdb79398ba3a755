"""Games between named players: for ratings of a league, and for `rlagents tournament`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from rlagents.data.tasks import TaskSource
from rlagents.league import points_of
from rlagents.policy.sampler import Sampling
from rlagents.rollout.pool import Pool
from rlagents.rollout.watch import Watch, run_all
from rlagents.rollout.worker import Job
from rlagents.types import EpisodeKey, Trajectory


@dataclass(frozen=True, slots=True, kw_only=True)
class Fixture:
    """A game to be played; the first player has the seat, the second all others."""

    first: str
    second: str
    game: int
    """Number of the held-out game: the same deal for every pair of players."""
    seat: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What came of it."""

    fixture: Fixture
    points: float | None
    """Of the first: 1, 1/2, 0; None where the game failed."""
    trajectory: Trajectory


def fixtures(pairs: Iterable[tuple[str, str]], games: int, seats: int) -> list[Fixture]:
    """`games` games of each pair. Seats go round with the games, each deal from every seat."""
    return [
        Fixture(first=first, second=second, game=number // seats, seat=number % seats)
        for first, second in pairs
        for number in range(games)
    ]


def play(
    pool: Pool,
    tasks: TaskSource,
    sampling: Sampling,
    watch: Watch,
    games: Iterable[Fixture],
    *,
    seats: int,
    stream: str,
    iteration: int = 0,
    played_by: Mapping[str, str] = MappingProxyType({}),
    advance: Callable[[Trajectory], None] = lambda trajectory: None,
) -> list[Outcome]:
    """Play all of them, as many at once as the pool does; outcomes in the order of the fixtures.

    Consumes: fixtures. Produces: outcomes. Waits for: the next game to end, each bounded by its own
    limits. Stops when: all have ended, or `watch.check` raises.

    Args:
        pool: a game's trajectory is that of its first player; the other's is in `others`.
        tasks: the deals.
        sampling: of all players alike.
        watch: for long waits and Ctrl-C.
        games: what is played.
        seats: of the environment.
        stream: of the keys: `league`, `tournament`.
        iteration: of the keys.
        played_by: who plays under a name, where it is not the player of that name.
        advance: called with each trajectory that has ended.
    """
    wanted = list(games)

    def jobs() -> Iterator[Job]:
        for number, fixture in enumerate(wanted):
            yield Job(
                key=EpisodeKey(stream=stream, iteration=iteration, group=number, member=0),
                task=tasks.match(
                    fixture.game,
                    fixture.seat,
                    (played_by.get(fixture.second, fixture.second),) * (seats - 1),
                ),
                sampling=sampling,
                player=played_by.get(fixture.first, fixture.first),
            )

    found: dict[int, Trajectory] = {}
    for trajectory in run_all(pool, jobs(), watch):
        found[trajectory.key.group] = trajectory
        advance(trajectory)
    return [
        Outcome(fixture=fixture, points=points_of(found[number]), trajectory=found[number])
        for number, fixture in enumerate(wanted)
    ]
