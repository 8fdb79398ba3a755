"""Episodes in Ray actors.

Ray holds no truth: a lost actor is replaced and its jobs run again under the same keys, which
give the same seeds; those of which there is a snapshot, from there on.
"""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections import deque
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, RayActorError, RayError, RayTaskError

from rlagents.errors import WorkerLost
from rlagents.rollout.worker import Job, Played, RolloutWorker, Waiting
from rlagents.types import EpisodeKey, ErrorRecord, StopReason, Trajectory

START_TIMEOUT_S = 180.0
CALL_TIMEOUT_S = 120.0
MAX_ATTEMPTS = 3
PLAYED_EVERY_S = 0.1
"""Workers are asked for what they have played no more often than this."""


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

    def pause(self, keys: Collection[EpisodeKey]) -> None:
        self._worker.pause(keys)

    def resume(self) -> None:
        self._worker.resume()

    def snapshot(self, known: Mapping[EpisodeKey, int]) -> list[Trajectory]:
        return self._worker.snapshot(known)

    def played(self) -> Played:
        return self._worker.played()

    def waiting(self) -> list[Waiting]:
        return self._worker.waiting()

    def stats(self) -> dict[str, float]:
        return self._worker.stats()

    def close(self) -> None:
        self._worker.close()


@dataclass(slots=True, kw_only=True)
class _Run:
    """A job that an actor has."""

    job: Job
    attempt: int
    """How many times it was lost before."""
    index: int
    """Of the actor."""
    paused: bool = False


class RayPool:
    """Ray actors that each run `concurrency` episodes at once, paused ones not counted."""

    def __init__(
        self,
        build: Callable[[], RolloutWorker],
        *,
        workers: int,
        concurrency: int,
        num_gpus: float = 0.0,
        sampler_timeout_s: float = 0.0,
        notify: Callable[[str], None] = print,
    ) -> None:
        """Start the actors and wait until they are ready.

        Args:
            build: makes a worker, in its process.
            workers: actors.
            concurrency: episodes at once in each.
            num_gpus: of each, for Ray.
            sampler_timeout_s: limit of the workers for a turn; `load` waits for paused ones.
            notify: told what happened to workers.

        Raises:
            WorkerLost: when they do not start within 180 s, or die while starting.
        """
        self._build = build
        self._concurrency = concurrency
        self._notify = notify
        self._load_timeout_s = sampler_timeout_s + CALL_TIMEOUT_S
        # A threaded actor: as many episodes may stand still as play, and the extra threads answer
        # everything else at any time.
        self._actor_class = ray.remote(WorkerActor).options(
            num_cpus=1, num_gpus=num_gpus, max_concurrency=2 * concurrency + 4, max_restarts=0
        )
        self._queue: deque[tuple[Job, int]] = deque()
        self._held: deque[tuple[Job, int]] = deque()
        """Paused jobs that no actor has."""
        self._running: dict[Any, _Run] = {}
        """By the reference to its result."""
        self._given_up: deque[Trajectory] = deque()
        self._late: deque[Trajectory] = deque()
        """Paused ones that were given up."""
        self._played = [Played(0, 0)] * workers
        self._played_before = Played(0, 0)
        """By actors that are gone."""
        self._asked = 0.0
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
        for run in self._running.values():
            loads[run.index] += not run.paused
        while self._queue and min(loads) < self._concurrency:
            index = loads.index(min(loads))
            job, attempt = self._queue.popleft()
            reference = self._actors[index].run.remote(job)
            self._running[reference] = _Run(job=job, attempt=attempt, index=index)
            loads[index] += 1

    def wait(self, timeout: float) -> Trajectory | None:
        """The next finished trajectory, or None after `timeout` seconds or a worker's death.

        Raises:
            BaseException: what `RolloutWorker.run` raised in the worker.
        """
        if not self._given_up:
            playing = [ref for ref, run in self._running.items() if not run.paused]
            if not playing:
                return None
            done, _ = ray.wait(playing, num_returns=1, timeout=timeout)
            if not done:
                return None
            try:
                result = ray.get(done[0], timeout=CALL_TIMEOUT_S)
            except RayTaskError as error:
                del self._running[done[0]]
                raise error.cause from error
            except RayError as error:
                self._replace(self._running[done[0]].index, error)
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
        lost = {ref: run for ref, run in self._running.items() if run.index == index}
        again = [run for run in lost.values() if run.attempt + 1 < MAX_ATTEMPTS]
        for ref, run in lost.items():
            del self._running[ref]
            if run.attempt + 1 == MAX_ATTEMPTS:
                (self._late if run.paused else self._given_up).append(_lost(run.job, error))
        self._played_before = _sum([self._played_before, self._played[index]])
        self._played[index] = Played(0, 0)
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
        for run in reversed(again):
            (self._held if run.paused else self._queue).appendleft((run.job, run.attempt + 1))
        self._dispatch()

    def pause(self) -> None:
        """Stop everything that was submitted so far, each episode before its next turn.

        Raises:
            WorkerLost: as `load`.
        """
        self._held += self._queue
        self._queue.clear()
        self._late += self._given_up
        self._given_up.clear()
        for run in self._running.values():
            run.paused = True
        self._tell("pause", frozenset(run.job.key for run in self._running.values()))

    def resume(self) -> None:
        """Let it go on, before anything that was submitted since.

        Raises:
            WorkerLost: as `load`.
        """
        for run in self._running.values():
            run.paused = False
        self._tell("resume")
        self._queue.extendleft(reversed(self._held))
        self._held.clear()
        self._given_up += self._late
        self._late.clear()
        self._dispatch()

    def snapshot(self) -> list[Trajectory]:
        """What there is of everything that was submitted and not handed out.

        Only turns that are new since the last snapshot come from the workers; an episode whose
        worker is lost later goes on from here.
        """
        known = {run.job.key: len(run.job.recorded) for run in self._running.values()}
        found: dict[EpisodeKey, Trajectory] = {}
        for reference in [actor.snapshot.remote(known) for actor in self._actors]:
            with contextlib.suppress(RayError):  # who notices a death is `wait`
                found |= {t.key: t for t in ray.get(reference, timeout=CALL_TIMEOUT_S)}
        for run in self._running.values():
            if run.job.key in found:
                turns = run.job.recorded + found[run.job.key].turns
                run.job = replace(run.job, recorded=turns)
        jobs = [run.job for run in self._running.values()]
        jobs += [job for job, _ in (*self._held, *self._queue)]
        return [job.paused() for job in jobs]

    def played(self) -> Played:
        """Turns and tokens so far, as the workers last said."""
        if time.monotonic() - self._asked >= PLAYED_EVERY_S:
            references = [actor.played.remote() for actor in self._actors]
            ray.wait(references, num_returns=len(references), timeout=5.0)
            for index, reference in enumerate(references):
                with contextlib.suppress(RayError):
                    self._played[index] = ray.get(reference, timeout=0)
            self._asked = time.monotonic()
        return _sum([self._played_before, *self._played])

    def load(self, weights: Mapping[str, Any], version: int) -> None:
        """New weights for every worker; returns when all have loaded them.

        Raises:
            WorkerLost: when a worker does not load them within 120 s after the limit of a turn, or
                can't be replaced.
            SamplerError: when they do not fit the policy.
        """
        self._weights = (ray.put(dict(weights)), version)
        self._tell("load", *self._weights, timeout_s=self._load_timeout_s)

    def _send_weights(self, indices: Iterable[int]) -> list[tuple[int, RayError]]:
        """Send the newest weights; returns those that died."""
        if self._weights is None:
            return []
        return self._call(indices, "load", *self._weights, timeout_s=self._load_timeout_s)

    def _tell(self, what: str, *arguments: Any, timeout_s: float = CALL_TIMEOUT_S) -> None:
        """Call a method of all actors; those that died are replaced."""
        indices = range(len(self._actors))
        for index, error in self._call(indices, what, *arguments, timeout_s=timeout_s):
            self._replace(index, error)

    def _call(
        self, indices: Iterable[int], what: str, *arguments: Any, timeout_s: float
    ) -> list[tuple[int, RayError]]:
        """Call a method of many actors at once, then wait for each. Returns those that died."""
        sent = [(i, getattr(self._actors[i], what).remote(*arguments)) for i in indices]
        died: list[tuple[int, RayError]] = []
        for index, answer in sent:
            try:
                ray.get(answer, timeout=timeout_s)
            except RayActorError as error:
                died.append((index, error))
            except RayTaskError as error:
                raise error.cause from error
            except GetTimeoutError as error:
                raise WorkerLost(
                    f"rollout worker {index} did not answer ({what}) within {timeout_s:g} s"
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


def _sum(parts: Iterable[Played]) -> Played:
    turns, tokens = zip(*parts, strict=True)
    return Played(sum(turns), sum(tokens))


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
