"""Calls of judges at once, so many for all groups together; one that hangs holds up no other."""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from rlagents.errors import JudgeError

T = TypeVar("T")


@dataclass(slots=True, eq=False)
class _Call:
    """A function on its way through a thread."""

    function: Callable[[], Any]
    begun: float | None = None
    outcome: Any = None
    done: bool = False
    """It has an outcome, be it that it took too long."""


class Calls:
    """Runs functions in threads, at most `concurrency` at once, in the order they came.

    A function that takes longer than `timeout_s` has failed. Python can't stop it: its thread is
    left behind, another takes its place, and whatever it returns later is dropped. There are never
    more than twice `concurrency` threads: when all of them are left behind, what waits fails at
    once, until one of them returns.

    Threads are started when there is something to call and end when there is not; none keeps the
    process alive.
    """

    def __init__(self, *, concurrency: int, timeout_s: float) -> None:
        if concurrency < 1 or timeout_s <= 0:
            raise ValueError(
                f"expected concurrency of 1 or more and a timeout_s above 0, got {concurrency} and "
                f"{timeout_s}"
            )
        self._concurrency = concurrency
        self._timeout_s = timeout_s
        self._changed = threading.Condition()
        """Guards everything below, and is notified when a call begins or is done."""
        self._waiting: deque[_Call] = deque()
        self._working = 0
        self._left_behind = 0
        self._closed = False

    def run(
        self, functions: Sequence[Callable[[], T]], deadline: float = math.inf
    ) -> list[T | JudgeError]:
        """What each function returned, in their order; a JudgeError for one that raised or hung.

        Blocks until all are done. Called from many threads at once.

        Args:
            functions: none of them begins after the deadline.
            deadline: of `time.monotonic`; those that are under way then have failed, too.
        """
        calls = [_Call(function) for function in functions]
        with self._changed:
            if self._ended(deadline) is None:
                self._waiting.extend(calls)
                self._staff()
            while not all(call.done for call in calls):
                if (ended := self._ended(deadline)) is not None:
                    self._withdraw(calls, ended)
                    break
                self._changed.wait(self._until_late(calls, deadline))
                self._give_up(calls)
        return [call.outcome for call in calls]

    def close(self) -> None:
        """Withdraw what waits, and begin nothing any more. May be called twice."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def _ended(self, deadline: float) -> str | None:
        """Why nothing more is wanted."""
        if self._closed:
            return "scoring was closed"
        return "the group's time is over" if time.monotonic() >= deadline else None

    def _staff(self) -> None:
        """Start threads for what waits; without any thread to come, fail it."""
        if self._closed:
            return
        most = min(self._concurrency, 2 * self._concurrency - self._left_behind)
        for _ in range(min(most - self._working, len(self._waiting))):
            threading.Thread(target=self._work, name="judge", daemon=True).start()
            self._working += 1  # it waits for our lock
        if not self._working and self._waiting:
            error = JudgeError(f"not asked: all {self._left_behind} calls before it hang")
            while self._waiting:
                self._finish(self._waiting.popleft(), error)

    def _work(self) -> None:
        """Call what waits until nothing does, or until this thread is left behind."""
        while True:
            with self._changed:
                if self._closed or not self._waiting or self._working > self._concurrency:
                    self._working -= 1
                    return
                call = self._waiting.popleft()
                call.begun = time.monotonic()
                self._changed.notify_all()
            outcome = _attempt(call.function)
            with self._changed:
                if call.done:  # too late: another thread works in place of this one
                    self._left_behind -= 1
                    self._working += 1
                else:
                    self._finish(call, outcome)

    def _finish(self, call: _Call, outcome: Any) -> None:
        call.outcome, call.done = outcome, True
        self._changed.notify_all()

    def _until_late(self, calls: Sequence[_Call], deadline: float) -> float | None:
        """Seconds until the first of these calls, or all of them, are over their time.

        None: none has begun, and there is no deadline.
        """
        begun = [call.begun for call in calls if call.begun is not None and not call.done]
        end = min(deadline, min(begun, default=math.inf) + self._timeout_s)
        return None if math.isinf(end) else max(0.0, end - time.monotonic())

    def _give_up(self, calls: Sequence[_Call]) -> None:
        """Leave those behind that are over their time."""
        now = time.monotonic()
        for call in calls:
            if call.done or call.begun is None or now - call.begun < self._timeout_s:
                continue
            self._leave(call, f"no answer within {self._timeout_s:g} s")

    def _withdraw(self, calls: Sequence[_Call], ended: str) -> None:
        """Take those back that wait, leave those behind that have begun."""
        for call in calls:
            if not call.done and call.begun is None:
                self._finish(call, JudgeError(f"not asked: {ended}"))
        self._waiting = deque(call for call in self._waiting if not call.done)
        for call in calls:
            if not call.done:
                self._leave(call, f"no answer: {ended}")

    def _leave(self, call: _Call, problem: str) -> None:
        """Leave a call behind that has begun: another thread takes the place of its own."""
        self._working -= 1
        self._left_behind += 1
        self._finish(call, JudgeError(problem))
        self._staff()


def _attempt(function: Callable[[], T]) -> T | JudgeError:
    try:
        return function()
    except JudgeError as error:
        return error
    except BaseException as error:  # a judge may do anything, `sys.exit` too
        return JudgeError(f"{type(error).__name__}: {error}")
