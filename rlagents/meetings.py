"""Where the players of a tournament meet: in one environment, or alone with the same tasks."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Hashable, Iterator
from dataclasses import dataclass, field, replace

import numpy as np

from rlagents import build, matches
from rlagents.config import RunConfig
from rlagents.contest import Contest
from rlagents.data.tasks import TaskSource
from rlagents.journal import Journal
from rlagents.league import points_of
from rlagents.policies import cause_of
from rlagents.rollout.pool import Pool
from rlagents.rollout.watch import POLL_S, Watch, run_all
from rlagents.rollout.worker import Job
from rlagents.scoreboard import Game, margin
from rlagents.scoring.queue import ScoringQueue
from rlagents.telemetry.progress import Display, Phase
from rlagents.types import EpisodeKey, FloatArray, Group, IntArray, ScoredGroup, Trajectory

STREAM = "tournament"
"""Of the keys of all episodes."""


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
