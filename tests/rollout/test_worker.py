"""Many episodes at once. Whatever blocks here is an event that is set before the test ends."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from rlagents.errors import ConfigError
from rlagents.rollout import worker as worker_module
from rlagents.rollout.pool import LocalPool
from rlagents.rollout.worker import RolloutWorker, Waiting
from rlagents.types import StopReason, Task, Trajectory
from tests.rollout.toys import LIMITS, Mute, Parrot, Script, job, key, worker

PATIENCE_S = 30.0
"""For what must happen: a test that waits this long has failed."""


class Gate:
    """Where an environment hangs: `reached` is set when it does, `open` lets it go on."""

    def __init__(self) -> None:
        self.reached = threading.Event()
        self.open = threading.Event()

    def pass_through(self, *_: Any) -> None:
        self.reached.set()
        self.open.wait()


@pytest.fixture
def gate() -> Iterator[Gate]:
    made = Gate()
    yield made
    made.open.set()


def collect(pool: LocalPool, count: int) -> list[Trajectory]:
    found = []
    for _ in range(count):
        trajectory = pool.wait(PATIENCE_S)
        assert trajectory is not None, "an episode is missing"
        found.append(trajectory)
    return found


def thread_of(episode: object) -> threading.Thread | None:
    names = {thread.name: thread for thread in threading.enumerate()}
    return names.get(f"episode {episode}")


def hang_in(call: str, gate: Gate) -> Callable[[Task], Any]:
    def reset() -> tuple[str, dict[str, Any]]:
        gate.pass_through()
        return "a", {}

    def make(task: Task) -> Script:
        if call == "make":
            gate.pass_through()
        return Script(
            reset=reset if call == "reset" else None,
            step=gate.pass_through if call == "step" else None,
            close=gate.pass_through if call == "close" else None,
        )

    return make


@pytest.mark.parametrize(
    ("call", "name"), [("make", "env.reset"), ("reset", "env.reset"), ("step", "env.step")]
)
def test_a_call_that_hangs_ends_one_episode_and_frees_its_thread(
    call: str, name: str, gate: Gate
) -> None:
    sampler = Parrot()
    limits = dataclasses.replace(LIMITS, env_timeout_s=0.05)
    trajectory = worker(hang_in(call, gate), sampler, limits=limits).run(job())
    assert trajectory.stop is StopReason.ENVIRONMENT_TIMEOUT
    assert trajectory.error and trajectory.error.message.startswith(f"{name} did not return")
    assert not trajectory.turns
    # The thread can't be killed. It stops by itself as soon as the call returns.
    left = thread_of(key())
    assert left is not None
    asked = len(sampler.requests)
    gate.open.set()
    left.join(PATIENCE_S)
    assert not left.is_alive()
    assert len(sampler.requests) == asked == (call == "step")


def test_a_close_that_hangs_does_not_void_a_finished_episode(gate: Gate) -> None:
    for limits in ({"env_timeout_s": 0.05}, {"max_seconds": 0.4}):
        made = worker(hang_in("close", gate), limits=dataclasses.replace(LIMITS, **limits))
        trajectory = made.run(job())
        assert trajectory.stop is StopReason.TERMINATED and len(trajectory.turns) == 2


def test_the_wall_clock_limit_ends_a_step_from_outside(gate: Gate) -> None:
    limits = dataclasses.replace(LIMITS, max_seconds=0.05)
    made = worker(lambda task: Script("ab", step=gate.pass_through), limits=limits)
    trajectory = made.run(job())
    assert trajectory.stop is StopReason.TIME_LIMIT and not trajectory.stop.failed


def test_a_sampler_that_never_answers() -> None:
    sampler = Mute()
    limits = dataclasses.replace(LIMITS, sampler_timeout_s=0.05)
    env = Script()
    trajectory = worker(lambda task: env, sampler, limits=limits).run(job())
    assert trajectory.stop is StopReason.SAMPLER_ERROR
    assert trajectory.error and trajectory.error.message == "no answer within 0.05 s"
    assert sampler.released == ["train/0/0/0"] and env.closed == 1


def test_an_actor_that_hangs_is_ended_by_the_watchdog(
    gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker_module, "GRACE_S", 0.0)

    class Stuck:
        def act(self, observation: str) -> None:
            gate.pass_through()

        def close(self) -> None: ...

    limits = dataclasses.replace(LIMITS, sampler_timeout_s=0.05)
    made = worker(lambda task: Script(), limits=limits, make_actor=lambda of, env: Stuck())
    trajectory = made.run(job())
    assert trajectory.stop is StopReason.SAMPLER_ERROR
    assert trajectory.error and trajectory.error.kind == "Timeout"


def test_slow_environments_do_not_hold_up_fast_ones(gate: Gate) -> None:
    slow = {0, 1, 2}

    def make(task: Task) -> Script:
        return Script(step=gate.pass_through if task.kwargs["member"] in slow else None)

    pool = LocalPool(worker(make), concurrency=4)
    for member in range(20):
        pool.submit(job(member, kwargs={"member": member}))
    # With three of four threads blocked, the other seventeen finish.
    first = collect(pool, 17)
    assert {t.key.member for t in first} == set(range(3, 20))
    assert {t.stop for t in first} == {StopReason.TERMINATED}
    assert len(pool.waiting()) == 3
    gate.open.set()
    assert {t.key.member for t in collect(pool, 3)} == slow
    assert pool.waiting() == []
    pool.close()


def test_the_report_names_who_waits_for_what(gate: Gate) -> None:
    mute = Mute()
    made = worker(hang_in("step", gate), limits=LIMITS)
    silent = worker(lambda task: Script(), mute)
    pools = [LocalPool(made, 1), LocalPool(silent, 1)]
    for pool in pools:
        pool.submit(job(7))
    assert gate.reached.wait(PATIENCE_S) and mute.asked.wait(PATIENCE_S)
    reports = [pool.waiting() for pool in pools]
    assert [[w.waits_for for w in report] for report in reports] == [["env.step"], ["sampler"]]
    assert reports[0][0].key == key(7) and reports[0][0].turn == 0
    line = Waiting(key=key(7), turn=3, waits_for="env.step", seconds=61.4)
    assert str(line) == "train/0/0/7 turn 3 waits for env.step since 61 s"


def test_the_longest_wait_comes_first(gate: Gate) -> None:
    made = worker(hang_in("step", gate))
    reached = []
    for member in range(3):
        gate.reached.clear()
        threading.Thread(target=made.run, args=(job(member),), daemon=True).start()
        assert gate.reached.wait(PATIENCE_S)
        reached.append(member)
    assert [w.key.member for w in made.waiting()] == reached


def test_a_mistake_of_the_user_comes_out_of_wait() -> None:
    def make_actor(of: Any, env: Any) -> Any:
        raise ConfigError("no scripted policy 'x'")

    pool = LocalPool(worker(lambda task: Script(), make_actor=make_actor), 1)
    pool.submit(job())
    with pytest.raises(ConfigError, match="'x'"):
        pool.wait(PATIENCE_S)
    pool.close()


def test_a_closed_pool_starts_nothing_more(gate: Gate) -> None:
    made: list[int] = []

    def make(task: Task) -> Script:
        made.append(task.kwargs["member"])
        return Script(step=gate.pass_through)

    sampler, before = Parrot(), set(threading.enumerate())
    pool = LocalPool(worker(make, sampler), concurrency=1)
    for member in range(5):
        pool.submit(job(member, kwargs={"member": member}))
    assert gate.reached.wait(PATIENCE_S)
    threads = set(threading.enumerate()) - before
    pool.close()
    pool.close()
    gate.open.set()
    for thread in threads:
        thread.join(PATIENCE_S)
        assert not thread.is_alive()
    assert made == [0]
    assert sampler.closed >= 1


def test_new_weights_reach_the_sampler_and_the_turns() -> None:
    pool = LocalPool(worker(lambda task: Script()), 2)
    pool.submit(job(0))
    (before,) = collect(pool, 1)
    pool.load({}, 3)
    pool.submit(job(1))
    (after,) = collect(pool, 1)
    assert {turn.weights_version for turn in before.turns} == {0}
    assert {turn.weights_version for turn in after.turns} == {3}
    assert pool.stats() == {}
    assert pool.wait(0.01) is None
    pool.close()


def test_a_worker_for_scripts_has_no_sampler() -> None:
    made = RolloutWorker(
        sampler=None,
        make_env=lambda task: Script(),
        make_actor=lambda of, env: pytest.fail("not made"),
        limits=dataclasses.replace(LIMITS, max_turns=0),
    )
    made.load({}, 1)
    assert made.stats() == {} and made.waiting() == []
    made.close()
