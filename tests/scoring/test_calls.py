"""Calls at once, held by events and barriers: nothing here depends on how fast the machine is."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable

import pytest

from rlagents.errors import JudgeError
from rlagents.scoring.calls import Calls

LONG_S = 60.0
"""Longer than any test takes: who waits so long waits for something that does not come."""
SHORT_S = 0.05


class Room:
    """Functions that count how many are inside; they leave together, `size` at a time."""

    def __init__(self, size: int) -> None:
        self._barrier = threading.Barrier(size)
        self._lock = threading.Lock()
        self._inside = 0
        self.most = 0

    def enter(self) -> int:
        with self._lock:
            self._inside += 1
            self.most = max(self.most, self._inside)
        wave = self._barrier.wait(LONG_S)
        with self._lock:
            self._inside -= 1
        return wave


def test_outcomes_come_in_the_order_of_the_functions() -> None:
    calls = Calls(concurrency=3, timeout_s=LONG_S)
    assert calls.run([lambda i=i: i * i for i in range(20)]) == [i * i for i in range(20)]
    assert calls.run([]) == []
    assert calls.run([lambda: None]) == [None]


def test_a_round_runs_in_full_waves() -> None:
    # 12 calls of which 4 leave together: were there ever fewer than 4 at once, none would leave.
    room = Room(4)
    Calls(concurrency=4, timeout_s=LONG_S).run([room.enter] * 12)
    assert room.most == 4


def test_groups_share_the_threads_and_fill_them_together() -> None:
    # Four groups with rounds of 2 calls each fill 8 places: each call waits for 7 others.
    calls, room = Calls(concurrency=8, timeout_s=LONG_S), Room(8)
    groups = [
        threading.Thread(target=lambda: [calls.run([room.enter] * 2) for _ in range(3)])
        for _ in range(4)
    ]
    for group in groups:
        group.start()
    for group in groups:
        group.join(LONG_S)
    assert not any(group.is_alive() for group in groups)
    assert room.most == 8


@pytest.mark.parametrize(
    ("act", "message"),
    [
        (lambda: 1 / 0, "ZeroDivisionError: division by zero"),
        (lambda: sys.exit("bye"), "SystemExit: bye"),
        (lambda: next(iter(())), "StopIteration: "),
    ],
)
def test_a_function_that_raises_fails_alone(act: Callable[[], object], message: str) -> None:
    first, failed, last = Calls(concurrency=1, timeout_s=LONG_S).run([lambda: 1, act, lambda: 2])
    assert (first, last) == (1, 2)
    assert isinstance(failed, JudgeError)
    assert str(failed) == message


def test_a_judge_error_passes_as_it_is() -> None:
    error = JudgeError("no")

    def refuse() -> None:
        raise error

    assert Calls(concurrency=1, timeout_s=LONG_S).run([refuse]) == [error]


def test_a_call_that_hangs_is_left_behind_and_its_place_taken() -> None:
    free = threading.Event()
    calls = Calls(concurrency=1, timeout_s=SHORT_S)
    hung, answered = calls.run([lambda: free.wait(LONG_S), lambda: "answer"])
    assert str(hung) == "no answer within 0.05 s"
    assert answered == "answer"
    free.set()


def test_when_all_threads_hang_what_waits_fails_at_once_until_one_returns() -> None:
    free = threading.Event()
    hung: list[threading.Thread] = []

    def hang() -> None:
        hung.append(threading.current_thread())
        assert free.wait(LONG_S)

    calls = Calls(concurrency=2, timeout_s=SHORT_S)
    outcomes = calls.run([hang] * 5)  # 2 x 2 threads, then there are no more
    late = [str(outcome) for outcome in outcomes]
    assert late == ["no answer within 0.05 s"] * 4 + ["not asked: all 4 calls before it hang"]
    assert str(calls.run([lambda: 1])[0]) == "not asked: all 4 calls before it hang"
    free.set()
    for thread in hung:
        thread.join(LONG_S)
    assert calls.run([lambda: 1, lambda: 2]) == [1, 2]


def test_no_thread_is_left_when_there_is_nothing_to_call() -> None:
    calls = Calls(concurrency=4, timeout_s=LONG_S)
    seen: list[threading.Thread] = []
    calls.run([lambda: seen.append(threading.current_thread())] * 8)
    for thread in seen:
        thread.join(LONG_S)
    assert not any(thread.is_alive() for thread in seen)


def test_at_the_deadline_what_waits_is_withdrawn_and_what_runs_is_left_behind() -> None:
    free, begun = threading.Event(), []

    def hold() -> None:
        begun.append(threading.current_thread())
        assert free.wait(LONG_S)

    calls = Calls(concurrency=1, timeout_s=LONG_S)
    outcomes = calls.run([hold, hold], time.monotonic() + SHORT_S)
    assert [str(outcome) for outcome in outcomes] == [
        "no answer: the group's time is over",
        "not asked: the group's time is over",
    ]
    assert calls.run([lambda: 1]) == [1]  # in another thread
    assert len(begun) == 1
    free.set()
    begun[0].join(LONG_S)
    assert calls.run([lambda: 1]) == [1]
    assert len(begun) == 1  # the other one never begins


def test_after_the_deadline_nothing_is_asked() -> None:
    asked: list[int] = []
    outcomes = Calls(concurrency=1, timeout_s=LONG_S).run([lambda: asked.append(1)], 0.0)
    assert str(outcomes[0]) == "not asked: the group's time is over"
    assert asked == []


def test_closing_ends_who_waits_and_begins_nothing_more() -> None:
    free, inside = threading.Event(), threading.Event()

    def hold() -> None:
        inside.set()
        assert free.wait(LONG_S)

    calls, outcomes = Calls(concurrency=1, timeout_s=LONG_S), []
    waiting = threading.Thread(target=lambda: outcomes.extend(calls.run([hold, hold])))
    waiting.start()
    assert inside.wait(LONG_S)
    calls.close()
    calls.close()
    waiting.join(LONG_S)
    assert [str(outcome) for outcome in outcomes] == [
        "no answer: scoring was closed",
        "not asked: scoring was closed",
    ]
    assert str(calls.run([lambda: 1])[0]) == "not asked: scoring was closed"
    free.set()


@pytest.mark.parametrize(("concurrency", "timeout_s"), [(0, 1.0), (1, 0.0)])
def test_arguments_out_of_range(concurrency: int, timeout_s: float) -> None:
    with pytest.raises(ValueError, match=r"expected concurrency of 1 or more"):
        Calls(concurrency=concurrency, timeout_s=timeout_s)
