"""Episodes in Ray actors.

Ray holds no truth: a lost actor is replaced and its jobs run again under the same keys, which
give the same seeds.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, RayActorError, RayError, RayTaskError

from rlagents.errors import WorkerLost
from rlagents.rollout.worker import Job, RolloutWorker, Waiting
from rlagents.types import ErrorRecord, StopReason, Trajectory

START_TIMEOUT_S = 180.0
CALL_TIMEOUT_S = 120.0
MAX_ATTEMPTS = 3


class WorkerActor:
    """A `RolloutWorker` behind Ray: the same calls, in a process of its own."""

    def __init__(self, build: Callable[[], RolloutWorker], search_path: Sequence[str]) -> None:
        """Modules of environments are found where the driver finds them."""
        sys.path += [path for path in search_path if path not in sys.path]
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
        self._queue: deque[tuple[Job, int]] = deque()
        self._running: dict[Any, tuple[Job, int, int]] = {}
        """By the reference to its result: the job, earlier attempts, index of its actor."""
        self._given_up: deque[Trajectory] = deque()
        self._weights: tuple[Any, int] | None = None
        self.restarts = 0
        cpus = ray.cluster_resources().get("CPU", 0)
        if workers > cpus:
            notify(f"rollout.workers: {workers} need a CPU each and Ray has {cpus:g}")
        self._actors: list[Any] = [self._start() for _ in range(workers)]
        self._ready(range(workers))

    def _start(self) -> Any:
        search_path = tuple(os.path.abspath(path) for path in sys.path)
        return self._actor_class.remote(self._build, search_path)

    def _ready(self, indices: Iterable[int]) -> None:
        try:
            ray.get([self._actors[i].stats.remote() for i in indices], timeout=START_TIMEOUT_S)
        except RayError as error:
            raise WorkerLost(f"rollout workers did not start: {_reason(error)}") from error

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
        """The next finished trajectory, or None after `timeout` seconds or a worker's death.

        Raises:
            BaseException: what `RolloutWorker.run` raised in the worker.
        """
        if not self._given_up:
            if not self._running:
                return None
            done, _ = ray.wait(list(self._running), num_returns=1, timeout=timeout)
            if not done:
                return None
            try:
                result = ray.get(done[0], timeout=CALL_TIMEOUT_S)
            except RayTaskError as error:
                del self._running[done[0]]
                raise error.cause from error
            except RayError as error:
                self._replace(self._running[done[0]][2], error)
            else:
                del self._running[done[0]]
                self._dispatch()
                return result
        return self._given_up.popleft() if self._given_up else None

    def _replace(self, index: int, error: RayError) -> None:
        """A new actor for a lost one. Its jobs run again, those that had three attempts fail.

        Raises:
            WorkerLost: when the new actor does not come up.
        """
        lost = [(ref, value) for ref, value in self._running.items() if value[2] == index]
        again: list[tuple[Job, int]] = []
        for ref, (job, attempt, _) in lost:
            del self._running[ref]
            if attempt + 1 < MAX_ATTEMPTS:
                again.append((job, attempt + 1))
            else:
                self._given_up.append(_lost(job, error))
        self.restarts += 1
        self._notify(
            f"rollout worker {index} died ({_reason(error)}); "
            f"replacing it and running {len(again)} of its {len(lost)} episodes again"
        )
        with contextlib.suppress(RayError):
            ray.kill(self._actors[index])  # it may only be out of reach
        self._actors[index] = self._start()
        self._ready([index])
        for _, second in self._send_weights([index]):
            raise WorkerLost(f"rollout worker {index} died again: {_reason(second)}") from second
        self._queue.extendleft(reversed(again))
        self._dispatch()

    def load(self, weights: Mapping[str, Any], version: int) -> None:
        """New weights for every worker; returns when all have loaded them.

        Raises:
            WorkerLost: when a worker does not load them within 120 s, or can't be replaced.
            SamplerError: when they do not fit the policy.
        """
        self._weights = (ray.put(dict(weights)), version)
        for index, error in self._send_weights(range(len(self._actors))):
            self._replace(index, error)

    def _send_weights(self, indices: Iterable[int]) -> list[tuple[int, RayError]]:
        """Send the newest weights to all at once, then wait for each. Returns those that died."""
        if self._weights is None:
            return []
        reference, version = self._weights
        sent = [(i, self._actors[i].load.remote(reference, version)) for i in indices]
        died: list[tuple[int, RayError]] = []
        for index, answer in sent:
            try:
                ray.get(answer, timeout=CALL_TIMEOUT_S)
            except RayActorError as error:
                died.append((index, error))
            except RayTaskError as error:
                raise error.cause from error
            except GetTimeoutError as error:
                raise WorkerLost(
                    f"rollout worker {index} did not load weights within {CALL_TIMEOUT_S:g} s"
                ) from error
        return died

    def waiting(self) -> list[Waiting]:
        """Who waits for what, over all workers that answer."""
        refs = [actor.waiting.remote() for actor in self._actors]
        done, _ = ray.wait(refs, num_returns=len(refs), timeout=5.0)
        report: list[Waiting] = []
        for ref in done:
            with contextlib.suppress(RayError):
                report += ray.get(ref)
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


def _lost(job: Job, error: RayError) -> Trajectory:
    return Trajectory(
        key=job.key,
        task=job.task,
        turns=(),
        final_observation="",
        stop=StopReason.WORKER_LOST,
        error=ErrorRecord(boundary="worker", kind=type(error).__name__, message=_reason(error)),
    )


def _reason(error: RayError) -> str:
    """One line. Where an actor's `__init__` raised, that is the last line of Ray's traceback."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[-1 if "creation task" in lines[0] else 0].strip()[:300]
