"""From slots to scored groups, an iteration at a time.

    Plan --slots--> TaskSource --jobs--> Pool --trajectories--> groups --ScoringQueue-->
            ^                                                     ^          kept | dropped
            |                                          earlier successes             |
            +----------------- one more slot for each dropped group -----------------+

Without a budget an iteration waits for all of its groups. With one it ends when that is spent:
what plays is paused, and goes on first in the next iteration, under newer weights; each turn knows
the version that sampled it. Either way an iteration's groups are sampled under weights that every
worker has loaded before it began, or before an earlier one did.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType

import numpy as np

from rlagents.algos.sampling import Plan
from rlagents.data.tasks import TaskSource
from rlagents.errors import JudgeError, RlagentsError
from rlagents.policy.sampler import Sampling
from rlagents.rollout.collected import Collected
from rlagents.rollout.episode import Limits
from rlagents.rollout.groups import (
    Dealt,
    OpenGroup,
    Place,
    RolloutState,
    SavedGroup,
    place_of,
)
from rlagents.rollout.ledger import Ledger
from rlagents.rollout.pool import Pool
from rlagents.rollout.recorded import FIRST, STREAM
from rlagents.rollout.watch import POLL_S, Silence, Watch
from rlagents.rollout.worker import Job, Played
from rlagents.scoring.queue import ScoringQueue
from rlagents.scoring.scorer import JUDGE_ERROR
from rlagents.stages import Stage
from rlagents.telemetry.spans import Spans
from rlagents.types import EpisodeKey, ScoredGroup, Trajectory, Turn, TurnKind

QUICK_POLL_S = 0.05
"""While something else than an episode's end may happen: a score, the end of a budget."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """When an iteration of partial rollouts ends; 0 is no such budget."""

    turns: int = 0
    """With the environment, sampled since the iteration began, by unfinished episodes too."""
    tokens: int = 0
    """Sampled, likewise."""
    seconds: float = 0.0

    def spent(self, turns: int, tokens: int, seconds: float) -> bool:
        """Whether any of them is."""
        return 0 < self.turns <= turns or 0 < self.tokens <= tokens or 0 < self.seconds <= seconds


@dataclass(slots=True, kw_only=True)
class _Found:
    """What an iteration has come to so far."""

    dealt: dict[Place, Dealt] = field(default_factory=dict)
    kept: dict[Place, ScoredGroup] = field(default_factory=dict)
    dropped: dict[Place, tuple[ScoredGroup, str]] = field(default_factory=dict)
    replayed: set[EpisodeKey] = field(default_factory=set)


class RolloutStream:
    """Collects an iteration's groups; drops those without signal and samples others for them.

    Groups are numbered by the plan, the block, that their slots are of. Without a budget each
    iteration deals one block: `Plan.groups` slots at once, and one more for each dropped group.
    With one, `Plan.groups` groups play at any time, each that is complete is replaced at once by
    the next slot, and a block is planned when all slots of the one before it have been started; an
    iteration ends as soon as the budget is spent and a group was kept (or as many were dropped as
    a plan has slots). Under frozen weights the trajectories are the same either way, key by key.
    What differs while learning: episodes that take long are trained on later and are older, so in
    its first iterations a run sees more of the short ones.

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
        queue: ScoringQueue,
        reject: Callable[[ScoredGroup], str | None],
        recall: Callable[[EpisodeKey], Trajectory | None],
        sampling: Sampling,
        limits: Limits,
        ledger: Ledger,
        record: Callable[[Trajectory], object],
        watch: Watch,
        spans: Spans,
        budget: Budget | None = None,
        outage: int = 1,
    ) -> None:
        """`limits` are the run's own; a stage replaces those that it has.

        `outage`: iterations in a row in which scoring fails for every group, after which a run
        stops; 0 never does.
        """
        self._pool = pool
        self._tasks = tasks
        self._queue = queue
        self._reject = reject
        self._recall = recall
        self._sampling = sampling
        self._limits = limits
        self._ledger = ledger
        self._record = record
        self._watch = watch
        self._spans = spans
        self._budget = budget
        self._outage = outage
        self._unscored = 0
        """Iterations in a row, up to now, in which scoring failed for every group."""
        self._open: dict[Place, OpenGroup] = {}
        self._block = self._number = self._snapshots = 0
        self._plan: Plan | None = None
        self._again: list[Job] = []
        """What a checkpoint had unfinished, to be played when weights are loaded."""
        self._written: dict[EpisodeKey, int] = {}
        """Turns of unfinished trajectories that are in snapshots."""
        self._played = Played(0, 0)
        """What was recorded since `take_played`."""

    @property
    def playing(self) -> int:
        """Trajectories that have not ended."""
        return sum(len(group.left) for group in self._open.values())

    @property
    def unsettled(self) -> int:
        """Members of groups that are neither kept nor dropped."""
        return sum(group.dealt.slot.attempts for group in self._open.values())

    @property
    def state(self) -> RolloutState:
        """How far it is, between two iterations."""
        return RolloutState(
            block=self._block,
            number=self._number,
            plan=self._plan,
            open=tuple(
                SavedGroup(
                    place=place,
                    slot=group.dealt.slot,
                    stage=group.dealt.stage.number,
                    ended=tuple(sorted(group.members)),
                )
                for place, group in sorted(self._open.items())
            ),
            snapshots=self._snapshots,
        )

    def restore(
        self,
        state: RolloutState,
        stage_of: Callable[[int], Stage],
        recorded: Mapping[EpisodeKey, tuple[Turn, ...]] = MappingProxyType({}),
    ) -> None:
        """Go on from a checkpoint: members that ended are recalled, the others play again.

        Args:
            state: that of the checkpoint.
            stage_of: a stage by its number.
            recorded: turns of unfinished trajectories, by their keys.
        """
        self._block, self._number, self._plan = state.block, state.number, state.plan
        self._snapshots = state.snapshots
        for saved in state.open:
            dealt = Dealt(place=saved.place, slot=saved.slot, stage=stage_of(saved.stage))
            group = self._opened(dealt)
            found = {member: self._recall(dealt.key(member)) for member in saved.ended}
            group.members |= {member: t for member, t in found.items() if t is not None}
            for member in group.left:
                job = self._job(group, member, recorded.get(dealt.key(member), ()))
                self._written[job.key] = len(job.recorded)
                self._again.append(job)
            if not group.left:
                self._queue.submit(saved.place, group.group)

    def snapshot(self) -> Iterator[Trajectory]:
        """What unfinished trajectories have played since the snapshot before: for the journal.

        Under keys of their own, `paused/N`; `rollout.recorded.joined` puts them together.
        """
        number, self._snapshots = self._snapshots, self._snapshots + 1
        for trajectory in self._pool.snapshot():
            key, turns = trajectory.key, trajectory.turns
            first = self._written.get(key, 0)
            if len(turns) > first:
                self._written[key] = len(turns)
                self._count(turns[first:])
                yield replace(
                    trajectory,
                    key=replace(key, stream=f"{STREAM}{number}"),
                    turns=turns[first:],
                    metrics={FIRST: float(first)},
                )

    def take_played(self) -> Played:
        """What was played since this was asked before: each turn once, when it was recorded.

        An ended trajectory's turns count when it ends, an unfinished one's in the snapshot that
        has them; what is played again after a resume, or after a worker was lost, does not.
        """
        played, self._played = self._played, Played(0, 0)
        return played

    def _count(self, turns: Sequence[Turn]) -> None:
        acted = sum(turn.kind is TurnKind.ACTION for turn in turns)
        tokens = sum(len(turn.action_ids) for turn in turns)
        self._played = Played(self._played.turns + acted, self._played.tokens + tokens)

    def collect(
        self,
        iteration: int,
        plan_of: Callable[[int], Plan],
        stage: Stage,
        advance: Callable[[Trajectory], None] = lambda trajectory: None,
    ) -> Collected:
        """Sample, score and filter the groups of one iteration.

        Which tasks are tried does not depend on timing: groups take slots in their order, and
        without a budget each dropped group starts one other while slots are left.

        Consumes: slots, the pool's trajectories, the queue's scores. Produces: scored groups. Waits
        for: the next trajectory or, where nothing plays, the next scores; both are bounded by
        limits of their own. Stops when: the iteration is over, or `watch.check` raises.

        Args:
            iteration: for messages.
            plan_of: the plan of a block.
            stage: of groups that are started from now on; open ones keep theirs.
            advance: called with each trajectory that has ended.

        Raises:
            RlagentsError: when every single trajectory failed: nothing can be learned like this.
        """
        found, resumed = _Found(), self.playing
        self._resume()
        over = self._until()
        silence = Silence(self._pool, self._watch, self._queue)
        while True:
            plan = self._fill(found, plan_of, stage)
            if over(found, plan):
                break
            self._watch.check()
            if self.playing:
                hasty = self._budget is not None or self._queue.pending
                trajectory = self._take(QUICK_POLL_S if hasty else POLL_S, advance)
                silence.broken(trajectory)
                self._settle(found, plan.success)
            else:
                with self._spans.span("score", iteration=iteration):
                    silence.broken(self._settle(found, plan.success, POLL_S) or None)
        block = self._block
        if self._budget is None:
            self._block, self._number, self._plan = block + 1, 0, None
        else:
            while self._take(0.0, advance) is not None:
                self._settle(found, plan.success)
            self._pool.pause()
        partial = self._budget is not None
        collected = Collected(
            plan=plan,
            block=block,
            kept=tuple(found.kept[place] for place in sorted(found.kept)),
            dropped=tuple(found.dropped[place] for place in sorted(found.dropped)),
            replayed=frozenset(found.replayed),
            dealt=found.dealt,
            resumed=resumed if partial else None,
            paused=self.playing if partial else None,
        )
        _stop_if_all_failed(collected.trajectories, iteration)
        self._stop_if_unscored(collected.groups, iteration)
        return collected

    def _resume(self) -> None:
        """Go on with what an earlier iteration, or an earlier sitting, left."""
        self._pool.resume()
        for job in self._again:
            self._pool.submit(job)
        self._again.clear()

    def _until(self) -> Callable[[_Found, Plan], bool]:
        """When the iteration that begins now is over."""
        budget = self._budget
        if budget is None:
            return lambda found, plan: not self._open
        begun, before = time.monotonic(), self._pool.played()

        def over(found: _Found, plan: Plan) -> bool:
            if not found.kept and len(found.dropped) < len(plan.slots):
                return False
            turns, tokens = self._pool.played()
            seconds = time.monotonic() - begun
            return budget.spent(turns - before.turns, tokens - before.tokens, seconds)

        return over

    def _fill(self, found: _Found, plan_of: Callable[[int], Plan], stage: Stage) -> Plan:
        """Start groups while there are too few; the plan that is being dealt."""
        plan = self._plan = self._plan or plan_of(self._block)
        partial = self._budget is not None
        while not self._queue.full:
            # Groups that wait for scores are as good as kept ones, where all are waited for.
            active = sum(bool(group.left) or not partial for group in self._open.values())
            if active >= plan.groups - (0 if partial else len(found.kept)):
                break
            if self._number == (plan.groups if partial else len(plan.slots)):
                if not partial:
                    break
                self._block, self._number = self._block + 1, 0
                plan = self._plan = plan_of(self._block)
            slot = plan.slots[self._number]
            group = self._opened(Dealt(place=(self._block, self._number), slot=slot, stage=stage))
            self._number += 1
            for member in group.left:
                self._pool.submit(self._job(group, member))
        return plan

    def _opened(self, dealt: Dealt) -> OpenGroup:
        slot = dealt.slot
        task = self._tasks.train(
            *dealt.place, slot.index, dealt.stage.env_kwargs, slot.seat, slot.opponents
        )
        group = self._open[dealt.place] = OpenGroup(dealt=dealt, task=task)
        self._ledger.started += dealt.slot.attempts
        return group

    def _job(self, group: OpenGroup, member: int, recorded: tuple[Turn, ...] = ()) -> Job:
        stage = group.dealt.stage
        return Job(
            key=group.dealt.key(member),
            task=group.task,
            sampling=self._sampling,
            limits=replace(
                self._limits,
                max_turns=stage.max_turns,
                max_tokens=stage.max_tokens,
                max_seconds=stage.max_seconds,
            ),
            context=stage.context,
            recorded=recorded,
        )

    def _take(self, timeout: float, advance: Callable[[Trajectory], None]) -> Trajectory | None:
        """A trajectory that has ended, if any does; its group goes to be scored with the last."""
        trajectory = self._pool.wait(timeout)
        if trajectory is None:
            return None
        self._record(trajectory)
        self._count(trajectory.turns[self._written.pop(trajectory.key, 0) :])
        place = place_of(trajectory)
        group = self._open[place]
        group.members[trajectory.key.member] = trajectory
        if not group.left:
            self._queue.submit(place, group.group)
        advance(trajectory)
        return trajectory

    def _settle(self, found: _Found, success: float, timeout: float = 0.0) -> int:
        """Keep or drop the groups that have their scores; wait for the first so many seconds.

        Returns how many scores came.
        """
        count = 0
        while (result := self._queue.wait(timeout)) is not None:
            timeout, count = 0.0, count + 1
            place, scored = result
            assert isinstance(place, tuple)
            group = self._open[place]
            if not group.recalled:
                group.recalled = self._earlier(group, scored, success)
                if group.recalled:
                    self._queue.submit(place, group.group)
                    continue
            del self._open[place]
            found.dealt[place] = group.dealt
            found.replayed |= {t.key for t in group.recalled}
            reason = self._reject(scored)
            if reason is None:
                found.kept[place] = scored
            else:
                found.dropped[place] = (scored, reason)
        return count

    def _earlier(
        self, group: OpenGroup, scored: ScoredGroup, success: float
    ) -> tuple[Trajectory, ...]:
        """Successes of earlier iterations, for a group that has none of its own."""
        counted = scored.scores[np.isfinite(scored.scores)]
        if not len(counted) or counted.max() >= success:
            return ()
        recalled = [t for t in map(self._recall, group.dealt.slot.replay) if t is not None]
        assert all(t.task.seed == group.task.seed for t in recalled), "successes of another task"
        # Another stage's task has another id: it may be an easier one.
        return tuple(t for t in recalled if t.task.task_id == group.task.task_id)

    def _stop_if_unscored(self, groups: Sequence[ScoredGroup], iteration: int) -> None:
        last = self._queue.last_error
        if last is None or not groups or not all(JUDGE_ERROR in group.parts for group in groups):
            self._unscored = 0
            return
        self._unscored += 1
        if self._unscored == self._outage:
            before = f", as in the {self._outage - 1} before" if self._outage > 1 else ""
            raise JudgeError(
                f"scoring failed for all {len(groups)} groups of iteration {iteration}{before}; "
                f"the last with: {last.message}"
            )


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
