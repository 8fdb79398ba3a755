"""Scores on held-out tasks, with intervals."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np

from rlagents.data.tasks import TaskSource
from rlagents.policy.sampler import Sampling
from rlagents.rollout.pool import Pool
from rlagents.rollout.stream import Watch, run_all
from rlagents.rollout.worker import Job
from rlagents.scoring.scorer import Scorer
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
    turns_mean: float | None

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
    scorer: Scorer,
    sampling: Sampling,
    watch: Watch,
    *,
    stage: str,
    step: int,
    episodes: int,
    mode: Mode = "sampled",
    scripted: str | None = None,
    record: Callable[[Trajectory, float], object] = lambda trajectory, score: None,
    advance: Callable[[Trajectory], None] = lambda trajectory: None,
) -> Evaluation:
    """Play one episode on each of the first `episodes` held-out tasks.

    Args:
        scripted: a scripted policy's name instead of the model.
        record: called with each trajectory and its score (NaN for a failed one), before `advance`.
    """
    if mode == "greedy":
        sampling = Sampling(temperature=0.0, max_tokens=sampling.max_tokens, stop=sampling.stop)
    jobs = [
        Job(
            key=EpisodeKey(stream=f"eval/{stage}/{mode}", iteration=step, group=i, member=0),
            task=tasks.held_out(i),
            sampling=sampling,
            scripted=scripted,
        )
        for i in range(episodes)
    ]
    scores: list[float] = []
    turns: list[int] = []
    for trajectory in run_all(pool, jobs, watch):
        scored = scorer.score(Group(task=trajectory.task, trajectories=(trajectory,)))
        score = float(scored.scores[0])
        record(trajectory, score)
        advance(trajectory)
        if math.isfinite(score):
            scores.append(score)
            turns.append(len(trajectory.turns))
    mean, interval = mean_interval(np.array(scores)) if scores else (None, None)
    return Evaluation(
        step=step,
        stage=stage,
        mode=mode,
        score_mean=mean,
        score_ci95=interval,
        episodes=len(scores),
        failed=episodes - len(scores),
        turns_mean=float(np.mean(turns)) if turns else None,
    )
