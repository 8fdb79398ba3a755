from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from rlagents.config import EnvSection
from rlagents.data.tasks import TaskSource
from rlagents.evaluate import Evaluation, env_means, evaluate
from rlagents.rollout.pool import LocalPool
from rlagents.rollout.watch import Watch
from rlagents.scoring.queue import ScoringQueue
from rlagents.scoring.scorer import ReturnScorer, Scorer
from rlagents.types import EpisodeKey, Group, ScoredGroup, Task, Trajectory
from tests.fakes import TASK, trajectory
from tests.rollout.toys import SAMPLING, Script, worker

TASKS = TaskSource(EnvSection(id="toy"), 5)
NUMBERS = {TASKS.held_out(i).seed: i for i in range(99)}
LONG_S = 60.0


def play(task: Task) -> Script:
    """Task number n takes n % 3 + 1 turns, and so pays 1, 3 or 6; every tenth breaks."""
    number = NUMBERS[task.seed]

    def step(at: int) -> Any:
        raise OSError("disk full")

    return Script("abcd"[: number % 3 + 2], step=step if number % 10 == 9 else None)


class Own:
    """Scores 100 + return; its first call of training waits for `free`; fails where told."""

    def __init__(self, breaks: Callable[[int], bool] = lambda number: False) -> None:
        self._breaks = breaks
        self.began, self.free = threading.Event(), threading.Event()

    def score(self, group: Group) -> ScoredGroup:
        key = group.trajectories[0].key
        if key.stream == "train":
            self.began.set()
            assert self.free.wait(LONG_S)
        if self._breaks(key.group):
            raise KeyError("door")
        scored = ReturnScorer().score(group)
        return ScoredGroup(group=group, scores=scored.scores + np.float32(100))


Run = Callable[..., Evaluation]
QUIET = Watch(interval_s=1e9, report=lambda line: None, check=lambda: None)


@pytest.fixture
def run() -> Iterator[Run]:
    """An evaluation over real threads, with a queue of its own unless one is given."""
    pool = LocalPool(worker(play), 3)
    queues: list[ScoringQueue] = []

    def start(
        scorer: Scorer | ScoringQueue, *, episodes: int, concurrency: int = 2, **more: Any
    ) -> Evaluation:
        if not isinstance(scorer, ScoringQueue):
            scorer = ScoringQueue(scorer, concurrency=concurrency, limit=2, timeout_s=LONG_S)
            queues.append(scorer)
        watch = more.pop("watch", QUIET)
        return evaluate(
            pool, TASKS, scorer, SAMPLING, watch, stage="rl", step=7, episodes=episodes, **more
        )

    yield start
    for queue in queues:
        queue.close()
    pool.close()


@pytest.mark.parametrize("concurrency", [0, 2])
def test_means_are_over_the_episodes_with_a_score(run: Run, concurrency: int) -> None:
    got: dict[EpisodeKey, float] = {}
    advanced: list[Trajectory] = []

    def record(trajectory: Trajectory, score: float) -> None:
        got[trajectory.key] = score

    result = run(
        Own(), episodes=10, concurrency=concurrency, record=record, advance=advanced.append
    )
    # tasks 0..8: 1, 2, 3, 1, 2, 3, 1, 2, 3 turns; returns 1, 3, 6, ...; task 9 breaks
    assert (result.episodes, result.failed, result.turns_mean) == (9, 1, 2.0)
    assert result.score_mean == pytest.approx(100 + 30 / 9)
    assert result.score_ci95 is not None and sum(result.score_ci95) / 2 == result.score_mean
    assert result.metrics == {"env/steps": 2.0}
    assert result.as_dict()["metrics"] == {"env/steps": 2.0}
    keys = [EpisodeKey(stream="eval/rl/sampled", iteration=7, group=i, member=0) for i in range(10)]
    assert sorted(got) == keys == sorted(t.key for t in advanced)
    assert [got[key] for key in keys[:3]] == [101, 103, 106] and math.isnan(got[keys[9]])


def test_an_episode_whose_scoring_failed_counts_as_failed(run: Run) -> None:
    result = run(Own(breaks=lambda number: number == 2), episodes=4)
    assert (result.episodes, result.failed, result.turns_mean) == (3, 1, 4 / 3)
    assert result.score_mean == pytest.approx(100 + 5 / 3)


def test_without_any_score_there_are_no_means(run: Run) -> None:
    result = run(Own(breaks=lambda number: True), episodes=3)
    assert (result.episodes, result.failed) == (0, 3)
    assert result.score_mean is result.score_ci95 is result.turns_mean is None
    assert result.metrics == {} and result.words == "no score, 3 failed"


def test_the_results_of_training_stay_for_who_waits_for_them(run: Run) -> None:
    scorer = Own()
    queue = ScoringQueue(scorer, concurrency=2, limit=2, timeout_s=LONG_S)
    queue.submit("trains", Group(task=TASK, trajectories=(trajectory(score=1.0),)))
    assert scorer.began.wait(LONG_S)
    assert run(queue, episodes=5).episodes == 5  # through the one thread that is left
    scorer.free.set()
    result = queue.wait(LONG_S)
    assert result is not None and result[0] == "trains" and result[1].scores.tolist() == [101]
    assert queue.pending == 0
    queue.close()


def test_slow_scoring_is_reported_and_can_be_interrupted(run: Run) -> None:
    held = Own()
    lines: list[str] = []

    class Stop(Exception):
        pass

    class Slow:
        def score(self, group: Group) -> ScoredGroup:
            assert held.free.wait(LONG_S)
            return ReturnScorer().score(group)

    def check() -> None:
        if any("score" in line for line in lines):
            raise Stop

    watch = Watch(interval_s=0.0, report=lines.append, check=check)
    with pytest.raises(Stop):
        run(Slow(), episodes=1, watch=watch)
    assert lines[-1] == "no score has come for 0 s; 1 episodes wait"
    held.free.set()


def test_metrics_of_some_trajectories_are_means_over_those() -> None:
    rows = [{"env/late": 1.0, "seconds": 9.0}, {"env/late": 0.0, "env/open": 4.0}, {}]
    assert env_means(rows) == {"env/late": 0.5, "env/open": 4.0}
    assert env_means([]) == {}
