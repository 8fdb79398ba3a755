"""Episodes a hundred windows long: what a turn costs late in them, and a step on all of it.

A policy is trained with a window of 512 tokens on short walks through KeyRooms, then walks for
13,000 turns. `turn_last_over_first` is the time of a turn in the last windows over that in the
first full ones; `peak_over_one_window` the peak bytes of live tensors of an optimizer step on a
whole episode over those of a step on one window of it, in rows of one window;
`seconds_per_token_over_one_window` the time a token of the same two steps. Time is that of the
processor, so that what else the machine does is not in it.
"""

from __future__ import annotations

import dataclasses
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from torch import Tensor

from rlagents import build, launch
from rlagents.bench.report import Result, figure, machine
from rlagents.config import (
    CheckpointSection,
    ContextSection,
    EnvSection,
    EvalSection,
    LearnerSection,
    PolicySection,
    RolloutSection,
    RunConfig,
    RunSection,
    TelemetrySection,
    TrainSection,
    WarmStartSection,
)
from rlagents.data.packing import pack
from rlagents.data.segments import segments_of
from rlagents.data.tasks import TaskSource
from rlagents.errors import RlagentsError
from rlagents.learner.memory import peak_live_bytes
from rlagents.learner.step import Learner
from rlagents.policy import models
from rlagents.rollout.worker import Job
from rlagents.types import EpisodeKey, Segment, Trajectory

KEYS = {"keys": 8, "expert_waste": 0.5}
SHORT = {**KEYS, "horizon": 240, "turns": 240}
COMPARED = 10
"""Windows at each end whose turns are averaged."""


def run(
    *, window: int = 512, turns: int = 13_000, episodes: int = 2, demonstrations: int = 300
) -> Result:
    """Train, play and measure. Takes about six minutes on one core with the defaults.

    Args:
        window: tokens of a context.
        turns: of each long episode; 10,000 doors at most.
        episodes: long ones, played at once.
        demonstrations: to train the policy on, each of 240 turns.
    """
    with tempfile.TemporaryDirectory(prefix="rlagents-bench-") as folder:
        config = _config(folder, window, demonstrations)
        launch.start(config)
        policy = PolicySection(model=str(Path(folder) / "run" / "policy"), max_tokens=2)
        long = {**KEYS, "horizon": min(turns, 10_000), "turns": turns}
        config = dataclasses.replace(
            config, policy=policy, env=EnvSection(kwargs=long), warm_start=WarmStartSection()
        )
        played = _play(config, episodes)
        rows = [_row(config, trajectory, times) for trajectory, times in played]
    return Result(
        bench="horizon",
        machine=machine(window=window),
        rows=rows,
        figures={
            "tokens": figure([row["tokens"] for row in rows]),
            "turn_last_over_first": figure([row["last / first"] for row in rows]),
            "peak_over_one_window": figure([row["peak / one"] for row in rows]),
            "seconds_per_token_over_one_window": figure([row["s a token / one"] for row in rows]),
        },
    )


def _config(folder: str, window: int, demonstrations: int) -> RunConfig:
    return RunConfig(
        run=RunSection(name="horizon", dir=str(Path(folder) / "run")),
        env=EnvSection(kwargs=SHORT),
        policy=PolicySection(max_tokens=2),
        context=ContextSection(window=window),
        rollout=RolloutSection(concurrency=16, max_turns=10**6, max_seconds=1e5),
        warm_start=WarmStartSection(
            episodes=demonstrations, epochs=3, optimizer="muon", lr=0.02, batch_segments=16
        ),
        learner=LearnerSection(device="cpu", micro_rows=1),
        train=TrainSection(iterations=0),
        eval=EvalSection(episodes=16),
        checkpoint=CheckpointSection(every=0),
        telemetry=TelemetrySection(tensorboard=False),
    )


def _play(config: RunConfig, episodes: int) -> list[tuple[Trajectory, list[float]]]:
    """Whole episodes, and the CPU time of this process at the end of each turn."""
    worker = build.make_worker(config)
    tasks = TaskSource(config.env, config.run.seed)
    played: list[tuple[Trajectory, list[float]]] = []

    def play(number: int) -> None:
        times: list[float] = []
        job = Job(
            key=EpisodeKey(stream="bench", iteration=0, group=number, member=0),
            task=tasks.held_out(number),
            sampling=build.sampling_of(config),
        )
        trajectory = worker.run(job, lambda turn, _: times.append(time.process_time()))
        played.append((trajectory, times))

    threads = [threading.Thread(target=play, args=(n,), daemon=True) for n in range(episodes)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    worker.close()
    if len(played) < episodes or any(t.stop.failed or t.stop.cut for t, _ in played):
        raise RlagentsError(f"an episode did not come to its end: {[t.stop for t, _ in played]}")
    return played


def _row(config: RunConfig, trajectory: Trajectory, times: Sequence[float]) -> dict[str, float]:
    segments = segments_of(trajectory, np.ones(len(trajectory.turns), np.float32), label=0)
    first, last = _turn_seconds(trajectory, times)
    model, _ = models.load(config.policy, seed=0, window=config.context.window)
    learner = Learner(model, config.learner)
    _step(learner, segments[:1])  # the optimizer's moments are made in the first step
    one, one_s = _step(learner, segments[1:2])
    all_, all_s = _step(learner, segments)
    tokens = sum(len(turn.observation_ids) + len(turn.action_ids) for turn in trajectory.turns)
    trained = sum(map(len, segments))
    return {
        "tokens": _history(trajectory),
        "with prefixes": tokens,
        "turns": len(trajectory.turns),
        "windows": len(segments),
        "score": round(trajectory.episode_return, 3),
        "first ms a turn": 1e3 * first,
        "last ms a turn": 1e3 * last,
        "last / first": last / first,
        "peak MB": all_ / 1e6,
        "peak / one": all_ / one,
        "s a token / one": (all_s / trained) / (one_s / len(segments[1])),
    }


def _history(trajectory: Trajectory) -> int:
    """Tokens of the episode itself: what fresh contexts repeat is counted once."""
    fresh, total, before = -1, 0, 0
    for turn in trajectory.turns:
        opened = turn.context != fresh
        kept = before - turn.dropped_tokens if opened and fresh >= 0 else 0
        fresh = turn.context
        total += len(turn.observation_ids) - max(kept, 0) + len(turn.action_ids)
        before = total
    return total


def _turn_seconds(trajectory: Trajectory, times: Sequence[float]) -> tuple[float, float]:
    """Seconds of a turn of all episodes: means of the first full windows and of the last."""
    contexts = np.array([turn.context for turn in trajectory.turns])
    seconds = np.diff(np.array(times), prepend=times[0])
    newest = int(contexts.max())
    early = (contexts >= 1) & (contexts <= COMPARED)
    late = (contexts < newest) & (contexts >= newest - COMPARED)
    return float(seconds[early].mean()), float(seconds[late].mean())


def _step(learner: Learner, segments: Sequence[Segment]) -> tuple[int, float]:
    """Peak live bytes and seconds of an optimizer step."""
    batch = pack(segments, row_tokens=max(map(len, segments)), pad_id=0)
    begun = time.process_time()
    learner.step(batch, _objective)
    seconds = time.process_time() - begun
    with peak_live_bytes() as live:
        learner.step(batch, _objective)
    return live.peak, seconds


def _objective(
    logprobs: Tensor, entropies: Tensor, columns: Mapping[str, Tensor]
) -> tuple[Tensor, Mapping[str, Tensor]]:
    return -logprobs * columns["advantages"], {}
