"""Episodes a hundred windows long: what a turn costs late in them, and a step on all of it.

A policy is trained with a window of 512 tokens on short walks through KeyRooms, then walks for
13,000 turns. `turn_last_over_first` is the time of a turn in the last windows over that in the
first full ones; `peak_over_one_window` the peak bytes of live tensors of an optimizer step on a
whole episode over those of a step on one window of it, in rows of one window;
`seconds_per_token_over_one_window` the time a token of the same two steps.
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
from rlagents.types import EpisodeKey, Segment, Trajectory, Turn

KEYS = {"keys": 8, "expert_waste": 0.5}
SHORT = {**KEYS, "horizon": 240, "turns": 240}
COMPARED = 10
"""Windows at each end whose turns are averaged."""
ALTERNATED = 1500
"""Turns that hold so many windows, and are played in alternation."""
BLOCK = 25
"""Turns at a time."""


def run(
    *, window: int = 512, turns: int = 13_000, episodes: int = 2, demonstrations: int = 300
) -> Result:
    """Train, play and measure. Takes about six minutes on one core with the defaults.

    Args:
        window: tokens of a context.
        turns: of each long episode; 10,000 doors at most.
        episodes: long ones, one after the other.
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
        rows = [_row(config, *_play(config, number)) for number in range(episodes)]
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


def _play(config: RunConfig, number: int) -> tuple[Trajectory, float, float]:
    """A long episode, and the seconds of a turn in first full windows and in its last ones.

    The first windows are those of another episode, in a worker of its own, and the two take turns:
    a machine that becomes slower meanwhile becomes so for both.
    """
    whole = config.env.kwargs["turns"]
    old, young = _Player(config, number, whole), _Player(config, number, ALTERNATED)
    old.advance(whole - ALTERNATED)
    while not (old.ended and young.ended):
        old.advance(BLOCK)
        young.advance(BLOCK)
    trajectory = old.result()
    newest = trajectory.turns[-1].context
    late = old.seconds(range(newest - COMPARED, newest))
    return trajectory, young.seconds(range(1, COMPARED + 1)), late


class _Player:
    """Plays an episode some turns at a time."""

    def __init__(self, config: RunConfig, number: int, turns: int) -> None:
        limits = dataclasses.replace(build.limits_of(config), max_turns=turns)
        job = Job(
            key=EpisodeKey(stream="bench", iteration=0, group=number, member=0),
            task=TaskSource(config.env, config.run.seed).held_out(number),
            sampling=build.sampling_of(config),
            limits=limits,
        )
        self._worker = build.make_worker(config)
        self._may, self._done = threading.Semaphore(0), threading.Semaphore(0)
        self._spent: list[float] = []
        self._since = 0.0
        self._left = self._job_turns = turns
        self._trajectory: Trajectory | None = None
        self._thread = threading.Thread(target=self._run, args=(job,), daemon=True)
        self._thread.start()

    @property
    def ended(self) -> bool:
        """Whether there is nothing left to play."""
        return self._left == 0

    def advance(self, turns: int) -> None:
        """Play so many turns, or to the end."""
        turns = min(turns, self._left)
        self._left -= turns
        for _ in range(turns):
            self._may.release()
        for _ in range(turns):
            if not self._done.acquire(timeout=600):
                raise RlagentsError("an episode of the benchmark stands still")

    def result(self) -> Trajectory:
        """The episode; all of it has been played."""
        self._thread.join()
        self._worker.close()
        trajectory = self._trajectory
        if trajectory is None or trajectory.stop.failed:
            raise RlagentsError(f"an episode failed: {trajectory and trajectory.error}")
        return trajectory

    def seconds(self, contexts: range) -> float:
        """Mean seconds of a turn in these contexts, without the first of each block."""
        turns = self.result().turns
        return float(
            np.mean(
                [
                    spent
                    for number, (turn, spent) in enumerate(zip(turns, self._spent, strict=True))
                    if turn.context in contexts and number % BLOCK
                ]
            )
        )

    def _run(self, job: Job) -> None:
        self._may.acquire()
        self._since = time.perf_counter()
        self._trajectory = self._worker.run(job, self._on_turn)

    def _on_turn(self, number: int, turn: Turn) -> None:
        self._spent.append(time.perf_counter() - self._since)
        self._done.release()
        if number + 1 < self._job_turns:
            self._may.acquire()
        self._since = time.perf_counter()


def _row(config: RunConfig, trajectory: Trajectory, first: float, last: float) -> dict[str, float]:
    segments = segments_of(trajectory, np.ones(len(trajectory.turns), np.float32), label=0)
    model, _ = models.load(config.policy, seed=0, window=config.context.window)
    learner = Learner(model, config.learner)
    _step(learner, segments[:1])  # the optimizer's moments are made in the first step
    one, one_s = _step(learner, segments[1:2])
    all_, all_s = _step(learner, segments)
    return {
        "tokens": _history(trajectory),
        "turns": len(trajectory.turns),
        "windows": len(segments),
        "score": round(trajectory.episode_return, 3),
        "first ms a turn": 1e3 * first,
        "last ms a turn": 1e3 * last,
        "last / first": last / first,
        "peak MB": all_ / 1e6,
        "peak / one": all_ / one,
        "s a token / one": (all_s / sum(map(len, segments))) / (one_s / len(segments[1])),
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


def _step(learner: Learner, segments: Sequence[Segment]) -> tuple[int, float]:
    """Peak live bytes and seconds of an optimizer step."""
    batch = pack(segments, row_tokens=max(map(len, segments)), pad_id=0)
    begun = time.perf_counter()
    learner.step(batch, _objective)
    seconds = time.perf_counter() - begun
    with peak_live_bytes() as live:
        learner.step(batch, _objective)
    return live.peak, seconds


def _objective(
    logprobs: Tensor, entropies: Tensor, columns: Mapping[str, Tensor]
) -> tuple[Tensor, Mapping[str, Tensor]]:
    return -logprobs * columns["advantages"], {}
