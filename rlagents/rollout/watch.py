"""Waiting for a pool's results: talkative and interruptible."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from rlagents.rollout.pool import Pool
from rlagents.rollout.worker import Job
from rlagents.scoring.queue import ScoringQueue
from rlagents.types import Trajectory

POLL_S = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class Watch:
    """What a loop that waits needs to stay talkative and interruptible."""

    interval_s: float
    """Without a result for this long, say who waits for what."""
    report: Callable[[str], None]
    check: Callable[[], None]
    """Called twice a second; raises to stop the loop."""


class Silence:
    """Says who waits for what when nothing has happened for too long."""

    def __init__(self, pool: Pool, watch: Watch, queue: ScoringQueue | None = None) -> None:
        self._pool = pool
        self._watch = watch
        self._queue = queue
        self._last = time.monotonic()

    def broken(self, by: object) -> None:
        """Told after each wait what came of it; None is nothing."""
        now = time.monotonic()
        if by is not None:
            self._last = now
        elif now - self._last > self._watch.interval_s:
            self._last = now
            waiting = self._pool.waiting()
            seconds = self._watch.interval_s
            lines = [f"no episode has finished for {seconds:g} s; {len(waiting)} wait:"]
            lines += [str(w) for w in waiting[:5]]
            if self._queue is not None and self._queue.pending:
                lines.append(f"groups that wait for their scores: {self._queue.pending}")
            self._watch.report("\n  ".join(lines))


def finished(pool: Pool, outstanding: Callable[[], int], watch: Watch) -> Iterator[Trajectory]:
    """Yield trajectories while any are outstanding.

    Consumes: the pool's results. Produces: them, in order of finishing. Waits for: the next one,
    half a second at a time; each episode is bounded by its own limits. Stops when: none are
    outstanding, or `watch.check` raises.
    """
    silence = Silence(pool, watch)
    while outstanding():
        watch.check()
        trajectory = pool.wait(POLL_S)
        silence.broken(trajectory)
        if trajectory is not None:
            yield trajectory


def run_all(pool: Pool, jobs: Iterable[Job], watch: Watch) -> Iterator[Trajectory]:
    """Run a fixed set of jobs."""
    left = 0

    def outstanding() -> int:
        return left

    for job in jobs:
        pool.submit(job)
        left += 1
    for trajectory in finished(pool, outstanding, watch):
        left -= 1
        yield trajectory
