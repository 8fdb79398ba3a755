"""Scores on held-out tasks, with intervals."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import numpy as np

from rlagents.data.tasks import TaskSource
from rlagents.policy.sampler import Sampling
from rlagents.rollout.pool import Pool
from rlagents.rollout.watch import POLL_S, Watch, run_all
from rlagents.rollout.worker import Job
from rlagents.scoring.queue import ScoringQueue
from rlagents.types import EpisodeKey, Group, Trajectory

Mode = Literal["sampled", "greedy"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """Held-out score of one policy."""

    step: int
    """Optimizer steps of RL before it."""
    stage: str
    """`initial`, `warm_start` or `rl`; another policy's name outside training."""
    mode: str
    """`sampled` or `greedy`."""
    score_mean: float | None
    """None where every episode failed, as everything that is a mean."""
    score_ci95: tuple[float, float] | None
    """Normal interval of the mean over tasks."""
    episodes: int
    """Episodes that have a score."""
    failed: int
    """Episodes without a score: they failed, or the scorer did."""
    turns_mean: float | None
    """Turns with the environment."""
    metrics: Mapping[str, float] = field(default_factory=dict)
    """Means of the environment's metrics, `env/...`, over the episodes that have both."""

    @property
    def words(self) -> str:
        """For one line of the terminal."""
        failed = f", {self.failed} failed" if self.failed else ""
        if self.score_mean is None or self.score_ci95 is None:
            return f"no score{failed}"
        low, high = self.score_ci95
        interval = f"[{low:.3f}, {high:.3f}]"
        return f"score {self.score_mean:.3f} {interval} over {self.episodes} episodes{failed}"

    def as_dict(self) -> dict[str, Any]:
        """For `summary.json`."""
        return asdict(self)


def mean_interval(scores: np.ndarray) -> tuple[float, tuple[float, float]]:
    """Mean and normal 95% interval of one score or more; a point for one."""
    mean = float(scores.mean())
    half = 1.96 * float(scores.std(ddof=1)) / math.sqrt(len(scores)) if len(scores) > 1 else 0.0
    return mean, (mean - half, mean + half)


def evaluate(
    pool: Pool,
    tasks: TaskSource,
    queue: ScoringQueue,
    sampling: Sampling,
    watch: Watch,
    *,
    stage: str,
    step: int,
    episodes: int,
    mode: Mode = "sampled",
    player: str = "",
    record: Callable[[Trajectory, float], object] = lambda trajectory, score: None,
    advance: Callable[[Trajectory], None] = lambda trajectory: None,
) -> Evaluation:
    """Play one episode on each of the first `episodes` held-out tasks, and score them meanwhile.

    Args:
        queue: scores each trajectory as a group of one, before any of training.
        player: who plays instead of the policy: `scripted:NAME`, `endpoint:NAME`.
        record: called with each trajectory and its score (NaN for one without), before `advance`.
    """
    if mode == "greedy":
        sampling = Sampling(temperature=0.0, max_tokens=sampling.max_tokens, stop=sampling.stop)
    jobs = [
        Job(
            key=EpisodeKey(stream=f"eval/{stage}/{mode}", iteration=step, group=i, member=0),
            task=tasks.held_out(i),
            sampling=sampling,
            player=player,
        )
        for i in range(episodes)
    ]
    scored: dict[int, tuple[float, int, Mapping[str, float]]] = {}
    for trajectory, score in _scores(queue, run_all(pool, jobs, watch), watch):
        record(trajectory, score)
        advance(trajectory)
        if math.isfinite(score):
            scored[trajectory.key.group] = score, trajectory.actions, trajectory.metrics
    rows = [scored[i] for i in sorted(scored)]  # so that a sum does not depend on timing
    mean, interval = mean_interval(np.array([row[0] for row in rows])) if rows else (None, None)
    return Evaluation(
        step=step,
        stage=stage,
        mode=mode,
        score_mean=mean,
        score_ci95=interval,
        episodes=len(rows),
        failed=episodes - len(rows),
        turns_mean=float(np.mean([row[1] for row in rows])) if rows else None,
        metrics=env_means([row[2] for row in rows]),
    )


def _scores(
    queue: ScoringQueue, trajectories: Iterable[Trajectory], watch: Watch
) -> Iterator[tuple[Trajectory, float]]:
    """Each trajectory with its score, in order of scoring.

    Consumes: trajectories as they end. Produces: them with scores. Waits for: the next one to end;
    when all have, for the scorer, whose calls are bounded by the queue. Stops when: each has been
    scored, or `watch.check` raises.
    """
    left = 0
    for trajectory in trajectories:
        group = Group(task=trajectory.task, trajectories=(trajectory,))
        queue.submit(trajectory.key, group, evaluation=True)
        left += 1
        while (pair := _next_score(queue, 0.0)) is not None:
            left -= 1
            yield pair
    last = time.monotonic()
    while left:
        watch.check()
        pair = _next_score(queue, POLL_S)
        now = time.monotonic()
        if pair is not None:
            left, last = left - 1, now
            yield pair
        elif now - last > watch.interval_s:
            last = now
            watch.report(f"no score has come for {watch.interval_s:g} s; {left} episodes wait")


def _next_score(queue: ScoringQueue, timeout: float) -> tuple[Trajectory, float] | None:
    result = queue.wait(timeout, evaluation=True)
    if result is None:
        return None
    (trajectory,) = result[1].group.trajectories
    return trajectory, float(result[1].scores[0])


def env_means(metrics: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Mean of each of the environment's metrics over the trajectories that have it."""
    names = sorted({name for m in metrics for name in m if name.startswith("env/")})
    return {name: float(np.mean([m[name] for m in metrics if name in m])) for name in names}
