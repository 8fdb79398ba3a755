"""The queue against scorers that the tests hold by events: nothing here depends on timing."""

from __future__ import annotations

import math
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Hashable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from rlagents.scoring.queue import Gauge, ScoringQueue
from rlagents.scoring.scorer import ReturnScorer, Scorer
from rlagents.types import EpisodeKey, Group, ScoredGroup
from tests.fakes import TASK, trajectory

LONG_S = 60.0
"""Longer than any test takes: who waits so long waits for something that does not come."""
SHORT_S = 0.05
TRIES = 100


def group(number: int = 0, *, iteration: int = 0, stream: str = "train", size: int = 2) -> Group:
    """A group whose members' returns are its number and nothing."""
    members = tuple(
        replace(
            trajectory(member=m, score=float(number) if m == 0 else 0.0),
            key=EpisodeKey(stream=stream, iteration=iteration, group=number, member=m),
        )
        for m in range(size)
    )
    return Group(task=TASK, trajectories=members)


class Held:
    """Scores by return, but a call begins only when it has been `let` (as often as there are
    permits), and the groups in `stuck` come back only at `free`."""

    def __init__(self, stuck: Callable[[int], bool] = lambda number: False) -> None:
        self.order: list[str] = []
        self.inside = self.most = 0
        self.stuck = stuck
        self.begun = threading.Semaphore(0)
        self.free = threading.Event()
        self._permits = threading.Semaphore(0)
        self._lock = threading.Lock()

    def let(self, calls: int) -> None:
        self._permits.release(calls)

    def score(self, group: Group) -> ScoredGroup:
        key = group.trajectories[0].key
        with self._lock:
            self.order.append(str(key))
            self.inside += 1
            self.most = max(self.most, self.inside)
        self.begun.release()
        try:
            if self.stuck(key.group):
                assert self.free.wait(LONG_S)
            else:
                assert self._permits.acquire(timeout=LONG_S)
            return ReturnScorer().score(group)
        finally:
            with self._lock:
                self.inside -= 1


class Wrong:
    """A scorer that does something else."""

    def __init__(self, act: Callable[[Group], Any]) -> None:
        self._act = act

    def score(self, group: Group) -> ScoredGroup:
        return self._act(group)


Make = Callable[..., ScoringQueue]


@pytest.fixture
def make() -> Iterator[Make]:
    """Queues that are closed at the end."""
    made: list[ScoringQueue] = []

    def build(scorer: Scorer, concurrency: int = 1, limit: int = 8, timeout_s: float = LONG_S):
        made.append(ScoringQueue(scorer, concurrency=concurrency, limit=limit, timeout_s=timeout_s))
        return made[-1]

    yield build
    for queue in made:
        queue.close()


def take(queue: ScoringQueue, *, evaluation: bool = False) -> tuple[Hashable, ScoredGroup]:
    result = queue.wait(LONG_S, evaluation=evaluation)
    assert result is not None
    return result


def assert_failed(scored: ScoredGroup) -> None:
    assert np.isnan(scored.scores).all() and scored.scores.dtype == np.float32
    assert {name: part.tolist() for name, part in scored.parts.items()} == {
        "judge_error": [1.0] * len(scored.scores)
    }


def blocked(make: Make, **settings: Any) -> tuple[Held, ScoringQueue]:
    """A queue whose one worker is with group 99."""
    scorer = Held()
    queue = make(scorer, **settings)
    queue.submit("first", group(99))
    assert scorer.begun.acquire(timeout=LONG_S)
    return scorer, queue


def test_the_most_urgent_group_is_scored_first(make: Make) -> None:
    scorer, queue = blocked(make)
    queue.submit("c", group(2, iteration=1))
    queue.submit("b", group(3))
    queue.submit("e", group(0, stream="eval/rl/sampled"), evaluation=True)
    queue.submit("a", group(1))
    queue.submit("d", group(0, iteration=1))
    scorer.let(6)
    assert [take(queue)[0] for _ in range(5)] == ["first", "a", "b", "d", "c"]
    assert take(queue, evaluation=True)[0] == "e"
    assert scorer.order == [
        "train/0/99/0",
        "eval/rl/sampled/0/0/0",  # overtakes training that waits
        "train/0/1/0",
        "train/0/3/0",
        "train/1/0/0",
        "train/1/2/0",
    ]


def test_groups_of_the_same_age_keep_the_order_of_submission(make: Make) -> None:
    scorer, queue = blocked(make)
    for ticket in range(5):
        queue.submit(ticket, group(7))
    scorer.let(6)
    assert [take(queue)[0] for _ in range(6)] == ["first", 0, 1, 2, 3, 4]


def test_never_more_calls_at_once_than_allowed(make: Make) -> None:
    scorer = Held()
    queue = make(scorer, concurrency=3)
    for number in range(20):
        queue.submit(number, group(number))
    for _ in range(3):
        assert scorer.begun.acquire(timeout=LONG_S)
    assert scorer.inside == 3
    scorer.let(20)
    assert {take(queue)[0] for _ in range(20)} == set(range(20))
    assert scorer.most == 3


def test_a_full_queue_says_so_until_results_are_taken(make: Make) -> None:
    scorer, queue = blocked(make, limit=3)
    assert (queue.pending, queue.full) == (1, False)
    queue.submit(1, group(1))
    queue.submit(2, group(2))
    assert (queue.pending, queue.full) == (3, True)
    queue.submit(3, group(3))  # the caller is told, never refused or held up
    assert (queue.pending, queue.full) == (4, True)
    assert queue.wait(0) is None
    scorer.let(4)
    for left in (3, 2, 1, 0):
        take(queue)
        assert (queue.pending, queue.full) == (left, left >= 3)


def test_the_two_kinds_of_results_are_handed_out_apart(make: Make) -> None:
    queue = make(ReturnScorer())
    queue.submit("e", group(1), evaluation=True)
    ticket, scored = take(queue, evaluation=True)
    assert ticket == "e" and scored.scores.tolist() == [1, 0]
    assert queue.wait(0) is None and queue.wait(0, evaluation=True) is None
    queue.submit("t", group(2))
    assert take(queue)[0] == "t"


def test_inline_the_result_is_there_at_once_and_no_thread_is(make: Make) -> None:
    before = threading.active_count()
    queue = make(ReturnScorer(), concurrency=0)
    for number in (2, 1):
        queue.submit(number, group(number))
    assert threading.active_count() == before
    assert [queue.wait(0), queue.wait(0), queue.wait(0)][2] is None
    assert queue.pending == 0
    queue.submit(0, group())
    assert queue.take_figures() == {
        "score/queue_depth_mean": 0.0,
        "score/queue_depth_max": 0.0,
        "score/wait_s_mean": 0.0,
        "score/failed": 0.0,
    }


def raises(group: Group) -> Any:
    raise KeyError("door")


def infinite(group: Group) -> ScoredGroup:
    return ScoredGroup(group=group, scores=np.array([1, np.inf], np.float32))


def infinite_part(group: Group) -> ScoredGroup:
    part = np.array([-np.inf, 0], np.float32)
    return ScoredGroup(group=group, scores=np.zeros(2, np.float32), parts={"style": part})


WRONG: list[tuple[Callable[[Group], Any], str, str]] = [
    (raises, "KeyError", "KeyError: 'door'"),
    (lambda g: None, "TypeError", "expected a ScoredGroup, got NoneType"),
    (lambda g: ReturnScorer().score(group(5)), "ValueError", "scores of the group that was given"),
    (
        lambda g: ScoredGroup(group=g, scores=np.zeros(3, np.float32)),
        "ValueError",
        "scores must be [G] = (2,), got (3,)",
    ),
    (lambda g: ScoredGroup(group=g, scores=[1.0, 2.0]), "AttributeError", "list"),  # type: ignore[arg-type]
    (
        lambda g: ScoredGroup(group=g, scores=np.zeros(2, np.int32)),  # type: ignore[arg-type]
        "TypeError",
        "scores: expected floats, got int32",
    ),
    (infinite, "ValueError", "scores: expected finite numbers or NaN, got [1.0, inf]"),
    (infinite_part, "ValueError", "style: expected finite numbers or NaN, got [-inf, 0.0]"),
]


@pytest.mark.parametrize("concurrency", [0, 1])
@pytest.mark.parametrize(("act", "kind", "message"), WRONG)
def test_a_scorer_that_fails_gives_no_scores_and_a_reason(
    act: Callable[[Group], Any], kind: str, message: str, concurrency: int, make: Make
) -> None:
    queue = make(Wrong(act), concurrency=concurrency)
    given = group(1)
    queue.submit("t", given)
    ticket, scored = take(queue)
    assert ticket == "t" and scored.group is given
    assert_failed(scored)
    assert queue.take_figures()["score/failed"] == 1
    error = queue.last_error
    assert error is not None and (error.boundary, error.kind) == ("judge", kind)
    assert error.message.startswith("scoring train/0/1/0: ") and message in error.message


def test_a_scorer_that_ends_its_thread_has_failed(make: Make) -> None:
    queue = make(Wrong(lambda group: sys.exit(3)))
    for ticket in range(3):
        queue.submit(ticket, group())
        assert_failed(take(queue)[1])
    assert queue.last_error is not None and queue.last_error.kind == "SystemExit"


def test_a_member_without_a_score_is_no_failure(make: Make) -> None:
    def half(group: Group) -> ScoredGroup:
        return ScoredGroup(group=group, scores=np.array([0.5, np.nan], np.float32))

    queue = make(Wrong(half))
    queue.submit("t", group())
    scored = take(queue)[1]
    assert scored.scores[0] == 0.5 and np.isnan(scored.scores[1]) and not scored.parts
    assert queue.take_figures()["score/failed"] == 0 and queue.last_error is None


def test_a_call_that_hangs_is_left_behind_and_the_next_one_begins(make: Make) -> None:
    scorer = Held(stuck=lambda number: number == 0)
    scorer.let(TRIES)
    queue = make(scorer, concurrency=2, timeout_s=SHORT_S)
    queue.submit("hangs", group(0))
    ticket, scored = take(queue)
    assert ticket == "hangs"
    assert_failed(scored)
    assert queue.last_error is not None
    assert (queue.last_error.kind, queue.last_error.message) == (
        "Timeout",
        "scoring train/0/0/0: no scores within 0.05 s",
    )
    figures = queue.take_figures()
    assert (figures["score/failed"], figures["score/abandoned"]) == (1, 1)
    recovers(queue)
    scorer.free.set()
    eventually(queue, abandoned=0)
    assert queue.wait(0) is None  # what it said so late is dropped


def test_while_too_many_calls_hang_no_other_begins_and_what_waits_fails_in_time(
    make: Make,
) -> None:
    scorer = Held(stuck=lambda number: number < 2)
    scorer.let(TRIES)
    queue = make(scorer, concurrency=2, timeout_s=SHORT_S)
    for number in (0, 1):
        queue.submit(number, group(number))
    assert {take(queue)[0] for _ in range(2)} == {0, 1}
    queue.submit("waits", group(2))
    ticket, scored = take(queue)
    assert ticket == "waits"
    assert_failed(scored)
    assert queue.last_error is not None
    assert "was not called: all 2 calls before it hang" in queue.last_error.message
    assert scorer.order == ["train/0/0/0", "train/0/1/0"] or scorer.order == [
        "train/0/1/0",
        "train/0/0/0",
    ]
    scorer.free.set()
    eventually(queue, abandoned=0)
    recovers(queue)


def recovers(queue: ScoringQueue) -> None:
    """Submit a group until it is scored: on a busy machine a short time may be too short."""
    for _ in range(TRIES):
        queue.submit("fine", group(7))
        ticket, scored = take(queue)
        assert ticket == "fine"
        if scored.scores.tolist() == [7, 0]:
            return
    raise AssertionError(f"not scored in {TRIES} tries: {queue.last_error}")


def eventually(queue: ScoringQueue, abandoned: int) -> None:
    """Wait until so many calls are abandoned."""
    patience = threading.Event()
    for _ in range(int(LONG_S / 0.01)):
        if queue.take_figures()["score/abandoned"] == abandoned:
            return
        patience.wait(0.01)
    raise AssertionError(f"not {abandoned} abandoned calls after {LONG_S:g} s")


def test_every_ticket_comes_back_once_whatever_happens(make: Make) -> None:
    rng = np.random.default_rng(3)
    fate = rng.integers(0, 4, size=500)  # scored, scored, raises, nonsense
    hung = (50, 250, 400)
    free = threading.Event()

    def act(group: Group) -> Any:
        number = group.trajectories[0].key.group
        if number in hung:
            assert free.wait(LONG_S)
        if fate[number] == 2:
            raise OSError("no judge")
        return "good" if fate[number] == 3 else ReturnScorer().score(group)

    queue = make(Wrong(act), concurrency=8, limit=64, timeout_s=1.0)
    for number in rng.permutation(500).tolist():
        queue.submit(number, group(number), evaluation=number % 5 == 0)
    back: Counter[Hashable] = Counter()
    failed: set[Hashable] = set()
    for number in range(500):
        ticket, scored = take(queue, evaluation=number < 100)
        back[ticket] += 1
        if "judge_error" in scored.parts:
            assert_failed(scored)
            failed.add(ticket)
        else:
            assert scored.scores.tolist() == [ticket, 0]
    assert back == Counter(range(500))
    # Not "equal to": on a busy machine others may miss their second.
    assert failed >= {n for n in range(500) if fate[n] > 1} | set(hung)
    assert queue.take_figures()["score/failed"] == len(failed) < 400
    free.set()
    eventually(queue, abandoned=0)
    assert queue.pending == 0 and queue.wait(0) is None  # late answers are dropped


def test_figures_tell_of_the_time_since_they_were_taken(make: Make) -> None:
    scorer, queue = blocked(make)
    for number in range(3):
        queue.submit(number, group(number))
    first = queue.take_figures()
    assert first["score/queue_depth_max"] == 4  # one is with the scorer
    assert 0 < first["score/queue_depth_mean"] <= 4
    scorer.let(4)
    for _ in range(4):
        take(queue)
    second = queue.take_figures()
    assert second["score/queue_depth_max"] == 4  # it began with four
    assert 0 < second["score/busy_frac"] <= 1 and second["score/wait_s_mean"] > 0
    third = queue.take_figures()
    assert "score/wait_s_mean" not in third  # nothing began meanwhile
    assert third["score/queue_depth_max"] == third["score/busy_frac"] == 0


def test_a_gauge_weighs_values_by_the_time_that_they_lasted() -> None:
    gauge = Gauge(10.0)
    gauge.add(2, 11.0)
    gauge.add(3, 13.0)
    gauge.add(-4, 14.0)
    # 0 for 1 s, 2 for 2 s, 5 for 1 s, 1 for 6 s: (0 + 4 + 5 + 6) / 10
    assert gauge.take(20.0) == (1.5, 5.0)
    # goes on from 1: 1 for 1 s, 0 for 3 s
    gauge.add(-1, 21.0)
    assert gauge.take(24.0) == (0.25, 1.0)
    assert gauge.take(24.0) == (0.0, 0.0)


def test_closing_drops_what_waits_and_ends_the_threads(make: Make) -> None:
    before = set(threading.enumerate())
    scorer, queue = blocked(make, concurrency=1)
    queue.submit("waits", group(1))
    own = [t for t in threading.enumerate() if t not in before]
    assert len(own) == 2 and all(t.daemon for t in own)
    queue.close()
    queue.close()
    assert queue.wait(LONG_S) is None  # at once: nothing more will come
    with pytest.raises(ValueError, match="open scoring queue"):
        queue.submit("late", group(2))
    scorer.let(1)
    for thread in own:
        thread.join(LONG_S)
        assert not thread.is_alive()
    assert scorer.order == ["train/0/99/0"] and queue.last_error is None


def test_closing_wakes_who_waits(make: Make) -> None:
    queue = make(ReturnScorer())
    results: list[Any] = ["nothing yet"]
    thread = threading.Thread(target=lambda: results.append(queue.wait(LONG_S)), daemon=True)
    thread.start()
    queue.close()
    thread.join(LONG_S)
    assert results == ["nothing yet", None]


def test_a_scorer_that_hangs_keeps_no_process_alive() -> None:
    code = """
import threading
from rlagents.scoring.queue import ScoringQueue
from tests.scoring.test_queue import Wrong, group
begun = threading.Event()
def hang(group):
    begun.set()
    threading.Event().wait()
queue = ScoringQueue(Wrong(hang), concurrency=2, limit=1, timeout_s=60)
queue.submit(0, group())
begun.wait()
queue.close()
print("over")
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=LONG_S
    )
    assert (done.stdout, done.stderr, done.returncode) == ("over\n", "", 0)


def test_a_group_without_members_is_refused(make: Make) -> None:
    queue = make(ReturnScorer())
    with pytest.raises(ValueError, match="a group with members"):
        queue.submit(0, Group(task=TASK, trajectories=()))
    assert queue.pending == 0


def test_a_scorer_that_can_end_in_time_is_told_when() -> None:
    told: list[float] = []

    class Punctual(ReturnScorer):
        def score_by(self, group: Group, deadline: float) -> ScoredGroup:
            told.append(deadline)
            return self.score(group)

    before = time.monotonic()
    for concurrency in (1, 0):
        queue = ScoringQueue(Punctual(), concurrency=concurrency, limit=8, timeout_s=LONG_S)
        queue.submit(0, group())
        assert queue.wait(LONG_S) is not None
        queue.close()
    assert before + LONG_S <= told[0] <= time.monotonic() + LONG_S
    assert told[1] == math.inf  # inline there is no time-out
