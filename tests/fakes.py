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


def turn(
    index: int = 0,
    *,
    context: int = 0,
    tokens: int = 1,
    reward: float = 0.0,
    potential: float = 0.0,
) -> Turn:
    """A turn of two observed tokens and `tokens` sampled ones, numbered so that all differ."""
    start = 10 * (index + 1)
    return Turn(
        observation=f"o{index}",
        action=f"a{index}",
        observation_ids=np.array([start, start + 1], np.int32),
        action_ids=np.arange(start + 2, start + 2 + tokens, dtype=np.int32),
        behaviour_logprobs=np.full(tokens, -0.5, np.float32),
        reward=reward,
        potential=potential,
        context=context,
    )


def trajectory(
    *,
    turns: int = 1,
    member: int = 0,
    group: int = 0,
    stop: StopReason = StopReason.TERMINATED,
    score: float = 0.0,
    potentials: Sequence[float] = (),
) -> Trajectory:
    """The last turn carries the whole reward."""
    rewards = [0.0] * (turns - 1) + [score] if turns else []
    potentials = potentials or [0.0] * turns
    return Trajectory(
        key=EpisodeKey(stream="train", iteration=0, group=group, member=member),
        task=TASK,
        turns=tuple(
            turn(i, reward=r, potential=p)
            for i, (r, p) in enumerate(zip(rewards, potentials, strict=True))
        ),
        final_observation="end",
        stop=stop,
    )


def scored_group(
    *,
    scores: Sequence[float],
    turns: Sequence[int] | None = None,
    stops: Sequence[StopReason] | None = None,
    paid: bool = False,
    potentials: Sequence[float] = (),
) -> ScoredGroup:
    """A group with the given scores, numbers of turns and stops.

    Args:
        paid: the last turn of each member is rewarded with its score.
        potentials: of the turns of each member.
    """
    turns = turns or [1] * len(scores)
    stops = stops or [StopReason.TERMINATED] * len(scores)
    members = tuple(
        trajectory(
            turns=n, member=i, stop=stop, score=score if paid else 0.0, potentials=potentials
        )
        for i, (n, stop, score) in enumerate(zip(turns, stops, scores, strict=True))
    )
    return ScoredGroup(
        group=Group(task=TASK, trajectories=members), scores=np.array(scores, np.float32)
    )
