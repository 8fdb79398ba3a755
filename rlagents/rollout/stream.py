"""From a plan to scored groups, an iteration at a time.

    Plan --slots--> TaskSource --jobs--> Pool --trajectories--> groups --Scorer--> kept | dropped
            ^                                                     ^                          |
            |                                          earlier successes                     |
            +--------------------- one more slot for each dropped group ---------------------+

`max_staleness` 0 is the only bound so far: all groups of an iteration are sampled under the
weights that every worker has loaded before it began.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

import numpy as np

from rlagents.algos.history import Outcome
from rlagents.algos.sampling import Plan, Slot
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

    plan: Plan
    kept: tuple[ScoredGroup, ...]
    dropped: tuple[tuple[ScoredGroup, str], ...]
    """Groups that are not worth training on, and why."""
    replayed: frozenset[EpisodeKey] = frozenset()
    """Members that an earlier iteration sampled, and accounted for."""

    @property
    def groups(self) -> tuple[ScoredGroup, ...]:
        """All of them."""
        return self.kept + tuple(group for group, _ in self.dropped)

    @property
    def sampled(self) -> tuple[ScoredGroup, ...]:
        """All of them, without replayed members: what this iteration paid for."""
        return tuple(self.own(group) for group in self.groups)

    @property
    def trajectories(self) -> list[Trajectory]:
        """All that this iteration sampled."""
        return [t for g in self.sampled for t in g.group.trajectories]

    @property
    def outcomes(self) -> list[Outcome]:
        """What `algos.history.learn` learns from: groups of tasks that come back, by slot."""
        groups = sorted(self.sampled, key=lambda g: g.group.trajectories[0].key)
        indices = [self.plan.slots[g.group.trajectories[0].key.group].index for g in groups]
        return [
            Outcome(index=i, keys=tuple(t.key for t in g.group.trajectories), scores=g.scores)
            for i, g in zip(indices, groups, strict=True)
            if i is not None
        ]

    def own(self, scored: ScoredGroup) -> ScoredGroup:
        """One of the groups without replayed members."""
        members = scored.group.trajectories
        mine = np.array([t.key not in self.replayed for t in members])
        if mine.all():
            return scored
        return ScoredGroup(
            group=Group(
                task=scored.group.task,
                trajectories=tuple(t for t, is_mine in zip(members, mine, strict=True) if is_mine),
            ),
            scores=scored.scores[mine],
            parts={name: values[mine] for name, values in scored.parts.items()},
        )


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

    slot: Slot
    task: Task
    members: dict[int, Trajectory] = field(default_factory=dict)


class RolloutStream:
    """Collects an iteration's groups; drops those without signal and samples others for them.

    A group without success gets the earlier successes that its slot names as further members,
    recalled with the behaviour log-probabilities and weights versions of then. Their tokens are
    corrected in the loss, by a ratio to those log-probabilities or a weight made of them. The
    statistics of such a group are not those of one policy, and the correction does not reach
    them: its mean lies above what the policy scores, its deviation is that of a mixture, and
    because only failing groups are topped up, and with successes only, the gradient leans towards
    rare successes, more than their probability under the policy warrants. That is what replay is
    for, and its price.
    """

    def __init__(
        self,
        *,
        pool: Pool,
        tasks: TaskSource,
        scorer: Scorer,
        reject: Callable[[ScoredGroup], str | None],
        recall: Callable[[EpisodeKey], Trajectory | None],
        sampling: Sampling,
        ledger: Ledger,
        record: Callable[[Trajectory], object],
        watch: Watch,
    ) -> None:
        self._pool = pool
        self._tasks = tasks
        self._scorer = scorer
        self._reject = reject
        self._recall = recall
        self._sampling = sampling
        self._ledger = ledger
        self._record = record
        self._watch = watch

    def collect(
        self,
        iteration: int,
        plan: Plan,
        advance: Callable[[Trajectory], None] = lambda trajectory: None,
    ) -> Collected:
        """Sample, score and filter the groups of one iteration.

        The n-th group that is started takes slot n, and each dropped group starts one other while
        slots are left, so which tasks are tried does not depend on timing.

        Raises:
            RlagentsError: when every single trajectory failed: nothing can be learned like this.
        """
        opened: list[_Open] = []
        kept: dict[int, ScoredGroup] = {}
        dropped: dict[int, tuple[ScoredGroup, str]] = {}
        replayed: set[EpisodeKey] = set()

        def start() -> None:
            number = len(opened)
            slot = plan.slots[number]
            task = self._tasks.train(iteration, number, slot.index)
            opened.append(_Open(slot, task))
            for member in range(slot.attempts):
                key = EpisodeKey(stream="train", iteration=iteration, group=number, member=member)
                self._ledger.started += 1
                self._pool.submit(Job(key=key, task=task, sampling=self._sampling))

        def outstanding() -> int:
            settled = len(kept) + len(dropped)
            return len(opened) - settled

        for _ in range(plan.groups):
            start()
        for trajectory in finished(self._pool, outstanding, self._watch):
            self._record(trajectory)
            advance(trajectory)
            number = trajectory.key.group
            group = opened[number]
            group.members[trajectory.key.member] = trajectory
            if len(group.members) < group.slot.attempts:
                continue
            scored, recalled = self._scored(group, plan.success)
            replayed |= recalled
            reason = self._reject(scored)
            if reason is None:
                kept[number] = scored
            else:
                dropped[number] = (scored, reason)
                if len(opened) < len(plan.slots):
                    start()
        collected = Collected(
            plan=plan,
            kept=tuple(kept[i] for i in sorted(kept)),
            dropped=tuple(dropped[i] for i in sorted(dropped)),
            replayed=frozenset(replayed),
        )
        _stop_if_all_failed(collected.trajectories, iteration)
        return collected

    def _scored(self, group: _Open, success: float) -> tuple[ScoredGroup, set[EpisodeKey]]:
        """The group's scores, and which members were added because it has no success."""
        own = tuple(group.members[m] for m in range(group.slot.attempts))
        scored = self._scorer.score(Group(task=group.task, trajectories=own))
        counted = scored.scores[np.isfinite(scored.scores)]
        if not len(counted) or counted.max() >= success:
            return scored, set()
        recalled = tuple(t for t in map(self._recall, group.slot.replay) if t is not None)
        if not recalled:
            return scored, set()
        assert all(t.task.seed == group.task.seed for t in recalled), "successes of another task"
        scored = self._scorer.score(Group(task=group.task, trajectories=own + recalled))
        return scored, {t.key for t in recalled}


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
