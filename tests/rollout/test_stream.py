from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from rlagents.algos.configs import SamplingConfig
from rlagents.algos.history import History, TaskRecord
from rlagents.algos.sampling import Plan, Slot, plan
from rlagents.config import EnvSection, RunConfig
from rlagents.data.tasks import TaskSource
from rlagents.errors import RlagentsError
from rlagents.rollout.collected import Collected
from rlagents.rollout.groups import RolloutState
from rlagents.rollout.ledger import Ledger
from rlagents.rollout.stream import RolloutStream
from rlagents.rollout.watch import Watch, finished, run_all
from rlagents.rollout.worker import Job, Played, Waiting
from rlagents.scoring.queue import ScoringQueue
from rlagents.scoring.scorer import ReturnScorer, Scorer
from rlagents.stages import stage_of
from rlagents.telemetry.spans import Spans
from rlagents.types import EpisodeKey, ErrorRecord, ScoredGroup, StopReason, Trajectory
from tests.fakes import trajectory
from tests.rollout.toys import LIMITS, SAMPLING, job, key

TASKS = TaskSource(EnvSection(id="toy"), 5)
RETURNING = TaskSource(EnvSection(id="toy", train_tasks=4), 5)
STAGE = stage_of(RunConfig(), 0)


class Shuffled:
    """A pool that plays at once and hands results out in an order of its own."""

    def __init__(self, play: Callable[[Job], Trajectory], seed: int = 0) -> None:
        self._play = play
        self._random = random.Random(seed)
        self.jobs: list[Job] = []
        self._results: list[Trajectory] = []
        self.misses = 0

    def submit(self, job: Job) -> None:
        self.jobs.append(job)
        self._results.append(self._play(job))

    def wait(self, timeout: float) -> Trajectory | None:
        if self.misses or not self._results:
            self.misses -= 1
            return None
        return self._results.pop(self._random.randrange(len(self._results)))

    def load(self, weights: Mapping[str, Any], version: int) -> None: ...

    def pause(self) -> None: ...

    def resume(self) -> None: ...

    def snapshot(self) -> list[Trajectory]:
        return []

    def played(self) -> Played:
        return Played(0, 0)

    def waiting(self) -> list[Waiting]:
        return [Waiting(key=key(i), turn=i, waits_for="env.step", seconds=9) for i in range(7)]

    def stats(self) -> dict[str, float]:
        return {}

    def close(self) -> None: ...


def scored(of: Job, score: float, stop: StopReason = StopReason.TERMINATED) -> Trajectory:
    made = trajectory(score=score, stop=stop)
    error = ErrorRecord(boundary="environment", kind="X", message="disk full")
    return Trajectory(
        key=of.key,
        task=of.task,
        turns=made.turns,
        final_observation="",
        stop=stop,
        error=error if stop.failed else None,
    )


def flat(of: Job) -> bool:
    """About half of all tasks give every member the same score; which, the seed decides."""
    return of.task.seed % 4 == 0


def play(of: Job) -> Trajectory:
    return scored(of, 0.5 if flat(of) else float(of.key.member))


def equal(group: ScoredGroup) -> str | None:
    scores = group.scores[np.isfinite(group.scores)]
    return "zero_variance" if len(set(scores.tolist())) < 2 else None


QUIET = Watch(interval_s=1e9, report=lambda line: None, check=lambda: None)


class Rig:
    """A stream over a pool that shuffles."""

    def __init__(
        self,
        play: Callable[[Job], Trajectory] = play,
        *,
        order: int = 0,
        groups: int = 6,
        group_size: int = 3,
        max_refills: int = 2,
        tasks: TaskSource = TASKS,
        reject: Callable[[ScoredGroup], str | None] = equal,
        past: Sequence[Trajectory] = (),
        watch: Watch = QUIET,
        scorer: Scorer | None = None,
        concurrency: int = 0,
    ) -> None:
        self.pool = Shuffled(play, order)
        self.ledger = Ledger()
        self.recorded: list[Trajectory] = []
        self.recalled: list[EpisodeKey] = []
        self.plan = plan(
            SamplingConfig(filter="zero_variance", max_refills=max_refills),
            {},
            tasks=0,
            groups=groups,
            group_size=group_size,
            seed=5,
            iteration=0,
        )
        self._past = {t.key: t for t in past}
        self.stream = RolloutStream(
            pool=self.pool,
            tasks=tasks,
            queue=ScoringQueue(
                scorer or ReturnScorer(), concurrency=concurrency, limit=99, timeout_s=60
            ),
            reject=reject,
            recall=self.recall,
            sampling=SAMPLING,
            limits=LIMITS,
            ledger=self.ledger,
            record=self.recorded.append,
            watch=watch,
            spans=Spans(),
        )

    def recall(self, of: EpisodeKey) -> Trajectory | None:
        self.recalled.append(of)
        return self._past.get(of)

    def collect(self, iteration: int = 0, plan: Plan | None = None) -> Collected:
        self.stream.restore(RolloutState(block=iteration), lambda number: STAGE)
        return self.stream.collect(iteration, lambda block: plan or self.plan, STAGE)


def seeds(groups: Any) -> list[int]:
    return [group.group.task.seed for group in groups]


def test_members_are_in_order_and_share_their_task() -> None:
    rig = Rig()
    collected = rig.collect(0)
    assert len(collected.kept) == 6
    for group in collected.groups:
        members = group.group.trajectories
        assert [t.key.member for t in members] == [0, 1, 2]
        assert {t.task.seed for t in members} == {group.group.task.seed}
        assert group.scores.tolist() == [t.episode_return for t in members]
    # Each job's task is that of its place, and each place is used once.
    assert all(j.task == TASKS.train(0, j.key.group) for j in rig.pool.jobs)
    assert max(Counter(j.key for j in rig.pool.jobs).values()) == 1
    assert Counter(t.key for t in rig.recorded) == Counter(j.key for j in rig.pool.jobs)
    turns = sum(t.actions for t in collected.trajectories)
    tokens = sum(t.sampled_tokens for t in collected.trajectories)
    assert rig.stream.take_played() == Played(turns, tokens)
    assert rig.stream.take_played() == Played(0, 0)


def test_what_is_kept_does_not_depend_on_the_order_of_finishing() -> None:
    results = [Rig(order=order).collect(3) for order in range(20)]
    assert len({tuple(seeds(c.kept)) for c in results}) == 1
    assert len({tuple(seeds(g for g, _ in c.dropped)) for c in results}) == 1
    assert results[0].dropped  # otherwise this shows nothing
    assert all(reason == "zero_variance" for _, reason in results[0].dropped)
    assert seeds(results[0].kept) != seeds(Rig().collect(4).kept)


def test_each_dropped_group_is_replaced_up_to_the_cap() -> None:
    for max_refills in range(3):
        rig = Rig(lambda of: scored(of, 1.0), groups=4, max_refills=max_refills)
        collected = rig.collect(0)
        assert not collected.kept
        assert len(collected.dropped) == 4 * (1 + max_refills)
    only_first = Rig(lambda of: scored(of, of.key.member * (of.key.group > 0)), groups=4)
    collected = only_first.collect(0)
    assert (len(collected.kept), len(collected.dropped)) == (4, 1)


def test_the_ledger_counts_every_start() -> None:
    rig = Rig()
    collected = rig.collect(0)
    count = 3 * len(collected.groups)
    assert rig.ledger.started == rig.ledger.in_flight == count == len(collected.trajectories)
    rig.ledger.check(count)
    with pytest.raises(AssertionError, match="does not add up"):
        rig.ledger.check(count - 1)
    rig.ledger.trained += 3 * len(collected.kept)
    rig.ledger.filtered["zero_variance"] += 3 * len(collected.dropped)
    rig.ledger.check(0)
    again = Ledger(rig.ledger.as_dict())
    assert again.as_dict() == rig.ledger.as_dict()
    assert rig.ledger.as_dict() == {
        "started": count,
        "trained": 18,
        "filtered": {"total": count - 18, "reasons": {"zero_variance": count - 18}},
        "failed": {"total": 0, "reasons": {}},
        "in_flight": 0,
    }


def test_what_was_in_flight_is_not_counted_after_a_resume() -> None:
    ledger = Ledger()
    ledger.started, ledger.trained = 10, 4
    ledger.failed["environment_error"] += 1
    assert ledger.in_flight == 5
    again = Ledger(ledger.as_dict())
    assert (again.started, again.in_flight) == (5, 0)


def test_failed_members_have_no_score_and_stay_in_their_group() -> None:
    def second_fails(of: Job) -> Trajectory:
        stop = StopReason.SAMPLER_ERROR if of.key.member == 1 else StopReason.TERMINATED
        return scored(of, float(of.key.member), stop)

    collected = Rig(second_fails).collect(0)
    for group in collected.kept:
        assert np.isnan(group.scores).tolist() == [False, True, False]
        assert group.scores[[0, 2]].tolist() == [0, 2]
    assert len(collected.trajectories) == 18


def test_all_failed_is_an_error_with_the_commonest_cause() -> None:
    def fails(of: Job) -> Trajectory:
        if of.key.member == 0:
            return scored(of, 0, StopReason.WORKER_LOST)
        return scored(of, 0, StopReason.ENVIRONMENT_ERROR)

    rig = Rig(fails, groups=2, max_refills=0)
    with pytest.raises(RlagentsError) as caught:
        rig.collect(7)
    assert str(caught.value) == (
        "all 6 episodes of iteration 7 failed; 6 of them with: environment: disk full"
    )

    def one_lives(of: Job) -> Trajectory:
        alive = of.key == key(2, group=1)
        stop = StopReason.TERMINATED if alive else StopReason.ENVIRONMENT_ERROR
        return scored(of, 0, stop)

    assert isinstance(Rig(one_lives, groups=2, max_refills=0).collect(0), Collected)


class Stop(Exception):
    """Raised by a check."""


def test_it_stops_where_the_check_raises() -> None:
    calls = 0

    def check() -> None:
        nonlocal calls
        calls += 1
        if calls > 5:
            raise Stop

    watch = Watch(interval_s=1e9, report=lambda line: None, check=check)
    rig = Rig(watch=watch)
    with pytest.raises(Stop):
        rig.collect(0)
    assert len(rig.recorded) == 5
    assert rig.ledger.in_flight == rig.ledger.started > 0


def test_silence_is_reported_with_who_waits() -> None:
    said: list[str] = []
    pool = Shuffled(play)
    pool.misses = 3
    watch = Watch(interval_s=0, report=said.append, check=lambda: None)
    results = list(run_all(pool, [job(i) for i in range(4)], watch))
    assert sorted(t.key.member for t in results) == [0, 1, 2, 3]
    assert 1 <= len(said) <= 3
    head, *lines = said[0].splitlines()
    assert head == "no episode has finished for 0 s; 7 wait:"
    assert len(lines) == 5
    assert lines[2].strip() == "train/0/0/2 turn 2 waits for env.step since 9 s"


def test_nothing_outstanding_waits_for_nothing() -> None:
    assert list(finished(Shuffled(play), lambda: 0, QUIET)) == []
    assert list(run_all(Shuffled(play), [], QUIET)) == []


def test_progress_is_told_of_every_trajectory() -> None:
    seen: list[Trajectory] = []
    rig = Rig()
    rig.stream.collect(0, lambda block: rig.plan, STAGE, seen.append)
    assert seen == rig.recorded


# --- plans of any shape -------------------------------------------------------------------------


def slots(*rows: tuple[int | None, int], groups: int | None = None, **more: Any) -> Plan:
    made = tuple(Slot(index=index, attempts=attempts) for index, attempts in rows)
    return Plan(slots=made, groups=len(made) if groups is None else groups, success=1.0, **more)


def test_each_started_group_takes_the_next_slot() -> None:
    made = slots((2, 2), (0, 4), (2, 3), (1, 2), (3, 5), groups=3)
    flat_first = Rig(lambda of: scored(of, of.key.member * (of.key.group > 0)), tasks=RETURNING)
    collected = flat_first.collect(1, made)
    assert [(len(g.scores), len(collected.kept)) for g in collected.kept] == [
        (4, 3),
        (3, 3),
        (2, 3),
    ]
    (group, reason), *others = collected.dropped
    assert (reason, len(group.scores), others) == ("zero_variance", 2, [])
    expected = [RETURNING.train(1, n, slot.index) for n, slot in enumerate(made.slots[:4])]
    assert {j.key.group: j.task for j in flat_first.pool.jobs} == dict(enumerate(expected))
    assert flat_first.ledger.started == 2 + 4 + 3 + 2  # slot 4 was not needed


def test_sizes_and_tasks_do_not_depend_on_the_order_of_finishing() -> None:
    made = slots(*[(n % 4, 2 + n % 3) for n in range(9)], groups=4)
    results = [Rig(order=order, tasks=RETURNING).collect(0, made) for order in range(15)]
    shapes = {tuple((g.group.task.seed, len(g.scores)) for g in c.groups) for c in results}
    assert len(shapes) == 1
    assert results[0].dropped


def test_outcomes_are_by_slot_with_the_index_of_the_task() -> None:
    rig = Rig(lambda of: scored(of, of.key.member * (of.key.group % 2)), tasks=RETURNING)
    collected = rig.collect(6, slots((3, 2), (0, 3), (3, 2), (1, 2)))
    assert [(o.index, o.scores.tolist()) for o in collected.outcomes()] == [
        (3, [0, 0]),
        (0, [0, 1, 2]),
        (3, [0, 0]),
        (1, [0, 1]),
    ]
    assert collected.outcomes()[1].keys == tuple(
        EpisodeKey(stream="train", iteration=6, group=1, member=m) for m in range(3)
    )
    assert Rig().collect().outcomes() == []  # fresh tasks have no history


# --- replay -------------------------------------------------------------------------------------


def past(member: int, index: int = 0, score: float = 1.0) -> Trajectory:
    """A success of iteration 2 at one of the tasks that come back."""
    of = EpisodeKey(stream="train", iteration=2, group=9, member=member)
    return replace(trajectory(score=score), key=of, task=RETURNING.train(0, 0, index))


def keep(group: ScoredGroup) -> str | None:
    return None


def replaying(*members: int) -> History:
    return {0: TaskRecord(successes=tuple(past(m).key for m in members))}


def planned(history: History, **changes: Any) -> Plan:
    size = {"tasks": 1, "groups": 2, "group_size": 2, "seed": 5, "iteration": 4, **changes}
    return plan(SamplingConfig(replay=2), history, **size)


def test_a_group_without_success_gets_earlier_ones_once() -> None:
    successes = [past(4), past(5)]
    rig = Rig(lambda of: scored(of, 0.5), tasks=RETURNING, past=successes)
    collected = rig.collect(4, planned(replaying(4, 5)))
    first, second = collected.groups
    # Now it has a signal; the second group of the task gets nothing, and has none.
    assert collected.kept == (first,)
    assert first.group.trajectories[2:] == tuple(successes)  # the very records
    assert first.scores.tolist() == [0.5, 0.5, 1, 1]
    assert first.parts["return"].tolist() == [0.5, 0.5, 1, 1]
    assert second.scores.tolist() == [0.5, 0.5]
    assert rig.recalled == [t.key for t in successes]
    assert collected.replayed == {t.key for t in successes}


def test_replayed_members_cost_nothing_and_teach_nothing() -> None:
    rig = Rig(lambda of: scored(of, 0.0), tasks=RETURNING, past=[past(4), past(5)])
    collected = rig.collect(4, planned(replaying(4, 5)))
    assert rig.ledger.started == len(rig.recorded) == 4
    assert {t.key for t in collected.trajectories} == {t.key for t in rig.recorded}
    assert len(collected.trajectories) == 4
    assert [g.scores.tolist() for g in collected.sampled] == [[0, 0], [0, 0]]
    assert [g.parts["return"].tolist() for g in collected.sampled] == [[0, 0], [0, 0]]
    assert [o.scores.tolist() for o in collected.outcomes()] == [[0, 0], [0, 0]]
    assert all(k.iteration == 4 for o in collected.outcomes() for k in o.keys)


def test_a_group_with_a_success_needs_no_other() -> None:
    rig = Rig(lambda of: scored(of, of.key.member), tasks=RETURNING, past=[past(4)])
    collected = rig.collect(4, planned(replaying(4)))
    assert (rig.recalled, collected.replayed) == ([], frozenset())
    assert collected.sampled == collected.groups


def test_a_group_whose_members_all_failed_is_not_topped_up() -> None:
    def first_fails(of: Job) -> Trajectory:
        broken = of.key.group == 0
        return scored(of, 0, StopReason.SAMPLER_ERROR if broken else StopReason.TERMINATED)

    rig = Rig(first_fails, tasks=RETURNING, past=[past(4)], reject=keep)
    assert not rig.collect(4, planned(replaying(4))).replayed


def test_what_the_journal_lost_is_left_out() -> None:
    rig = Rig(lambda of: scored(of, 0.0), tasks=RETURNING, past=[past(5)], reject=keep)
    collected = rig.collect(4, planned(replaying(4, 5)))
    assert collected.replayed == {past(5).key}
    assert [len(g.scores) for g in collected.kept] == [3, 2]
    rig = Rig(lambda of: scored(of, 0.0), tasks=RETURNING, reject=keep)
    assert [len(g.scores) for g in rig.collect(4, planned(replaying(4))).kept] == [2, 2]


def test_a_success_of_another_task_is_a_bug() -> None:
    rig = Rig(lambda of: scored(of, 0.0), tasks=RETURNING, past=[past(4, index=1)])
    with pytest.raises(AssertionError, match="another task"):
        rig.collect(4, planned(replaying(4)))


def test_a_group_that_is_still_rejected_counts_its_replays() -> None:
    rig = Rig(lambda of: scored(of, 0.0), tasks=RETURNING, past=[past(4, score=0.0)])
    collected = rig.collect(4, planned(replaying(4)))
    assert not collected.kept
    assert [len(g.scores) for g, _ in collected.dropped] == [3, 2]
    assert collected.replayed == {past(4).key}
