"""Ranks players by games between them: `rlagents tournament`."""

from __future__ import annotations

import json
import math
from abc import ABC, abstractmethod
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace

import numpy as np

from rlagents import build, matches, runs
from rlagents.algos.ratings import bradley_terry
from rlagents.algos.topologies import topology
from rlagents.algos.tournaments import Match, Standing, play
from rlagents.config import LeagueSection, PolicySection, RunConfig, player_of
from rlagents.contest import Contest, Game, Row, margin, pairings, plain, shares, table
from rlagents.data.tasks import TaskSource
from rlagents.errors import ConfigError, RlagentsError
from rlagents.interrupt import Interrupt, Interrupted
from rlagents.journal import Journal
from rlagents.league import points_of
from rlagents.load import resolved_yaml
from rlagents.players import model_folder
from rlagents.policies import cause_of
from rlagents.policy import models
from rlagents.rollout.pool import Pool
from rlagents.rollout.watch import POLL_S, Watch, run_all
from rlagents.rollout.worker import Job
from rlagents.runs import RunFolder
from rlagents.scoring.queue import ScoringQueue
from rlagents.telemetry.bracket import bracket_figure, bracket_lines, tree_of
from rlagents.telemetry.league import (
    elo_figure,
    ranking_table,
    win_matrix_figure,
    win_matrix_table,
)
from rlagents.telemetry.progress import Display, Phase
from rlagents.types import EpisodeKey, FloatArray, Group, IntArray, ScoredGroup, Trajectory
from rlagents.visible import escape

STREAM = "tournament"
WIDEST = 16
"""Players up to which the terminal shows the win matrix."""
TOPOLOGY_SEED, INTERVAL_SEED = 8, 9


def rank(config: RunConfig, contest: Contest) -> list[Row]:
    """Play a tournament, print its tables, and write its folder.

    Ctrl-C keeps what was played: the tables and the folder then say how many games are missing.

    Returns:
        the players, the best first.

    Raises:
        ConfigError: for a player that there is not, or a folder that can't be made.
        RlagentsError: when every game failed.
        Interrupted: by Ctrl-C, after everything is written.
    """
    seats = contest.check(config)
    _check_models(config, contest)
    # Without the library of ratings nothing is played.
    bradley_terry(np.array([[0, 1]], np.int32), np.array([1.0]), 2, prior=1.0)
    section = replace(config.run, dir=contest.out or None)
    folder = runs.create(section, resolved_yaml(config), parent="runs/tournaments", key="out")
    seated = _seated(config, contest, seats)
    stop: Interrupted | None = None
    with Interrupt() as interrupt, Display() as display, Journal(folder.journal) as journal:
        display.print(f"tournament folder: {folder.path}")
        device = str(models.resolve_device(config.learner.device))
        own = any(player_of(name)[0] == "self" for name in contest.players)
        pool = build.make_pool(seated, device=device, notify=display.print, model=own)
        queue = build.make_queue(seated)
        interrupt.arm()
        watch = Watch(
            interval_s=config.telemetry.watchdog_s, report=display.print, check=interrupt.check
        )
        hall = (Duels if seats > 1 else Solos)(
            config=seated,
            contest=contest,
            pool=pool,
            queue=queue,
            watch=watch,
            journal=journal,
            display=display,
        )
        standing: Standing | None = None
        course = topology(contest.topology)(
            len(contest.players), np.random.default_rng([config.run.seed, TOPOLOGY_SEED])
        )
        try:
            standing = play(course, hall.meet)
        except Interrupted as error:
            stop = error
        finally:
            queue.close()
            pool.close()
        rows = _report(folder, config, hall, standing, contest.episodes(seats) - hall.ended)
    if stop is not None:
        raise stop
    if all(row.rank is None for row in rows):
        raise RlagentsError(f"every game failed; the first with: {hall.failures[0]}")
    return rows


def _check_models(config: RunConfig, contest: Contest) -> None:
    """See that each model can be read, before anything is played."""
    for name in contest.players:
        kind, _ = player_of(name)
        try:
            if kind == "self":
                models.check(config.policy)
            elif kind == "model":
                section = replace(
                    config.policy, model=model_folder(name, None), tiny=PolicySection().tiny
                )
                models.check(section)
        except ConfigError as error:
            raise ConfigError(f"players: {name!r}: {error}") from error


def _seated(config: RunConfig, contest: Contest, seats: int) -> RunConfig:
    """The config under which the players play: room for all seats, and none given away."""
    if seats == 1:
        return replace(config, league=LeagueSection())
    league = replace(
        config.league, opponents=contest.players, eval_opponents=(), seats=seats, learn=()
    )
    kwargs = {k: v for k, v in config.env.kwargs.items() if k not in ("seat", "opponent")}
    return replace(config, league=league, env=replace(config.env, kwargs=kwargs))


@dataclass(slots=True, kw_only=True)
class Hall(ABC):
    """Where the players meet; remembers every game that has ended, also when it is interrupted."""

    config: RunConfig
    contest: Contest
    pool: Pool
    queue: ScoringQueue
    watch: Watch
    journal: Journal
    display: Display
    ended: int = 0
    """Episodes."""
    failures: list[str] = field(default_factory=list)
    """Why games failed, in order."""

    @abstractmethod
    def meet(self, pairs: IntArray) -> FloatArray:
        """Play the matches of a round.

        Args:
            pairs: [M, 2] players.

        Returns:
            [M] share of points of the first, less 1/2; NaN where all games failed.
        """

    @abstractmethod
    def games(self) -> list[Game]:
        """All that have ended, in an order that does not depend on timing."""

    def tasks(self) -> TaskSource:
        return TaskSource(self.config.env, self.config.run.seed, self.config.league)

    def note(self, trajectory: Trajectory, phase: Phase, score: float | None = None) -> None:
        """Record an episode that has ended."""
        self.journal.append(trajectory, None if score is None else {"score": score})
        self.ended += 1
        if trajectory.stop.failed:
            self.failures.append(cause_of(trajectory))
            phase.advance(failed=str(len(self.failures)))
        else:
            phase.advance()


@dataclass(slots=True, kw_only=True)
class Duels(Hall):
    """Players in the seats of one environment. Each round has deals of its own."""

    rounds: int = 0
    found: dict[tuple[int, int], Game] = field(default_factory=dict)
    """(round, number in it) -> a game."""

    def meet(self, pairs: IntArray) -> FloatArray:
        """Play the matches of a round, all at once."""
        number, games = self.rounds, self.contest.games
        self.rounds += 1
        listed = self._fixtures(pairs, number)
        with self.display.phase(f"round {number + 1}", len(listed)) as phase:

            def advance(trajectory: Trajectory) -> None:
                at = trajectory.key.group
                first, second = pairs[at // games].tolist()
                points, fixture = points_of(trajectory), listed[at]
                if points is not None and fixture.first != self.contest.players[first]:
                    points = 1 - points
                deal = (number, first, second, fixture.game)
                self.found[number, at] = Game(first=first, second=second, points=points, deal=deal)
                self.note(trajectory, phase, points)

            matches.play(
                self.pool,
                self.tasks(),
                build.eval_sampling_of(self.config),
                self.watch,
                listed,
                seats=self.config.league.seats,
                stream=STREAM,
                iteration=number,
                advance=advance,
            )
        played = [self.found[number, at] for at in range(len(listed))]
        margins = [margin(played[k * games : (k + 1) * games]) for k in range(len(pairs))]
        return np.array(margins, np.float32)

    def games(self) -> list[Game]:
        """By round and match."""
        return [self.found[at] for at in sorted(self.found)]

    def _fixtures(self, pairs: IntArray, number: int) -> list[matches.Fixture]:
        """The games of a round.

        With three seats or more one player has a seat and the other all others: they change places
        from deal to deal.
        """
        names, seats = self.contest.players, self.config.league.seats
        named = [(names[first], names[second]) for first, second in pairs.tolist()]
        listed = []
        for fixture in matches.fixtures(named, self.contest.games, seats):
            first, second = fixture.first, fixture.second
            if seats > 2 and fixture.game % 2:
                first, second = second, first
            game = fixture.game + number * (self.contest.games // seats)
            listed.append(replace(fixture, first=first, second=second, game=game))
        return listed


@dataclass(slots=True, kw_only=True)
class Solos(Hall):
    """Every player alone with the same held-out tasks; a game compares two scores of one task."""

    scores: dict[int, FloatArray] = field(default_factory=dict)
    """Task -> [N] scores, NaN where there is none."""
    played: bool = False

    def meet(self, pairs: IntArray) -> FloatArray:
        """Compare; the tasks are played once, for all matches of all rounds."""
        if not self.played:
            self.played = True
            jobs = self.contest.games * len(self.contest.players)
            with self.display.phase("tasks", jobs) as phase:
                for task, scores in self._scored(phase):
                    self.scores[task] = scores
        margins = [margin(self._between(first, second)) for first, second in pairs.tolist()]
        return np.array(margins, np.float32)

    def games(self) -> list[Game]:
        """Of all pairs."""
        size = len(self.contest.players)
        pairs = [(first, second) for first in range(size) for second in range(first + 1, size)]
        return [game for pair in pairs for game in self._between(*pair)]

    def _between(self, first: int, second: int) -> list[Game]:
        found = []
        for task, scores in sorted(self.scores.items()):
            gap = float(scores[first] - scores[second])
            points = None if math.isnan(gap) else 0.5 if abs(gap) < 1e-6 else float(gap > 0)
            found.append(Game(first=first, second=second, points=points, deal=task))
        return found

    def _jobs(self) -> Iterator[Job]:
        tasks, sampling = self.tasks(), build.eval_sampling_of(self.config)
        for number in range(self.contest.games):
            for member, name in enumerate(self.contest.players):
                yield Job(
                    key=EpisodeKey(stream=STREAM, iteration=0, group=number, member=member),
                    task=tasks.held_out(number),
                    sampling=sampling,
                    player=name,
                )

    def _scored(self, phase: Phase) -> Iterator[tuple[int, FloatArray]]:
        """Tasks with the scores of all players, in order of scoring.

        Consumes: episodes. Produces: scores, of the players of a task as one group. Waits for: the
        next episode to end; when all have, for the scorer, whose calls are bounded by the queue.
        Stops when: each task has been scored, or `watch.check` raises.
        """
        size, left = len(self.contest.players), 0
        groups: dict[int, dict[int, Trajectory]] = {}
        for trajectory in run_all(self.pool, self._jobs(), self.watch):
            self.note(trajectory, phase)
            members = groups.setdefault(trajectory.key.group, {})
            members[trajectory.key.member] = trajectory
            if len(members) == size:
                del groups[trajectory.key.group]
                ordered = tuple(members[i] for i in range(size))
                group = Group(task=trajectory.task, trajectories=ordered)
                self.queue.submit(trajectory.key.group, group, evaluation=True)
                left += 1
            while (pair := self.queue.wait(0.0, evaluation=True)) is not None:
                left -= 1
                yield self._result(pair)
        while left:
            self.watch.check()
            pair = self.queue.wait(POLL_S, evaluation=True)
            if pair is not None:
                left -= 1
                yield self._result(pair)

    def _result(self, pair: tuple[Hashable, ScoredGroup]) -> tuple[int, FloatArray]:
        scored = pair[1]
        for trajectory, score in zip(scored.group.trajectories, scored.scores, strict=True):
            if math.isfinite(score):
                self.journal.annotate(trajectory.key, {"score": float(score)})
            elif not trajectory.stop.failed:
                error = self.queue.last_error
                self.failures.append(f"{error.boundary}: {error.message}" if error else "no score")
        return scored.group.trajectories[0].key.group, scored.scores


def _report(
    folder: RunFolder, config: RunConfig, hall: Hall, standing: Standing | None, missing: int
) -> list[Row]:
    """Print the tables and write the folder: the players, the best first.

    Args:
        folder: of the tournament.
        config: as the user gave it.
        hall: with all games that have ended.
        standing: None where it was interrupted.
        missing: episodes.
    """
    contest, display, games = hall.contest, hall.display, hall.games()
    names = contest.players
    says = standing if contest.topology != "round_robin" else None
    rows = table(names, games, says, np.random.default_rng([config.run.seed, INTERVAL_SEED]))
    order, pairs = [row.name for row in rows], pairings(names, games)
    points = shares(order, pairs)
    champion = names.index(order[0]) if rows[0].rank == 1 else None
    played = standing.matches if standing is not None else ()
    if pairs:
        title = f"{config.env.id}, {contest.topology}, {contest.games} games a match"
        display.print(ranking_table(rows, escape(title)))
        if len(order) <= WIDEST:
            display.print(win_matrix_table(order, points))
        tree = bracket_lines(names, played, champion)
        if tree is not None:
            display.print("bracket, points in %")
            display.print(tree)
        _draw(folder, display, rows, points, (names, played, champion))
    if hall.failures:
        first = escape(hall.failures[0])
        display.print(f"{len(hall.failures)} games failed; the first with: {first}")
    if missing:
        total = missing + hall.ended
        display.print(f"interrupted: {missing} of {total} games are missing")
    content = {
        "env": config.env.id,
        "topology": contest.topology,
        "games": contest.games,
        "seed": config.run.seed,
        "players": plain(rows),
        "pairings": [asdict(pairing) for pairing in pairs],
        "ratings": {row.name: asdict(row.rating) for row in rows if row.rating is not None},
        "matches": [
            {
                **asdict(match),
                "first": names[match.first],
                "second": names[match.second],
                "margin": None if math.isnan(match.margin) else match.margin,
            }
            for match in played
        ],
        "failed": len(hall.failures),
        "missing": missing,
    }
    text = json.dumps(content, indent=2, allow_nan=False) + "\n"
    (folder.path / "tournament.json").write_text(text, encoding="utf-8")
    display.print(f"tournament folder: {folder.path}; games: rlagents show {folder.path}")
    return rows


def _draw(
    folder: RunFolder,
    display: Display,
    rows: Sequence[Row],
    points: np.ndarray,
    bracket: tuple[Sequence[str], Sequence[Match], int | None],
) -> None:
    """Pictures, where they can be drawn."""
    known = [row for row in rows if row.rating is not None]
    ratings = [row.rating for row in known if row.rating is not None]
    try:
        pictures = {
            "elo.png": elo_figure([row.name for row in known], ratings),
            "wins.png": win_matrix_figure([row.name for row in rows], points),
        }
        if tree_of(bracket[1]) is not None:
            pictures["bracket.png"] = bracket_figure(*bracket, title="points in %")
    except ConfigError as error:  # without matplotlib
        display.print(f"no pictures: {error}")
        return
    for name, png in pictures.items():
        (folder.path / name).write_bytes(png)
