"""Episodes that stand still between two turns, and go on as if nothing had happened."""

from __future__ import annotations

import dataclasses
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from rlagents.rollout.episode import AT_THE_GATE, Limits
from rlagents.rollout.gate import Gate
from rlagents.rollout.pool import LocalPool
from rlagents.rollout.worker import Job, Played, RolloutWorker
from rlagents.types import StopReason, Task, Trajectory
from tests.rollout.toys import LIMITS, Mute, Parrot, Script, job, progress, token_ids, worker

PATIENCE_S = 30.0
"""For what must happen: a test that waits this long has failed."""


class Held:
    """Environments whose second step waits: `reached` counts those there, `go` lets them on."""

    def __init__(self, observations: str = "abcd") -> None:
        self.observations = observations
        self.reached = threading.Semaphore(0)
        self.go = threading.Event()
        self.made: list[Script] = []

    def make(self, task: Task) -> Script:
        def step(number: int) -> None:
            if number == 1 and not task.kwargs.get("free"):
                self.reached.release()
                self.go.wait(PATIENCE_S)

        self.made.append(Script(self.observations, step=step))
        return self.made[-1]

    def wait_for(self, count: int) -> None:
        for _ in range(count):
            assert self.reached.acquire(timeout=PATIENCE_S)


@pytest.fixture
def held() -> Iterator[Held]:
    made = Held()
    yield made
    made.go.set()


def until(condition: Callable[[], bool]) -> None:
    """Wait until it holds, without a lock that would tell."""
    end = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < end, "it never came to hold"
        threading.Event().wait(0.002)


def at_the_gate(of: RolloutWorker, count: int) -> Callable[[], bool]:
    return lambda: [p.waits_for for p in of._playing()].count(AT_THE_GATE) == count


def wait(pool: LocalPool, count: int) -> dict[Any, Trajectory]:
    found = {}
    for _ in range(count):
        trajectory = pool.wait(PATIENCE_S)
        assert trajectory is not None
        found[trajectory.key] = trajectory
    return found


def test_a_paused_episode_ends_its_turn_and_no_more(held: Held) -> None:
    sampler = Parrot()
    made = worker(held.make, sampler)
    pool = LocalPool(made, 2)
    for member in range(2):
        pool.submit(job(member))
    held.wait_for(2)
    pool.pause()
    held.go.set()
    until(at_the_gate(made, 2))
    assert len(sampler.requests) == 4 and pool.wait(0.0) is None
    assert [len(env.actions) for env in held.made] == [2, 2]
    assert pool.waiting() == []  # nobody is kept waiting
    assert pool.played() == Played(4, 4 * len(sampler.ids))
    pool.resume()
    ended = wait(pool, 2)
    assert {len(t.turns) for t in ended.values()} == {3}
    # Nothing tells them from ones that were never paused.
    straight = worker(lambda task: Script("abcd")).run(job(1))
    assert token_ids(ended[job(1).key]) == token_ids(straight)
    assert pool.played() == Played(6, 6 * len(sampler.ids))
    pool.close()


def test_what_comes_later_plays_meanwhile_and_queued_jobs_wait(held: Held) -> None:
    pool = LocalPool(worker(held.make), 1)
    for member in range(3):  # one plays, two are queued
        pool.submit(job(member))
    held.wait_for(1)
    pool.pause()
    for member in range(10, 14):
        pool.submit(job(member, kwargs={"free": True}))
    assert {key.member for key in wait(pool, 4)} == {10, 11, 12, 13}
    assert len(held.made) == 5
    held.go.set()
    pool.resume()
    assert {key.member for key in wait(pool, 3)} == {0, 1, 2}
    pool.close()


def test_what_ends_while_it_is_paused_is_handed_out_later() -> None:
    held = Held("abc")  # the second step is the last
    pool = LocalPool(worker(held.make), 2)
    pool.submit(job(0))
    held.wait_for(1)
    pool.pause()
    held.go.set()
    until(lambda: not pool._paused)
    assert pool.wait(0.0) is None
    (snapshot,) = pool.snapshot()
    assert (snapshot.stop, len(snapshot.turns)) == (StopReason.PAUSED, 2)
    pool.resume()
    (ended,) = wait(pool, 1).values()
    assert ended.stop is StopReason.TERMINATED and pool.snapshot() == []
    pool.close()


def test_a_snapshot_has_everything_that_is_not_over(held: Held) -> None:
    made = worker(held.make)
    pool = LocalPool(made, 2)
    recorded = made.run(job(9, kwargs={"free": True})).turns[:2]
    todo = [job(0), job(1), job(2), dataclasses.replace(job(3), recorded=recorded)]
    for each in todo:
        pool.submit(each)
    held.wait_for(2)
    pool.pause()
    held.go.set()
    until(at_the_gate(made, 2))
    found = {t.key.member: t for t in pool.snapshot()}
    assert {member: len(t.turns) for member, t in found.items()} == {0: 2, 1: 2, 2: 0, 3: 2}
    assert {t.stop for t in found.values()} == {StopReason.PAUSED}
    assert not StopReason.PAUSED.failed and not StopReason.PAUSED.cut
    assert found[0].final_observation == "c" and found[3].turns == recorded
    assert {t.key: len(t.turns) for t in made.snapshot({job(0).key: 1})} == {
        job(0).key: 1,
        job(1).key: 2,
    }
    pool.close()


def test_a_job_that_is_paused_before_it_begins_does_not_begin() -> None:
    sampler = Parrot()
    made = worker(lambda task: Script(), sampler)
    made.pause({job().key})
    results: list[Trajectory] = []
    thread = threading.Thread(target=lambda: results.append(made.run(job())), daemon=True)
    thread.start()
    until(at_the_gate(made, 1))
    assert sampler.requests == []
    made.resume()
    thread.join(PATIENCE_S)
    assert len(results[0].turns) == 2


def test_time_at_the_gate_counts_for_nothing() -> None:
    episode = progress()
    episode.gate.close()
    started = episode.started

    def sample() -> None:
        with episode.sampling(60):
            pass

    thread = threading.Thread(target=sample, daemon=True)
    thread.start()
    until(lambda: episode.waits_for == AT_THE_GATE)
    arrived = time.monotonic()
    until(lambda: time.monotonic() > arrived)
    left = time.monotonic()
    episode.gate.open()
    thread.join(PATIENCE_S)
    assert episode.started - started >= left - arrived > 0


def test_a_load_waits_for_all_paused_turns_together_no_longer_than_for_one() -> None:
    limit = 0.1
    limits = dataclasses.replace(LIMITS, sampler_timeout_s=limit)
    made = worker(lambda task: Script(), Mute(), limits=limits)
    granted: list[float] = []

    class Stuck(Gate):
        def settle(self, timeout: float) -> None:
            granted.append(timeout)
            threading.Event().wait(timeout)

    for member in range(3):
        episode = progress(member)
        episode.gate = Stuck()
        made._live[episode.key] = episode
    made.load({}, 1)
    assert len(granted) == 3 and limit / 2 < granted[0] <= limit
    assert max(granted[1:]) < limit / 2


def test_the_watchdog_leaves_a_paused_episode_alone() -> None:
    made = worker(lambda task: Script())
    made.pause({job().key})
    thread = threading.Thread(target=made.run, args=(job(),), daemon=True)
    thread.start()
    until(at_the_gate(made, 1))
    (episode,) = made._playing()
    nothing = Limits(max_turns=0, max_tokens=0, max_seconds=0, env_timeout_s=0, sampler_timeout_s=0)
    assert made._overdue(episode, nothing) is None and episode.outcome is None
    made.resume()
    thread.join(PATIENCE_S)
    assert episode.outcome is not None and episode.outcome.stop is StopReason.TERMINATED


def test_weights_wait_for_the_turn_that_a_paused_episode_is_in() -> None:
    mute = Mute()
    made = worker(lambda task: Script(), mute)
    threading.Thread(target=made.run, args=(job(),), daemon=True).start()
    assert mute.asked.wait(PATIENCE_S)
    made.pause({job().key})
    (episode,) = made._playing()
    loading = threading.Thread(target=made.load, args=({}, 5), daemon=True)
    loading.start()
    loading.join(0.05)
    assert mute.version == 0 and loading.is_alive()
    mute.answer()
    loading.join(PATIENCE_S)
    assert mute.version == 5
    made.resume()
    mute.answer()
    until(lambda: episode.outcome is not None)
    assert [t.weights_version for t in episode.turns] == [0, 5]


def test_a_gate() -> None:
    gate = Gate()
    with gate.through():
        gate.settle(0)  # open: nobody waits for this turn
        gate.close()
        gate.settle(0.001)  # it does not end: no longer than that
    gate.settle(PATIENCE_S)
    gate.open()
    with pytest.raises(KeyError), gate.through():
        raise KeyError
    gate.close()
    gate.settle(PATIENCE_S)


def test_closing_ends_what_is_paused() -> None:
    envs: list[Script] = []

    def make(task: Task) -> Script:
        envs.append(Script("abcdefgh"))
        return envs[-1]

    made = worker(make)
    pool = LocalPool(made, 1)
    made.pause({job().key})
    pool.submit(job())
    until(at_the_gate(made, 1))
    pool.close()
    until(lambda: bool(envs) and envs[0].closed == 1)


def test_jobs_know_what_is_recorded_of_them() -> None:
    turns = worker(lambda task: Script()).run(job()).turns
    paused = Job(key=job().key, task=job().task, sampling=job().sampling, recorded=turns).paused()
    assert (paused.turns, paused.stop, paused.key) == (turns, StopReason.PAUSED, job().key)
