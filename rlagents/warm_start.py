"""Demonstrations, made by the environment's expert or read from a file, as segments to train on.

    expert --pool--> episodes --+--> demonstrations.jsonl in the run folder
                                +--> Splitter --> segments --> learner
    warm_start.path --read---------> Splitter

Everything streams: no stage holds all demonstrations.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from rlagents.config import RunConfig
from rlagents.data.demonstrations import Demonstration, read, writer
from rlagents.data.tasks import TaskSource
from rlagents.errors import ConfigError, boundary
from rlagents.policy.chat import Chat
from rlagents.policy.sampler import Sampling
from rlagents.rollout.pool import Pool
from rlagents.rollout.splitting import STREAM, Splitter
from rlagents.rollout.watch import Watch, run_all
from rlagents.rollout.worker import Job
from rlagents.types import EpisodeKey, Segment, Trajectory, TurnKind


def demonstrate(
    config: RunConfig, pool: Pool, tasks: TaskSource, watch: Watch
) -> Iterator[Trajectory]:
    """Let the environment's expert play `warm_start.episodes` training tasks; in their order.

    Raises:
        ConfigError: when an episode of the expert fails: its environment or script is broken.
    """
    section = config.warm_start
    jobs = (
        Job(
            key=EpisodeKey(stream=STREAM, iteration=0, group=i, member=0),
            task=tasks.demonstration(i, section.env_kwargs),
            sampling=Sampling(),
            player=f"scripted:{section.expert}",
        )
        for i in range(section.episodes)
    )
    early: dict[int, Trajectory] = {}
    due = 0
    for trajectory in run_all(pool, jobs, watch):
        if trajectory.error is not None:
            raise ConfigError(f"warm_start.expert: {section.expert}: {trajectory.error.message}")
        early[trajectory.key.group] = trajectory
        while due in early:
            yield early.pop(due)
            due += 1


def segments_of_expert(
    config: RunConfig,
    path: Path,
    pool: Pool,
    tasks: TaskSource,
    watch: Watch,
    splitter: Splitter,
    advance: Callable[[], None],
) -> Iterator[Segment]:
    """The expert's episodes as segments; `path` gets them as demonstrations.

    Raises:
        ConfigError: when the expert fails or shows nothing to imitate, and as `Splitter` does.
    """
    with writer(str(path)) as record:
        for trajectory in demonstrate(config, pool, tasks, watch):
            with boundary(ConfigError, f"warm_start.expert: {config.warm_start.expert}"):
                demonstration = demonstration_of(trajectory)
            record(demonstration)
            advance()
            if len(trajectory.turns[0].observation_ids):
                yield from splitter.recorded(demonstration, trajectory)
            else:  # a script that saw no context
                yield from splitter.split(demonstration)


def segments_of_file(
    path: str, chat: Chat, splitter: Splitter, advance: Callable[[], None]
) -> Iterator[Segment]:
    """The demonstrations of a file as segments.

    Raises:
        ConfigError: for a line that is no demonstration, and as `Splitter` does.
    """
    for demonstration in read(path, chat, splitter.odd):
        advance()
        yield from splitter.split(demonstration)


def demonstration_of(trajectory: Trajectory) -> Demonstration:
    """What an episode said to its environment, as text.

    Raises:
        ValueError: for an episode without a turn, or with an empty action.
    """
    return Demonstration(
        task=trajectory.task,
        turns=tuple(
            (turn.observation, turn.action)
            for turn in trajectory.turns
            if turn.kind is TurnKind.ACTION
        ),
        score=trajectory.episode_return,
        final_observation=trajectory.final_observation,
    )
