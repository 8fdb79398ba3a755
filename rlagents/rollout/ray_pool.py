"""Episodes in Ray actors.

Ray holds no truth: a lost actor is replaced and its jobs run again under the same keys, which
give the same seeds.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import ray
from ray.exceptions import RayActorError, RayError

from rlagents.errors import WorkerLost
from rlagents.rollout.worker import Job, RolloutWorker, Waiting
from rlagents.types import ErrorRecord, StopReason, Trajectory

START_TIMEOUT_S = 180.0
CALL_TIMEOUT_S = 120.0
MAX_ATTEMPTS = 3


class WorkerActor:
    """A `RolloutWorker` behind Ray: the same calls, in a process of its own."""

    def __init__(self, build: Callable[[], RolloutWorker]) -> None:
        self._worker = build()

    def run(self, job: Job) -> Trajectory:
        return self._worker.run(job)

    def load(self, weights: Mapping[str, Any], version: int) -> int:
        self._worker.load(weights, version)
        return version

    def waiting(self) -> list[Waiting]:
        return self._worker.waiting()

    def stats(self) -> dict[str, float]:
        return self._worker.stats()

    def close(self) -> None:
        self._worker.close()


class RayPool:
    """Ray actors that each run `concurrency` episodes."""

    def __init__(
        self,
        build: Callable[[], RolloutWorker],
        *,
        workers: int,
        concurrency: int,
        num_gpus: float = 0.0,
        notify: Callable[[str], None] = print,
    ) -> None:
        """Start the actors and wait until they are ready.

        Raises:
            WorkerLost: when they do not start within 180 s, or die while starting.
        """
        self._build = build
        self._concurrency = concurrency
        self._notify = notify
        # A threaded actor; the extra threads answer `load`, `waiting` and `stats` at any time.
        self._actor_class = ray.remote(WorkerActor).options(
            num_cpus=1, num_gpus=num_gpus, max_concurrency=concurrency + 4, max_restarts=0
        )
        self._actors: list[Any] = [self._actor_class.remote(build) for _ in range(workers)]
        self._queue: deque[tuple[Job, int]] = deque()
        self._running: dict[Any, tuple[Job, int, int]] = {}
        self._weights: tuple[Any, int] | None = None
        self.restarts = 0
        self._ready(range(workers))

    def _ready(self, indices: Iterable[int]) -> None:
        try:
            ray.get([self._actors[i].stats.remote() for i in indices], timeout=START_TIMEOUT_S)
        except RayError as error:
            raise WorkerLost(f"rollout workers did not start: {_first_line(error)}") from error

    def submit(self, job: Job) -> None:
        """Queue an episode."""
        self._queue.append((job, 0))
        self._dispatch()

    def _dispatch(self) -> None:
        loads = [0] * len(self._actors)
        for _, _, index in self._running.values():
            loads[index] += 1
        while self._queue and min(loads) < self._concurrency:
            index = loads.index(min(loads))
            job, attempt = self._queue.popleft()
            self._running[self._actors[index].run.remote(job)] = (job, attempt, index)
            loads[index] += 1

    def wait(self, timeout: float) -> Trajectory | None:
        """The next finished trajectory, or None after `timeout` seconds."""
        if not self._running:
            return None
        done, _ = ray.wait(list(self._running), num_returns=1, timeout=timeout)
        if not done:
            return None
        job, attempt, index = self._running.pop(done[0])
        try:
            result = ray.get(done[0])
        except RayActorError as error:
            return self._lost(job, attempt, index, error)
        self._dispatch()
        return result

    def _lost(self, job: Job, attempt: int, index: int, error: Exception) -> Trajectory | None:
        """Replace the actor, queue its jobs again; give a job up after three attempts."""
        lost = [(job, attempt)]
        for ref, (other, tries, where) in list(self._running.items()):
            if where == index:
                del self._running[ref]
                lost.append((other, tries))
        self.restarts += 1
        self._notify(
            f"rollout worker {index} died ({_first_line(error)}); "
            f"replacing it and running its {len(lost)} episodes again"
        )
        self._actors[index] = self._actor_class.remote(self._build)
        self._ready([index])
        if self._weights is not None:
            self._load_on([index])
        self._queue.extendleft((j, tries + 1) for j, tries in lost[1:])
        if attempt + 1 < MAX_ATTEMPTS:
            self._queue.appendleft((job, attempt + 1))
            self._dispatch()
            return None
        self._dispatch()
        return Trajectory(
            key=job.key,
            task=job.task,
            turns=(),
            final_observation="",
            stop=StopReason.WORKER_LOST,
            error=ErrorRecord(
                boundary="worker", kind=type(error).__name__, message=_first_line(error)
            ),
        )

    def load(self, weights: Mapping[str, Any], version: int) -> None:
        """New weights for every worker; returns when all have loaded them."""
        self._weights = (ray.put(dict(weights)), version)
        self._load_on(range(len(self._actors)))

    def _load_on(self, indices: Iterable[int]) -> None:
        assert self._weights is not None
        reference, version = self._weights
        for index in indices:
            try:
                ray.get(
                    self._actors[index].load.remote(reference, version), timeout=CALL_TIMEOUT_S
                )
            except RayActorError:
                self.restarts += 1
                self._notify(f"rollout worker {index} died; replacing it")
                self._actors[index] = self._actor_class.remote(self._build)
                self._ready([index])
                ray.get(
                    self._actors[index].load.remote(reference, version), timeout=CALL_TIMEOUT_S
                )

    def waiting(self) -> list[Waiting]:
        """Who waits for what, over all workers that answer."""
        refs = [actor.waiting.remote() for actor in self._actors]
        done, _ = ray.wait(refs, num_returns=len(refs), timeout=5.0)
        report: list[Waiting] = []
        for ref in done:
            try:
                report += ray.get(ref)
            except RayError:
                continue
        return sorted(report, key=lambda w: -w.seconds)

    def stats(self) -> dict[str, float]:
        """Counters, added up over the workers."""
        total: dict[str, float] = {}
        try:
            parts = ray.get([a.stats.remote() for a in self._actors], timeout=CALL_TIMEOUT_S)
        except RayError:
            return total
        for part in parts:
            for name, value in part.items():
                total[name] = total.get(name, 0.0) + value
        return total

    def close(self) -> None:
        """Kill the actors. May be called twice."""
        for actor in self._actors:
            ray.kill(actor)
        self._actors = []


def _first_line(error: BaseException) -> str:
    text = str(error).strip() or type(error).__name__
    return text.splitlines()[0][:200]
