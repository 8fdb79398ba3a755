"""Demonstrations: made by the environment's expert, written, read back, cut, trained on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from rlagents.algos.configs import require
from rlagents.config import RunConfig
from rlagents.data.demonstrations import Demonstration, read, write
from rlagents.data.segments import segments_of
from rlagents.data.tasks import TaskSource
from rlagents.errors import ConfigError, boundary
from rlagents.policy.chat import Chat
from rlagents.policy.sampler import Sampling
from rlagents.rollout.context import Window
from rlagents.rollout.pool import Pool
from rlagents.rollout.replay import replay
from rlagents.rollout.stream import Watch, run_all
from rlagents.rollout.worker import Job
from rlagents.types import EpisodeKey, Segment, StopReason, Trajectory


def demonstrate(
    config: RunConfig,
    pool: Pool,
    tasks: TaskSource,
    watch: Watch,
    advance: Callable[[Trajectory], None],
) -> list[Demonstration]:
    """Let the environment's expert play `warm_start.episodes` training tasks.

    Raises:
        ConfigError: when an episode of the expert fails or shows nothing to imitate: its
            environment or script is broken.
    """
    section = config.warm_start
    jobs = [
        Job(
            key=EpisodeKey(stream="demonstrations", iteration=0, group=i, member=0),
            task=tasks.demonstration(i, section.env_kwargs),
            sampling=Sampling(),
            scripted=section.expert,
        )
        for i in range(section.episodes)
    ]
    made: dict[int, Demonstration] = {}
    for trajectory in run_all(pool, jobs, watch):
        if trajectory.error is not None:
            raise ConfigError(f"warm_start.expert: {section.expert}: {trajectory.error.message}")
        with boundary(ConfigError, f"warm_start.expert: {section.expert}"):
            made[trajectory.key.group] = Demonstration(
                task=trajectory.task,
                turns=tuple((turn.observation, turn.action) for turn in trajectory.turns),
                score=trajectory.episode_return,
                final_observation=trajectory.final_observation,
            )
        advance(trajectory)
    return [made[i] for i in sorted(made)]


def segments_of_demonstrations(
    demonstrations: Sequence[Demonstration],
    config: RunConfig,
    chat: Chat,
    make_window: Callable[[], Window],
) -> list[Segment]:
    """Cut and encode as rollouts are.

    Raises:
        ConfigError: where none fits into the window, or an action is longer than
            `policy.max_tokens`: the policy could never do what it is shown.
    """
    segments: list[Segment] = []
    reserve = config.policy.max_tokens
    for number, demonstration in enumerate(demonstrations):
        trajectory = replay(
            demonstration.turns,
            demonstration.task,
            EpisodeKey(stream="demonstrations", iteration=0, group=number, member=0),
            make_window(),
            chat,
            reserve,
        )
        if trajectory.stop is StopReason.CONTEXT_LIMIT:
            turn = len(trajectory.turns)
            longest = len(chat.encode_action(demonstration.turns[turn][1]))
            require(
                longest <= reserve,
                "policy.max_tokens",
                reserve,
                f"at least {longest}, the length of an action in demonstration {number}",
            )
            raise ConfigError(
                f"context.window: turn {turn} of demonstration {number} does not fit into "
                f"{config.context.window} tokens"
            )
        ones = np.ones(len(trajectory.turns), np.float32)
        segments += segments_of(trajectory, ones, label=number)
    return segments


def demonstrations_of(
    config: RunConfig,
    folder: Path,
    pool: Pool,
    tasks: TaskSource,
    watch: Watch,
    advance: Callable[[Trajectory], None],
) -> list[Demonstration]:
    """Those of `warm_start.path`, or the expert's, through the file in the run folder."""
    path = Path(config.warm_start.path) if config.warm_start.path else folder
    if config.warm_start.path is None:
        write(str(path), demonstrate(config, pool, tasks, watch, advance))
    found = list(read(str(path)))
    require(bool(found), "warm_start.path", str(path), "at least one demonstration")
    return found
