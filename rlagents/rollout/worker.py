"""Runs many episodes at once against one engine. The same class in-process and in a Ray actor.

A slow environment holds up nobody: each episode has a thread of its own, and the engine batches
whatever turns are waiting. A call that passes its deadline ends its episode from outside; Python
can't stop the thread, so it is left behind and told to stop when the call returns.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any, NamedTuple

from rlagents.config import ContextSection
from rlagents.policy.sampler import Sampler, Sampling
from rlagents.rollout.episode import (
    AT_THE_GATE,
    Actor,
    Limits,
    Progress,
    Seating,
    TextEnv,
    run_episode,
)
from rlagents.types import EpisodeKey, ErrorRecord, StopReason, Task, Trajectory, Turn, TurnKind

GRACE_S = 2.0
"""The sampler's own time-out fires first; the watchdog is behind it by this much."""
POLL_S = 0.5
TURNS_BETWEEN = 2
"""Turns of each other seat that a call of the environment may wait for, each at its limit."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One episode to run."""

    key: EpisodeKey
    task: Task
    sampling: Sampling
    limits: Limits | None = None
    """Of this episode; None is the worker's own."""
    context: ContextSection | None = None
    """Of this episode; None is the run's own."""
    recorded: tuple[Turn, ...] = ()
    """Turns that were played before: the sampler answers with them first."""
    player: str = ""
    """Who plays, by a name as in `Task.opponents`; empty: the policy."""

    def paused(self) -> Trajectory:
        """What is recorded of it, as an unfinished trajectory."""
        return Trajectory(
            key=self.key,
            task=self.task,
            turns=self.recorded,
            final_observation="",
            stop=StopReason.PAUSED,
        )


class Played(NamedTuple):
    """What a worker has played since it started, on-going episodes included."""

    turns: int
    """With the environment."""
    tokens: int
    """Sampled."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Waiting:
    """An episode that is waiting: for the watchdog's report."""

    key: EpisodeKey
    turn: int
    waits_for: str
    seconds: float

    def __str__(self) -> str:
        return f"{self.key} turn {self.turn} waits for {self.waits_for} since {self.seconds:.0f} s"


class RolloutWorker:
    """Environments, actors and one sampler."""

    def __init__(
        self,
        *,
        sampler: Sampler | None,
        make_env: Callable[[Task], TextEnv],
        make_actor: Callable[[Job, TextEnv], Actor],
        limits: Limits,
        seat: Callable[[Job, TextEnv], Seating | None] = lambda job, env: None,
        on_close: Callable[[], object] = lambda: None,
    ) -> None:
        """`sampler` is None where only scripted policies play.

        Args:
            sampler: of the policy.
            make_env: from a task.
            make_actor: who plays a job.
            limits: of jobs that have none of their own. Where players of ours have other seats, a
                call of the environment may take a turn of each longer.
            seat: puts them there.
            on_close: frees what they need.
        """
        self._sampler = sampler
        self._make_env = make_env
        self._make_actor = make_actor
        self._limits = limits
        self._seat = seat
        self._on_close = on_close
        self._live: dict[EpisodeKey, Progress] = {}
        self._paused: Collection[EpisodeKey] = ()
        self._played = Played(0, 0)
        self._lock = threading.Lock()

    def run(
        self, job: Job, on_turn: Callable[[int, Turn], None] = lambda number, turn: None
    ) -> Trajectory:
        """Play one episode; call it from as many threads as there should be episodes at once.

        Consumes: a job. Produces: its trajectory, always. Waits for: the episode's thread, no
        longer than the deadline of whatever that waits for. Stops when: either is over.
        """
        progress = Progress(key=job.key, task=job.task, recorded=job.recorded)
        limits = job.limits or self._limits
        # Between two turns of a seat another may have several.
        asked = sum(not name.startswith("scripted:") for name in job.task.opponents)
        patience = TURNS_BETWEEN * limits.sampler_timeout_s * asked
        limits = replace(limits, env_timeout_s=limits.env_timeout_s + patience)
        with self._lock:
            self._live[job.key] = progress
            if job.key in self._paused:
                progress.gate.close()
        result: list[Trajectory | BaseException] = []
        done = threading.Event()

        def count(number: int, turn: Turn) -> None:
            if number >= len(job.recorded):
                acted = turn.kind is TurnKind.ACTION
                with self._lock:
                    turns, tokens = self._played
                    self._played = Played(turns + acted, tokens + len(turn.action_ids))
            on_turn(number, turn)

        def play() -> None:
            try:
                result.append(
                    run_episode(
                        progress,
                        self._make_env,
                        lambda env: self._make_actor(job, env),
                        limits,
                        count,
                        lambda env: self._seat(job, env),
                    )
                )
            except BaseException as error:  # ours to report, whatever it is: a bug in the loop
                result.append(error)
            finally:
                done.set()

        threading.Thread(target=play, name=f"episode {job.key}", daemon=True).start()
        try:
            while not done.wait(POLL_S):
                overdue = self._overdue(progress, limits)
                if overdue is not None:
                    self._release(job, progress)
                    return overdue
        finally:
            with self._lock:
                self._live.pop(job.key, None)
        if isinstance(result[0], BaseException):
            raise result[0]
        return result[0]

    def pause(self, keys: Collection[EpisodeKey]) -> None:
        """Stop these episodes before their next turns, those among them too that are yet to come.

        Returns at once: a turn that is being played goes on to its end. An episode that stands
        still keeps its thread, its environment and its context. Others play on.
        """
        with self._lock:
            self._paused = keys
            for key in keys:
                if key in self._live:
                    self._live[key].gate.close()

    def resume(self) -> None:
        """Let all of them go on."""
        with self._lock:
            self._paused = ()
            for progress in self._live.values():
                progress.gate.open()

    def snapshot(self, known: Mapping[EpisodeKey, int] = MappingProxyType({})) -> list[Trajectory]:
        """What there is of each episode that is not over, without as many turns as are known."""
        return [p.so_far(known.get(p.key, 0)) for p in self._playing()]

    def played(self) -> Played:
        """Turns and tokens so far, without those that were repeated from a record."""
        return self._played

    def waiting(self) -> list[Waiting]:
        """Who waits for what, longest first; paused episodes are left out."""
        now = time.monotonic()
        report = [
            Waiting(key=p.key, turn=len(p.turns), waits_for=p.waits_for, seconds=now - p.since)
            for p in self._playing()
            if p.waits_for != AT_THE_GATE
        ]
        return sorted(report, key=lambda w: -w.seconds)

    def load(self, weights: Mapping[str, Any], version: int) -> None:
        """Give the sampler new weights, once no paused episode is in the middle of a turn."""
        end = time.monotonic() + self._limits.sampler_timeout_s
        for progress in self._playing():
            progress.gate.settle(max(0.0, end - time.monotonic()))
        if self._sampler is not None:
            self._sampler.load(weights, version)

    def stats(self) -> dict[str, float]:
        """Counters of the sampler since it started."""
        stats = getattr(self._sampler, "stats", None)
        return dict(stats()) if stats is not None else {}

    def close(self) -> None:
        """Stop the sampler, at which paused episodes end too. May be called twice."""
        if self._sampler is not None:
            self._sampler.close()
        self._on_close()
        self.resume()

    def _playing(self) -> list[Progress]:
        with self._lock:
            return list(self._live.values())

    def _release(self, job: Job, progress: Progress) -> None:
        """Free the conversations of an episode whose thread may never come back to do it."""
        if self._sampler is not None:
            self._sampler.release(str(job.key))
        if progress.seating is not None:
            progress.seating.close()

    def _overdue(self, progress: Progress, limits: Limits) -> Trajectory | None:
        now = time.monotonic()
        what = progress.waits_for
        if what.startswith("env."):
            if now > progress.deadline:
                return progress.finish(
                    StopReason.ENVIRONMENT_TIMEOUT,
                    ErrorRecord(
                        boundary="environment",
                        kind="Timeout",
                        message=f"{what} did not return within {limits.env_timeout_s:g} s",
                    ),
                )
            if now > progress.started + limits.max_seconds:
                if progress.task.opponents and now > progress.since + limits.env_timeout_s / 2:
                    # A game that stands still, not one that is long: nobody's score.
                    message = f"{what} did not return within {now - progress.since:.0f} s"
                    error = ErrorRecord(boundary="environment", kind="Timeout", message=message)
                    return progress.finish(StopReason.ENVIRONMENT_TIMEOUT, error)
                return progress.finish(StopReason.TIME_LIMIT)
        elif now > progress.deadline + GRACE_S:
            return progress.finish(
                StopReason.SAMPLER_ERROR,
                ErrorRecord(
                    boundary="sampler",
                    kind="Timeout",
                    message=f"no answer within {limits.sampler_timeout_s:g} s",
                ),
            )
        return None
