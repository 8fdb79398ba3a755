"""Scores groups beside the rollouts: the most urgent first, a few at once, none for ever.

    submit --> waiting, a heap --> `concurrency` threads --scorer--> results --> wait

A scorer may be a judge: slow, and wrong in any way. Whatever it does, each ticket that was
submitted comes back once, from `wait`, with scores or with none.
"""

from __future__ import annotations

import heapq
import math
import threading
import time
from collections import deque
from collections.abc import Hashable
from dataclasses import dataclass

import numpy as np

from rlagents.errors import JudgeError, RlagentsError, boundary
from rlagents.scoring.scorer import JUDGE_ERROR, Punctual, Reporting, Scorer
from rlagents.types import EpisodeKey, ErrorRecord, Group, ScoredGroup

Outcome = tuple[ScoredGroup, ErrorRecord | None]
GRACE_S = 10.0
"""Of a scorer that is told when to end: to make scores of what it has by then."""


class Gauge:
    """A number that changes now and then: its mean over time, and its greatest value."""

    def __init__(self, now: float) -> None:
        self.value = 0.0
        self._area = 0.0
        self._greatest = 0.0
        self._begun = self._since = now

    def add(self, change: float, now: float) -> None:
        """Change the value at the time `now`, in seconds."""
        self._area += self.value * (now - self._since)
        self._since = now
        self.value += change
        self._greatest = max(self._greatest, self.value)

    def take(self, now: float) -> tuple[float, float]:
        """(mean, greatest) since the last call."""
        self.add(0.0, now)
        span = now - self._begun
        taken = self._area / span if span > 0 else self.value, self._greatest
        self._area, self._greatest, self._begun = 0.0, self.value, now
        return taken


@dataclass(slots=True, eq=False)
class _Call:
    """A group on its way through the queue."""

    ticket: Hashable
    group: Group
    evaluation: bool
    submitted: float
    outcome: Outcome | None = None
    abandoned: bool = False
    """Nobody waits for the scorer any more."""


class ScoringQueue:
    """A scorer behind a queue, with so many calls at once.

    Evaluation comes before training; then the oldest group, whose first trajectory has the smallest
    key; then the one that was submitted first.

    A scorer that can end in time (`Punctual`) is told until when it has, `timeout_s` from its
    beginning, and has `GRACE_S` more.

    A scorer that raises, answers nonsense or exceeds its time gives the group scores of NaN and
    the part `judge_error` = 1. Python can't stop a call that hangs: its thread is abandoned and
    whatever it answers later is dropped. While `concurrency` threads are abandoned no other call
    begins (so there are fewer than twice as many threads in the scorer); a group that has waited
    `timeout_s` for one of them to return fails as well.
    """

    def __init__(self, scorer: Scorer, *, concurrency: int, limit: int, timeout_s: float) -> None:
        """Start the threads.

        Args:
            scorer: called from many threads at once.
            concurrency: calls at once; 0 scores inline, at `submit`, without a time-out.
            limit: groups from which on the queue is `full`.
            timeout_s: of one call, in seconds.
        """
        self._scorer = scorer
        self._concurrency = concurrency
        self._limit = limit
        self._timeout_s = timeout_s
        self.last_error: ErrorRecord | None = None
        """Why the group failed that failed last."""
        self._changed = threading.Condition()
        """Guards everything below, and is notified of every change."""
        self._waiting: list[tuple[bool, EpisodeKey, int, _Call]] = []
        self._results: dict[bool, deque[tuple[Hashable, ScoredGroup]]] = {
            evaluation: deque() for evaluation in (False, True)
        }
        self._submitted = 0
        self._handed_out = 0
        self._abandoned = 0
        self._closed = False
        self._broken: BaseException | None = None
        now = time.monotonic()
        self._depth, self._busy = Gauge(now), Gauge(now)
        self._waits, self._waited_s, self._failed = 0, 0.0, 0
        for i in range(concurrency):
            threading.Thread(target=self._drive, name=f"scoring {i}", daemon=True).start()

    def submit(self, ticket: Hashable, group: Group, *, evaluation: bool = False) -> None:
        """Queue a group, without blocking; `wait` hands its scores out under the ticket.

        Raises:
            ValueError: for a group without members, and when the queue is closed.
        """
        if not group.trajectories:
            raise ValueError("expected a group with members, got an empty one")
        call = _Call(ticket, group, evaluation, time.monotonic())
        with self._changed:
            if self._closed:
                raise ValueError("expected an open scoring queue, got a closed one")
            self._submitted += 1
            if self._concurrency:
                urgency = (not evaluation, group.trajectories[0].key, self._submitted)
                heapq.heappush(self._waiting, (*urgency, call))
                self._depth.add(1, call.submitted)
                self._changed.notify_all()
                return
            self._waits += 1
        self._settle(call, attempt(self._scorer, group))

    def wait(
        self, timeout: float, *, evaluation: bool = False
    ) -> tuple[Hashable, ScoredGroup] | None:
        """The next result of this kind: (ticket, scores). None after `timeout` seconds; 0 polls."""
        results = self._results[evaluation]
        with self._changed:
            self._changed.wait_for(lambda: results or self._broken or self._closed, timeout)
            if self._broken is not None:
                raise self._broken
            if not results:
                return None
            self._handed_out += 1
            return results.popleft()

    @property
    def pending(self) -> int:
        """Groups that were submitted and not yet handed out by `wait`."""
        with self._changed:
            return self._submitted - self._handed_out

    @property
    def full(self) -> bool:
        """Whether no new groups should be started."""
        return self.pending >= self._limit

    def take_figures(self) -> dict[str, float]:
        """Metrics since the last call.

        `score/queue_depth_mean` (over time) and `_max`: groups that wait for the scorer or are with
        it; `score/wait_s_mean`: seconds that a group waited for its turn; `score/failed`: groups
        that failed. With threads also `score/busy_frac`, the share of them that was with the
        scorer, and `score/abandoned`, how many are abandoned now. Inline there is no queue: its
        depth and the waiting are 0. A scorer's own figures come on top.
        """
        own = self._scorer.take_figures() if isinstance(self._scorer, Reporting) else {}
        with self._changed:
            now = time.monotonic()
            mean, greatest = self._depth.take(now)
            figures = {"score/queue_depth_mean": mean, "score/queue_depth_max": greatest}
            if self._waits:
                figures["score/wait_s_mean"] = self._waited_s / self._waits
            figures["score/failed"] = float(self._failed)
            if self._concurrency:
                figures["score/busy_frac"] = self._busy.take(now)[0] / self._concurrency
                figures["score/abandoned"] = float(self._abandoned)
            self._waits, self._waited_s, self._failed = 0, 0.0, 0
            return figures | own

    def close(self) -> None:
        """Drop what waits, and end the threads and the scorer. May be called twice.

        A thread that is in the scorer ends when that returns, and keeps no process alive.
        """
        with self._changed:
            self._closed = True
            self._waiting.clear()
            self._changed.notify_all()
        if isinstance(self._scorer, Reporting):
            self._scorer.close()

    def _drive(self) -> None:
        """Take groups to the scorer, one after the other.

        Consumes: groups that wait. Produces: results. Waits for: a group; while too many threads
        are abandoned, one of them; the scorer; the latter two no longer than `timeout_s` each.
        Stops when: the queue is closed.
        """
        try:
            while (taken := self._next()) is not None:
                self._settle(taken[0], self._scored(*taken))
        except BaseException as error:  # a bug of ours, raised again in wait(), on the main thread
            with self._changed:
                self._broken = error
                self._changed.notify_all()

    def _next(self) -> tuple[_Call, bool] | None:
        """The most urgent group, and whether there is a thread for it; None at the end."""
        with self._changed:
            while not self._closed:
                self._changed.wait_for(lambda: self._waiting or self._closed)
                free = self._changed.wait_for(
                    lambda: self._abandoned < self._concurrency or self._closed, self._timeout_s
                )
                if self._waiting:  # another thread may have been faster, meanwhile
                    call = heapq.heappop(self._waiting)[-1]
                    self._waits += 1
                    self._waited_s += time.monotonic() - call.submitted
                    return call, free
        return None

    def _scored(self, call: _Call, free: bool) -> Outcome:
        """Call the scorer in a thread of its own, so that it can be left behind."""
        if not free:
            cause = f"all {self._concurrency} calls before it hang"
            return _failure(call.group, "Timeout", f"the scorer was not called: {cause}")
        with self._changed:
            self._busy.add(1, time.monotonic())
        end = time.monotonic() + self._timeout_s
        threading.Thread(target=self._call, args=(call, end), name="scorer", daemon=True).start()
        patience_s = self._timeout_s + GRACE_S * isinstance(self._scorer, Punctual)
        with self._changed:
            self._changed.wait_for(lambda: call.outcome or self._closed, patience_s)
            self._busy.add(-1, time.monotonic())
            if call.outcome is not None:
                return call.outcome
            call.abandoned = True
            self._abandoned += 1
        return _failure(call.group, "Timeout", f"no scores within {patience_s:g} s")

    def _call(self, call: _Call, deadline: float) -> None:
        try:
            outcome = attempt(self._scorer, call.group, deadline)
        except BaseException as error:  # `sys.exit` in a scorer
            outcome = _failure(call.group, type(error).__name__, "the scorer ended its thread")
        with self._changed:
            call.outcome = outcome
            self._abandoned -= call.abandoned
            self._changed.notify_all()

    def _settle(self, call: _Call, outcome: Outcome) -> None:
        scored, error = outcome
        with self._changed:
            if self._closed:
                return
            if self._concurrency:
                self._depth.add(-1, time.monotonic())
            if error is not None:
                self._failed += 1
                self.last_error = error
            self._results[call.evaluation].append((call.ticket, scored))
            self._changed.notify_all()


def attempt(scorer: Scorer, group: Group, deadline: float = math.inf) -> Outcome:
    """Score a group; a scorer that fails gives scores of NaN, and why.

    Args:
        deadline: of `time.monotonic`, for a scorer that can end in time.
    """
    try:
        with boundary(JudgeError, f"scoring {group.trajectories[0].key}"):
            punctual = isinstance(scorer, Punctual)
            scored = scorer.score_by(group, deadline) if punctual else scorer.score(group)
            return _checked(scored, group), None
    except RlagentsError as error:
        return _without_scores(group), error.record()


def _checked(scored: ScoredGroup, group: Group) -> ScoredGroup:
    """What a scorer returned, if it is what it should be; its shapes are right by construction."""
    if not isinstance(scored, ScoredGroup):
        raise TypeError(f"expected a ScoredGroup, got {type(scored).__name__}")
    if scored.group is not group:
        raise ValueError("expected scores of the group that was given, got those of another")
    for name, values in {"scores": scored.scores, **scored.parts}.items():
        if not np.issubdtype(values.dtype, np.floating):
            raise TypeError(f"{name}: expected floats, got {values.dtype}")
        if np.isinf(values).any():
            raise ValueError(f"{name}: expected finite numbers or NaN, got {values.tolist()}")
    return scored


def _failure(group: Group, kind: str, message: str) -> Outcome:
    what = f"scoring {group.trajectories[0].key}: {message}"
    return _without_scores(group), ErrorRecord(boundary="judge", kind=kind, message=what)


def _without_scores(group: Group) -> ScoredGroup:
    size = len(group.trajectories)
    return ScoredGroup(
        group=group,
        scores=np.full(size, np.nan, np.float32),
        parts={JUDGE_ERROR: np.ones(size, np.float32)},
    )
