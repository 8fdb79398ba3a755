"""Small stand-ins and builders that several tests share."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from rlagents.types import (
    EpisodeKey,
    Group,
    ScoredGroup,
    StopReason,
    Task,
    Trajectory,
    Turn,
)

TASK = Task(env_id="rlagents/Lock-v0", seed=2)


def turn(index: int = 0, *, context: int = 0, tokens: int = 1, reward: float = 0.0) -> Turn:
    """A turn of two observed tokens and `tokens` sampled ones, numbered so that all differ."""
    start = 10 * (index + 1)
    return Turn(
        observation=f"o{index}",
        action=f"a{index}",
        observation_ids=np.array([start, start + 1], np.int32),
        action_ids=np.arange(start + 2, start + 2 + tokens, dtype=np.int32),
        behaviour_logprobs=np.full(tokens, -0.5, np.float32),
        reward=reward,
        context=context,
    )


def trajectory(
    *,
    turns: int = 1,
    member: int = 0,
    group: int = 0,
    stop: StopReason = StopReason.TERMINATED,
    score: float = 0.0,
) -> Trajectory:
    """The last turn carries the whole reward."""
    rewards = [0.0] * (turns - 1) + [score]
    return Trajectory(
        key=EpisodeKey(stream="train", iteration=0, group=group, member=member),
        task=TASK,
        turns=tuple(turn(i, reward=r) for i, r in enumerate(rewards)),
        final_observation="end",
        stop=stop,
    )


def scored_group(
    *,
    scores: Sequence[float],
    turns: Sequence[int] | None = None,
    stops: Sequence[StopReason] | None = None,
) -> ScoredGroup:
    """A group with the given scores, numbers of turns and stops."""
    turns = turns or [1] * len(scores)
    stops = stops or [StopReason.TERMINATED] * len(scores)
    members = tuple(
        trajectory(turns=n, member=i, stop=stop)
        for i, (n, stop) in enumerate(zip(turns, stops, strict=True))
    )
    return ScoredGroup(
        group=Group(task=TASK, trajectories=members), scores=np.array(scores, np.float32)
    )
