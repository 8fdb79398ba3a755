"""Where episodes run: one interface, and the threads of this process (Ray: `ray_pool.py`)."""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Mapping
from typing import Any, Protocol

from rlagents.rollout.worker import Job, RolloutWorker, Waiting
from rlagents.types import Trajectory


class Pool(Protocol):
    """Runs jobs; results come in the order in which they finish."""

    def submit(self, job: Job) -> None: ...

    def wait(self, timeout: float) -> Trajectory | None:
        """The next finished trajectory, or None after `timeout` seconds."""
        ...

    def load(self, weights: Mapping[str, Any], version: int) -> None:
        """New weights for every later turn. Returns when every worker has *loaded* them."""
        ...

    def waiting(self) -> list[Waiting]: ...

    def stats(self) -> dict[str, float]: ...

    def close(self) -> None: ...


class LocalPool:
    """One worker in this process, driven by `concurrency` threads."""

    def __init__(self, worker: RolloutWorker, concurrency: int) -> None:
        self._worker = worker
        self._jobs: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._results: queue.SimpleQueue[Trajectory | BaseException] = queue.SimpleQueue()
        self._threads = [
            threading.Thread(target=self._drive, name=f"rollout {i}", daemon=True)
            for i in range(concurrency)
        ]
        for thread in self._threads:
            thread.start()

    def _drive(self) -> None:
        """Consumes: jobs. Produces: results. Waits for: a job. Stops when: the job is None."""
        while (job := self._jobs.get()) is not None:
            try:
                self._results.put(self._worker.run(job))
            except BaseException as error:  # raised again in wait(), on the main thread
                self._results.put(error)

    def submit(self, job: Job) -> None:
        """Queue an episode."""
        self._jobs.put(job)

    def wait(self, timeout: float) -> Trajectory | None:
        """The next finished trajectory, or None after `timeout` seconds."""
        try:
            result = self._results.get(timeout=timeout)
        except queue.Empty:
            return None
        if isinstance(result, BaseException):
            raise result
        return result

    def load(self, weights: Mapping[str, Any], version: int) -> None:
        """Give the worker new weights."""
        self._worker.load(weights, version)

    def waiting(self) -> list[Waiting]:
        """Who waits for what."""
        return self._worker.waiting()

    def stats(self) -> dict[str, float]:
        """Counters of the worker."""
        return self._worker.stats()

    def close(self) -> None:
        """Drop what is queued and end the threads once they are idle. May be called twice."""
        if self._threads:
            with contextlib.suppress(queue.Empty):
                while True:
                    self._jobs.get_nowait()
        for _ in self._threads:
            self._jobs.put(None)
        self._threads = []
        self._worker.close()
