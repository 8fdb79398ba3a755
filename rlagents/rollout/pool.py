"""Where episodes run: one interface, and the threads of this process (Ray: `ray_pool.py`)."""

from __future__ import annotations

import dataclasses
import queue
import threading
from collections import deque
from collections.abc import Mapping
from typing import Any, Protocol

from rlagents.rollout.worker import Job, Played, RolloutWorker, Waiting
from rlagents.types import EpisodeKey, StopReason, Trajectory


class Pool(Protocol):
    """Runs jobs; results come in the order in which they finish."""

    def submit(self, job: Job) -> None: ...

    def wait(self, timeout: float) -> Trajectory | None:
        """The next finished trajectory, or None after `timeout` seconds."""
        ...

    def load(self, weights: Mapping[str, Any], version: int) -> None:
        """New weights for every later turn. Returns when every worker has *loaded* them."""
        ...

    def pause(self) -> None:
        """Stop everything that was submitted so far, each episode before its next turn.

        Returns at once. What is submitted from now on runs; of the paused ones `wait` hands out
        nothing, not even those that come to their end meanwhile.
        """
        ...

    def resume(self) -> None:
        """Let it go on, before anything that was submitted since."""
        ...

    def snapshot(self) -> list[Trajectory]:
        """What there is of everything that was submitted and not handed out, as `PAUSED`."""
        ...

    def played(self) -> Played:
        """Turns and tokens since the start, on-going episodes included."""
        ...

    def waiting(self) -> list[Waiting]: ...

    def stats(self) -> dict[str, float]: ...

    def close(self) -> None: ...


_Result = tuple[EpisodeKey, Trajectory | BaseException]


class LocalPool:
    """One worker in this process: `concurrency` episodes at once, paused ones not counted."""

    def __init__(self, worker: RolloutWorker, concurrency: int) -> None:
        self._worker = worker
        self._concurrency = concurrency
        self._lock = threading.Lock()
        """Guards everything below."""
        self._jobs: deque[Job] = deque()
        self._playing: dict[EpisodeKey, Job] = {}
        self._held: deque[Job] = deque()
        """Jobs that were queued when all was paused."""
        self._paused: dict[EpisodeKey, Job] = {}
        self._late: list[_Result] = []
        """Results of the paused."""
        self._results: queue.SimpleQueue[_Result] = queue.SimpleQueue()

    def submit(self, job: Job) -> None:
        """Queue an episode."""
        with self._lock:
            self._jobs.append(job)
            self._dispatch()

    def _dispatch(self) -> None:
        """Start what there is room for; the caller holds the lock."""
        while self._jobs and len(self._playing) < self._concurrency:
            job = self._jobs.popleft()
            self._playing[job.key] = job
            name = f"rollout {job.key}"
            threading.Thread(target=self._play, args=(job,), name=name, daemon=True).start()

    def _play(self, job: Job) -> None:
        try:
            result: Trajectory | BaseException = self._worker.run(job)
        except BaseException as error:  # raised again in wait(), on the main thread
            result = error
        with self._lock:
            if job.key in self._paused:
                del self._paused[job.key]
                self._late.append((job.key, result))
            else:
                del self._playing[job.key]
                self._results.put((job.key, result))
            self._dispatch()

    def wait(self, timeout: float) -> Trajectory | None:
        """The next finished trajectory, or None after `timeout` seconds."""
        try:
            _, result = self._results.get(timeout=timeout)
        except queue.Empty:
            return None
        if isinstance(result, BaseException):
            raise result
        return result

    def pause(self) -> None:
        """Stop everything that was submitted so far, each episode before its next turn."""
        with self._lock:
            self._held += self._jobs
            self._jobs.clear()
            self._paused |= self._playing
            self._playing.clear()
            while not self._results.empty():
                self._late.append(self._results.get())
            self._worker.pause(frozenset(self._paused))

    def resume(self) -> None:
        """Let it go on, before anything that was submitted since."""
        with self._lock:
            self._playing |= self._paused
            self._paused.clear()
            for result in self._late:
                self._results.put(result)
            self._late.clear()
            self._jobs.extendleft(reversed(self._held))
            self._held.clear()
            self._worker.resume()
            self._dispatch()

    def snapshot(self) -> list[Trajectory]:
        """What there is of everything that was submitted and not handed out."""
        with self._lock:
            jobs = (*self._paused.values(), *self._held, *self._playing.values(), *self._jobs)
            found = {job.key: job.paused() for job in jobs}
            found |= {t.key: t for t in self._worker.snapshot()}
            for key, result in self._late:
                if isinstance(result, Trajectory):
                    found[key] = dataclasses.replace(result, stop=StopReason.PAUSED, error=None)
            return list(found.values())

    def load(self, weights: Mapping[str, Any], version: int) -> None:
        """Give the worker new weights."""
        self._worker.load(weights, version)

    def played(self) -> Played:
        """Turns and tokens so far."""
        return self._worker.played()

    def waiting(self) -> list[Waiting]:
        """Who waits for what."""
        return self._worker.waiting()

    def stats(self) -> dict[str, float]:
        """Counters of the worker."""
        return self._worker.stats()

    def close(self) -> None:
        """Drop what is queued; what plays ends at its next turn. May be called twice."""
        with self._lock:
            self._jobs.clear()
            self._held.clear()
        self._worker.close()
