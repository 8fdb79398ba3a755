from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest

from rlagents.config import EnvSection
from rlagents.data.tasks import TaskSource
from rlagents.errors import RlagentsError
from rlagents.rollout.ledger import Ledger
from rlagents.rollout.stream import Collected, RolloutStream, Watch, finished, run_all
from rlagents.rollout.worker import Job, Waiting
from rlagents.scoring.scorer import ReturnScorer
from rlagents.types import ErrorRecord, ScoredGroup, StopReason, Trajectory
from tests.fakes import trajectory
from tests.rollout.toys import SAMPLING, job, key

TASKS = TaskSource(EnvSection(id="toy"), 5)


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
        watch: Watch = QUIET,
    ) -> None:
        self.pool = Shuffled(play, order)
        self.ledger = Ledger()
        self.recorded: list[Trajectory] = []
        self.stream = RolloutStream(
            pool=self.pool,
            tasks=TASKS,
            scorer=ReturnScorer(),
            reject=equal,
            groups=groups,
            group_size=group_size,
            max_refills=max_refills,
            sampling=SAMPLING,
            ledger=self.ledger,
            record=self.recorded.append,
            watch=watch,
        )


def seeds(groups: Any) -> list[int]:
    return [group.group.task.seed for group in groups]


def test_members_are_in_order_and_share_their_task() -> None:
    rig = Rig()
    collected = rig.stream.collect(0)
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


def test_what_is_kept_does_not_depend_on_the_order_of_finishing() -> None:
    results = [Rig(order=order).stream.collect(3) for order in range(20)]
    assert len({tuple(seeds(c.kept)) for c in results}) == 1
    assert len({tuple(seeds(g for g, _ in c.dropped)) for c in results}) == 1
    assert results[0].dropped  # otherwise this shows nothing
    assert all(reason == "zero_variance" for _, reason in results[0].dropped)
    assert seeds(results[0].kept) != seeds(Rig().stream.collect(4).kept)


def test_each_dropped_group_is_replaced_up_to_the_cap() -> None:
    for max_refills in range(3):
        rig = Rig(lambda of: scored(of, 1.0), groups=4, max_refills=max_refills)
        collected = rig.stream.collect(0)
        assert not collected.kept
        assert len(collected.dropped) == 4 * (1 + max_refills)
    only_first = Rig(lambda of: scored(of, of.key.member * (of.key.group > 0)), groups=4)
    collected = only_first.stream.collect(0)
    assert (len(collected.kept), len(collected.dropped)) == (4, 1)


def test_the_ledger_counts_every_start() -> None:
    rig = Rig()
    collected = rig.stream.collect(0)
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

    collected = Rig(second_fails).stream.collect(0)
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
        rig.stream.collect(7)
    assert str(caught.value) == (
        "all 6 episodes of iteration 7 failed; 6 of them with: environment: disk full"
    )

    def one_lives(of: Job) -> Trajectory:
        alive = of.key == key(2, group=1)
        stop = StopReason.TERMINATED if alive else StopReason.ENVIRONMENT_ERROR
        return scored(of, 0, stop)

    assert isinstance(Rig(one_lives, groups=2, max_refills=0).stream.collect(0), Collected)


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
        rig.stream.collect(0)
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
    rig.stream.collect(0, seen.append)
    assert seen == rig.recorded
