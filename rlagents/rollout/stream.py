"""From tasks to scored groups, an iteration at a time.

    TaskSource --G jobs of each task--> Pool --trajectories--> groups --Scorer--> kept | dropped
                       ^                                                            |
                       +------------ a new task for each dropped group -------------+

`max_staleness` 0 is the only bound so far: all groups of an iteration are sampled under the
weights that every worker has loaded before it began.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

from rlagents.data.tasks import TaskSource
from rlagents.errors import RlagentsError
from rlagents.policy.sampler import Sampling
from rlagents.rollout.ledger import Ledger
from rlagents.rollout.pool import Pool
from rlagents.rollout.worker import Job
from rlagents.scoring.scorer import Scorer
from rlagents.types import EpisodeKey, Group, ScoredGroup, Task, Trajectory

POLL_S = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class Collected:
    """What an iteration's rollouts gave."""

    kept: tuple[ScoredGroup, ...]
    dropped: tuple[tuple[ScoredGroup, str], ...]
    """Groups that are not worth training on, and why."""

    @property
    def groups(self) -> tuple[ScoredGroup, ...]:
        """All of them."""
        return self.kept + tuple(group for group, _ in self.dropped)

    @property
    def trajectories(self) -> list[Trajectory]:
        """Of all groups."""
        return [t for g in self.groups for t in g.group.trajectories]


@dataclass(frozen=True, slots=True, kw_only=True)
class Watch:
    """What a loop that waits needs to stay talkative and interruptible."""

    interval_s: float
    """Without a result for this long, say who waits for what."""
    report: Callable[[str], None]
    check: Callable[[], None]
    """Called twice a second; raises to stop the loop."""


def finished(pool: Pool, outstanding: Callable[[], int], watch: Watch) -> Iterator[Trajectory]:
    """Yield trajectories while any are outstanding.

    Consumes: the pool's results. Produces: them, in order of finishing. Waits for: the next one,
    half a second at a time; each episode is bounded by its own limits. Stops when: none are
    outstanding, or `watch.check` raises.
    """
    last = time.monotonic()
    while outstanding():
        watch.check()
        trajectory = pool.wait(POLL_S)
        now = time.monotonic()
        if trajectory is not None:
            last = now
            yield trajectory
        elif now - last > watch.interval_s:
            last = now
            waiting = pool.waiting()
            lines = [f"no episode has finished for {watch.interval_s:g} s; {len(waiting)} wait:"]
            watch.report("\n  ".join(lines + [str(w) for w in waiting[:5]]))


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


@dataclass(slots=True)
class _Open:
    """A group of which some members still play."""

    task: Task
    members: dict[int, Trajectory] = field(default_factory=dict)


class RolloutStream:
    """Collects an iteration's groups; drops those without signal and samples others for them."""

    def __init__(
        self,
        *,
        pool: Pool,
        tasks: TaskSource,
        scorer: Scorer,
        reject: Callable[[ScoredGroup], str | None],
        groups: int,
        group_size: int,
        max_refills: int,
        sampling: Sampling,
        ledger: Ledger,
        record: Callable[[Trajectory], object],
        watch: Watch,
    ) -> None:
        self._pool = pool
        self._tasks = tasks
        self._scorer = scorer
        self._reject = reject
        self._groups = groups
        self._group_size = group_size
        self._most = groups * (1 + max_refills)
        self._sampling = sampling
        self._ledger = ledger
        self._record = record
        self._watch = watch

    def collect(
        self, iteration: int, advance: Callable[[Trajectory], None] = lambda trajectory: None
    ) -> Collected:
        """Sample, score and filter the groups of one iteration.

        Each dropped group starts one other, so which tasks are tried does not depend on timing.

        Raises:
            RlagentsError: when every single trajectory failed: nothing can be learned like this.
        """
        opened: dict[int, _Open] = {}
        kept: dict[int, ScoredGroup] = {}
        dropped: dict[int, tuple[ScoredGroup, str]] = {}

        def start() -> None:
            index = len(opened)
            task = self._tasks.train(iteration, index)
            opened[index] = _Open(task)
            for member in range(self._group_size):
                key = EpisodeKey(stream="train", iteration=iteration, group=index, member=member)
                self._ledger.started += 1
                self._pool.submit(Job(key=key, task=task, sampling=self._sampling))

        def outstanding() -> int:
            settled = len(kept) + len(dropped)
            return len(opened) - settled

        for _ in range(self._groups):
            start()
        for trajectory in finished(self._pool, outstanding, self._watch):
            self._record(trajectory)
            advance(trajectory)
            index = trajectory.key.group
            members = opened[index].members
            members[trajectory.key.member] = trajectory
            if len(members) < self._group_size:
                continue
            ordered = tuple(members[m] for m in range(self._group_size))
            scored = self._scorer.score(Group(task=opened[index].task, trajectories=ordered))
            reason = self._reject(scored)
            if reason is None:
                kept[index] = scored
            else:
                dropped[index] = (scored, reason)
                if len(opened) < self._most:
                    start()
        collected = Collected(
            kept=tuple(kept[i] for i in sorted(kept)),
            dropped=tuple(dropped[i] for i in sorted(dropped)),
        )
        _stop_if_all_failed(collected.trajectories, iteration)
        return collected


def _stop_if_all_failed(trajectories: list[Trajectory], iteration: int) -> None:
    if not all(t.stop.failed for t in trajectories):
        return
    causes = Counter(
        f"{t.error.boundary}: {t.error.message}" if t.error else t.stop.value for t in trajectories
    )
    cause, count = causes.most_common(1)[0]
    raise RlagentsError(
        f"all {len(trajectories)} episodes of iteration {iteration} failed; "
        f"{count} of them with: {cause}"
    )
