"""How long the learner waits for rollouts: for all of them, and with a budget an iteration.

Both sides are whole runs of the same number of trained groups on episodes whose lengths are spread
log-uniformly from 1 to 20. The learner is idle while an iteration's rollouts last. `idle_ratio` is
the idle seconds per trained token with partial rollouts over those of waiting for all;
`idle_ratio_steady` leaves the first quarter of the iterations out of both, in which partial
rollouts have yet to fill their places with long episodes.

What is saved is the time in which places stand empty. It is worth this much where a turn's time is
latency (`step_s`, a tool's, that is not the processor's); where every turn costs the same processor
time however many play at once, empty places cost nothing and there is little to save.
"""

from __future__ import annotations

import contextlib
import io
import json
import math
import tempfile
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import torch

from rlagents import launch
from rlagents.algos.configs import AlgoConfig
from rlagents.bench.report import Result, figure, machine
from rlagents.config import (
    ContextSection,
    EnvSection,
    EvalSection,
    PolicySection,
    RolloutSection,
    RunConfig,
    RunSection,
    TelemetrySection,
    TinySection,
    TrainSection,
)
from rlagents.interrupt import Interrupt
from rlagents.runs import RunFolder
from rlagents.telemetry.progress import Display
from rlagents.train import train

SIZES = TinySection(layers=2, width=64, heads=4, kv_heads=2, mlp=192)
ENV = "rlagents.bench.partial:bench/Lengths-v0"


class Lengths(gymnasium.Env[str, str]):
    """Episodes of `low` to `high` turns, log-uniform by the seed, `step_s` seconds a turn.

    A turn pays for an answer that begins with a character of even code.
    """

    def __init__(self, low: int = 1, high: int = 20, step_s: float = 0.0) -> None:
        self._low, self._high, self._step_s = low, high, step_s

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[str, dict[str, Any]]:
        super().reset(seed=seed)
        drawn = self.np_random.uniform(math.log(self._low), math.log(self._high + 1))
        self._turns, self._turn = int(math.exp(drawn)), 0
        return "go", {}

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        time.sleep(self._step_s)
        self._turn += 1
        paid = (bool(action) and ord(action[0]) % 2 == 0) / self._turns
        return f"{self._turn}", paid, self._turn == self._turns, False, {}


gymnasium.register("bench/Lengths-v0", "rlagents.bench.partial:Lengths")


def run(
    *,
    seed: int = 0,
    repeats: int = 3,
    iterations: int = 16,
    groups: int = 8,
    group_size: int = 2,
    low: int = 1,
    spread: int = 20,
    step_s: float = 0.2,
) -> Result:
    """Measure both sides. Takes about five minutes on one core with the defaults.

    Args:
        seed: of the first repeat.
        repeats: pairs of runs.
        iterations: of a run; an iteration of partial rollouts has a budget of as many turns as
            one that waits for all has on average.
        groups: played at once, and trained in an iteration that waits for all.
        group_size: members of each.
        low: turns of the shortest episodes.
        spread: turns of the longest over those of the shortest.
        step_s: seconds that a turn takes in the environment.
    """
    rows: list[dict[str, Any]] = []
    ratios: list[float] = []
    steady: list[float] = []
    for repeat in range(repeats):
        sides = []
        mean = low * (spread - 1) / math.log(spread)  # of a log-uniform length
        for name, budget in (("waits for all", 0), ("partial", round(groups * group_size * mean))):
            config = _config(
                seed + repeat,
                iterations,
                RolloutSection(
                    groups=groups,
                    group_size=group_size,
                    concurrency=groups * group_size,
                    max_turns=low * spread + 1,
                    budget_turns=budget,
                ),
                {"low": low, "high": low * spread, "step_s": step_s},
            )
            measured = _measured(config)
            sides.append(measured)
            rows.append({"rollouts": name, "seed": seed + repeat, **measured})
        waiting, partial = sides
        ratios.append(partial["idle ms a token"] / waiting["idle ms a token"])
        steady.append(partial["steady"] / waiting["steady"])
    return Result(
        bench="partial",
        machine=machine(torch=torch.__version__, threads=torch.get_num_threads()),
        rows=rows,
        figures={"idle_ratio": figure(ratios), "idle_ratio_steady": figure(steady)},
    )


def _config(
    seed: int, iterations: int, rollout: RolloutSection, kwargs: Mapping[str, Any]
) -> RunConfig:
    return RunConfig(
        run=RunSection(seed=seed),
        env=EnvSection(id=ENV, kwargs=dict(kwargs)),
        policy=PolicySection(tiny=SIZES, max_tokens=4),
        context=ContextSection(window=128),
        rollout=rollout,
        algo=replace(AlgoConfig(), updates=1, epochs=1),
        train=TrainSection(iterations=iterations),
        eval=EvalSection(episodes=0),
        telemetry=TelemetrySection(tensorboard=False, depth=False),
    )


def _measured(config: RunConfig) -> dict[str, float]:
    """A whole run: what it trained, and how long its learner waited."""
    with (
        tempfile.TemporaryDirectory(prefix="rlagents-bench-") as path,
        contextlib.closing(Display(io.StringIO(), live=False)) as display,
        Interrupt() as interrupt,
    ):
        folder = RunFolder(Path(path))
        with launch.opened(config, folder, None, display, interrupt) as (parts, state):
            train(parts, state)
        lines = [
            json.loads(line) for line in (folder.path / "metrics.jsonl").read_text().splitlines()
        ]
    idle = [line["time/rollout_s"] for line in lines]
    tokens = [line["learner/trained_tokens"] for line in lines]
    first = len(lines) // 4
    return {
        "idle s": sum(idle),
        "learning s": sum(line["time/learn_s"] for line in lines),
        "tokens": sum(tokens),
        "idle ms a token": 1e3 * sum(idle) / sum(tokens),
        "steady": 1e3 * sum(idle[first:]) / sum(tokens[first:]),
        "staleness": float(np.mean([line["staleness/mean"] for line in lines])),
    }
