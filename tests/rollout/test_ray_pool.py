"""Episodes in real Ray actors: two of them, shared by all tests of this file."""

from __future__ import annotations

import functools
import logging
import os
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import ray

from rlagents.build import make_worker, sampling_of
from rlagents.config import (
    ContextSection,
    EnvSection,
    PolicySection,
    RolloutSection,
    RunConfig,
    TinySection,
)
from rlagents.data.tasks import TaskSource
from rlagents.errors import ConfigError, SamplerError, WorkerLost
from rlagents.policy import models
from rlagents.rollout.pool import LocalPool, Pool
from rlagents.rollout.ray_pool import CALL_TIMEOUT_S, MAX_ATTEMPTS, PLAYED_EVERY_S, RayPool
from rlagents.rollout.worker import Job
from rlagents.types import EpisodeKey, StopReason, Trajectory
from tests.rollout.poison import refuse, scripted_worker
from tests.rollout.toys import token_ids

ENV = "tests.rollout.poison:Walk-v0"
CONCURRENCY = 4
CONFIG = RunConfig(
    env=EnvSection(id=ENV),
    policy=PolicySection(tiny=TinySection(layers=1, width=32, heads=2), max_tokens=6),
    context=ContextSection(window=48, pinned_turns=1, overlap=12),
    rollout=RolloutSection(concurrency=CONCURRENCY, deterministic=True, max_turns=8),
)
TASKS = TaskSource(CONFIG.env, CONFIG.run.seed)
VICTIM = TASKS.train(0, 1).seed
MINE = """
import gymnasium

class Mine(gymnasium.Env):
    def reset(self, *, seed=None, options=None):
        return "mine", {}

    def step(self, action):
        return "done", 1.0, True, False, {}

gymnasium.register(id="Mine-v0", entry_point=Mine)
"""


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RayPool]:
    """Ray starts before the user's folder is on the path: the pool itself must hand it on."""
    ray.init(num_cpus=3, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    folder = tmp_path_factory.mktemp("mine")
    (folder / "rlagents_test_mine.py").write_text(MINE, encoding="utf-8")
    sys.path.append(str(folder))
    made = RayPool(
        functools.partial(make_worker, CONFIG),
        workers=2,
        concurrency=CONCURRENCY,
        notify=lambda line: None,
    )
    yield made
    made.close()
    made.close()
    sys.path.remove(str(folder))
    ray.shutdown()


@pytest.fixture(scope="module")
def expected() -> dict[EpisodeKey, Trajectory]:
    """What the same episodes are without Ray."""
    local = LocalPool(make_worker(CONFIG), CONCURRENCY)
    local.load(weights(0), 1)
    results = run(local, jobs())
    local.close()
    return {t.key: t for t in results}


def weights(seed: int) -> dict[str, Any]:
    model, _ = models.load(CONFIG.policy, seed=seed, window=CONFIG.context.window)
    return dict(model.state_dict())


def jobs(**kwargs: Any) -> list[Job]:
    """Four members of each of three tasks; `kwargs` go to the environment."""
    return [
        Job(
            key=EpisodeKey(stream="train", iteration=0, group=group, member=member),
            task=TaskSource(EnvSection(id=ENV, kwargs=kwargs), CONFIG.run.seed).train(0, group),
            sampling=sampling_of(CONFIG),
        )
        for group in range(3)
        for member in range(4)
    ]


def run(pool: Pool, todo: list[Job], count: int | None = None) -> list[Trajectory]:
    """What comes of these, or the next `count` results."""
    for job in todo:
        pool.submit(job)
    count = len(todo) if count is None else count
    found: list[Trajectory] = []
    for _ in range(1000):
        if len(found) == count:
            return found
        trajectory = pool.wait(1.0)
        if trajectory is not None:
            found.append(trajectory)
    raise AssertionError(f"only {len(found)} of {count} came back")


def standing(pool: RayPool, count: int) -> dict[EpisodeKey, Trajectory]:
    """Snapshots of paused episodes, once `count` of them have played as far as they do."""
    for _ in range(2000):
        found = {t.key: t for t in pool.snapshot()}
        if sum(len(t.turns) >= 2 for t in found.values()) == count:
            return found
        threading.Event().wait(0.01)
    raise AssertionError("they never came to a stop")


def ids(trajectories: list[Trajectory]) -> dict[EpisodeKey, Any]:
    assert len({t.key for t in trajectories}) == len(trajectories)
    return {t.key: token_ids(t) for t in trajectories}


def test_the_same_seeds_give_the_same_trajectories_as_in_process(
    pool: RayPool, expected: dict[EpisodeKey, Trajectory]
) -> None:
    pool.load(weights(0), 1)
    results = run(pool, jobs())
    assert ids(results) == ids(list(expected.values()))
    for t in results:
        assert t.stop is StopReason.TERMINATED and len(t.turns) == 6 and t.contexts > 1
        assert {turn.weights_version for turn in t.turns} == {1}
        logprobs = [turn.behaviour_logprobs.tolist() for turn in t.turns]
        assert logprobs == [turn.behaviour_logprobs.tolist() for turn in expected[t.key].turns]
    assert pool.stats()["sampled_tokens"] == sum(t.sampled_tokens for t in results)
    assert pool.waiting() == []


def test_a_worker_killed_in_the_middle_changes_nothing(
    pool: RayPool, expected: dict[EpisodeKey, Trajectory], tmp_path: Path
) -> None:
    marker, before = tmp_path / "killed", pool.restarts
    pool.load(weights(0), 1)
    results = run(pool, jobs(marker=str(marker), victim=VICTIM))
    killed = marker.read_text(encoding="utf-8").split()
    assert len(killed) in (1, 2)  # two workers may come there at once
    assert str(os.getpid()) not in killed
    assert pool.restarts - before == len(killed)
    assert ids(results) == ids(list(expected.values()))
    # The new worker has the weights that the others have.
    assert {turn.weights_version for t in results for turn in t.turns} == {1}
    assert pool.wait(0.0) is None


def test_new_weights_are_sampled_from_and_recorded(
    pool: RayPool, expected: dict[EpisodeKey, Trajectory]
) -> None:
    pool.load(weights(1), 7)
    results = run(pool, jobs())
    assert {turn.weights_version for t in results for turn in t.turns} == {7}
    assert ids(results) != ids(list(expected.values()))
    with pytest.raises(SamplerError):
        pool.load({"nothing": weights(0)["model.norm.weight"]}, 8)


def test_a_module_in_the_users_folder_is_found_by_the_workers(pool: RayPool) -> None:
    task = TaskSource(EnvSection(id="rlagents_test_mine:Mine-v0"), 0).train(0, 0)
    key = EpisodeKey(stream="train", iteration=0, group=0, member=0)
    (result,) = run(pool, [Job(key=key, task=task, sampling=sampling_of(CONFIG))])
    assert result.error is None
    assert result.stop is StopReason.TERMINATED and result.final_observation == "done"


def test_an_environment_nobody_knows_is_one_failed_episode(pool: RayPool) -> None:
    task = TaskSource(EnvSection(id="Nowhere-v0"), 0).train(0, 0)
    key = EpisodeKey(stream="train", iteration=0, group=0, member=0)
    (result,) = run(pool, [Job(key=key, task=task, sampling=sampling_of(CONFIG))])
    assert result.stop is StopReason.ENVIRONMENT_ERROR
    assert result.error and "Nowhere" in result.error.message


def test_a_mistake_of_the_user_comes_out_as_itself(pool: RayPool) -> None:
    key = EpisodeKey(stream="eval", iteration=0, group=0, member=0)
    job = Job(
        key=key, task=TASKS.train(0, 0), sampling=sampling_of(CONFIG), player="scripted:oracle"
    )
    pool.submit(job)
    with pytest.raises(ConfigError, match="no scripted policy 'oracle'") as caught:
        for _ in range(100):
            pool.wait(1.0)
    assert "\n" not in str(caught.value)
    assert pool.wait(0.0) is None


def test_workers_that_can_not_start_say_why(pool: RayPool) -> None:
    with pytest.raises(WorkerLost) as caught:
        RayPool(refuse, workers=1, concurrency=1, notify=lambda line: None)
    assert str(caught.value).startswith("rollout workers did not start: ")
    assert str(caught.value).endswith("policy.model: no such thing")


def test_an_episode_that_always_kills_its_worker_is_given_up(pool: RayPool, tmp_path: Path) -> None:
    said: list[str] = []
    made = RayPool(scripted_worker, workers=1, concurrency=1, notify=said.append)
    marker = tmp_path / "killed"
    todo = jobs(marker=str(marker), victim=VICTIM, always=True)
    poisoned, healthy = todo[4], todo[0]
    results = {t.key: t for t in run(made, [poisoned, healthy])}
    made.close()
    lost = results[poisoned.key]
    assert lost.stop is StopReason.WORKER_LOST and lost.stop.failed
    assert lost.error and lost.error.boundary == "worker"
    assert results[healthy.key].stop is StopReason.TERMINATED
    assert len(marker.read_text(encoding="utf-8").split()) == MAX_ATTEMPTS
    assert made.restarts == len(said) == MAX_ATTEMPTS
    assert "running 0 of its 1 episodes again" in said[-1]


def test_a_load_may_take_as_long_as_a_turn_beyond_the_limit_of_a_call(pool: RayPool) -> None:
    # As if a turn's limit were negative by as much: there is no time left, for a load alone.
    made = RayPool(scripted_worker, workers=1, concurrency=1, sampler_timeout_s=-CALL_TIMEOUT_S)
    made.pause()
    made.resume()
    with pytest.raises(WorkerLost, match=r"did not answer \(load\) within 0 s"):
        made.load({}, 1)
    made.close()


# --- paused -------------------------------------------------------------------------------------


def paused(pool: RayPool, barrier: Path, **kwargs: Any) -> dict[EpisodeKey, Trajectory]:
    """Pause twelve episodes, of which eight play, in the middle of their second turn."""
    for job in jobs(barrier=str(barrier), **kwargs):
        pool.submit(job)
    for _ in range(2000):
        stepping = [w for w in pool.waiting() if w.waits_for == "env.step" and w.turn == 1]
        if len(stepping) == 2 * CONCURRENCY:
            break
        threading.Event().wait(0.01)
    pool.pause()
    barrier.touch()
    return standing(pool, 2 * CONCURRENCY)


def test_paused_episodes_stand_still_and_others_play(
    pool: RayPool, expected: dict[EpisodeKey, Trajectory], tmp_path: Path
) -> None:
    pool.load(weights(0), 1)
    before = pool.played()
    found = paused(pool, tmp_path / "go")
    assert found.keys() == expected.keys()
    assert {t.stop for t in found.values()} == {StopReason.PAUSED}
    assert sorted(len(t.turns) for t in found.values()) == [0] * 4 + [2] * 8
    for key, t in found.items():
        assert token_ids(t) == token_ids(expected[key])[: len(t.turns)]
    assert pool.waiting() == [] and pool.wait(0.0) is None
    # As many others have room meanwhile, under other weights.
    pool.load(weights(1), 2)
    others = [replace(j, key=replace(j.key, stream="eval/rl/sampled")) for j in jobs()]
    for t in run(pool, others):
        assert t.stop is StopReason.TERMINATED
        assert {turn.weights_version for turn in t.turns} == {2}
    pool.load(weights(0), 1)
    pool.resume()
    results = run(pool, [], count=12)
    assert ids(results) == ids(list(expected.values()))
    assert pool.snapshot() == []
    threading.Event().wait(PLAYED_EVERY_S)
    turns, tokens = pool.played()
    assert turns - before.turns == 24 * 6 and tokens > before.tokens


def test_a_worker_that_dies_with_paused_episodes_loses_none(
    pool: RayPool, expected: dict[EpisodeKey, Trajectory], tmp_path: Path
) -> None:
    pool.load(weights(0), 1)
    found, before = paused(pool, tmp_path / "go"), pool.restarts
    ray.kill(pool._actors[0])
    pool.load(weights(1), 2)  # who comes after it gets these
    assert pool.restarts == before + 1
    assert pool.snapshot() and pool.wait(0.0) is None
    pool.resume()
    results = run(pool, [], count=12)
    assert {t.key for t in results} == expected.keys()
    for t in results:
        # What was played under the first weights is what it was; the lost ones were played again.
        known = found[t.key].turns
        assert token_ids(t)[: len(known)] == token_ids(expected[t.key])[: len(known)]
        versions = [turn.weights_version for turn in t.turns]
        assert versions == [1] * len(known) + [2] * (6 - len(known))
        assert [turn.behaviour_logprobs.tolist() for turn in t.turns[: len(known)]] == [
            turn.behaviour_logprobs.tolist() for turn in known
        ]
