"""A demonstration through the same context window as a rollout.

One path for both: what supervised training sees is cut and encoded exactly as what is sampled.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from rlagents.policy.chat import Chat
from rlagents.rollout.context import Window
from rlagents.types import EpisodeKey, StopReason, Task, Trajectory, Turn


def replay(
    turns: Sequence[tuple[str, str]],
    task: Task,
    key: EpisodeKey,
    window: Window,
    chat: Chat,
    reserve: int,
) -> Trajectory:
    """Turn (observation, action) pairs into a trajectory with contexts and ids.

    Behaviour log-probabilities are zero. It ends early, with `CONTEXT_LIMIT`, at a turn that can't
    fit into the window or whose action is longer than `reserve`.
    """
    made: list[Turn] = []
    stop = StopReason.TERMINATED
    for observation, action in turns:
        ids = chat.encode_action(action)
        prompt = window.observe(observation)
        if prompt is None or len(ids) > reserve:
            stop = StopReason.CONTEXT_LIMIT
            break
        window.act(ids, action)
        made.append(
            Turn(
                observation=observation,
                action=action,
                observation_ids=prompt.added_ids,
                action_ids=ids,
                behaviour_logprobs=np.zeros(len(ids), np.float32),
                context=prompt.context,
            )
        )
    return Trajectory(key=key, task=task, turns=tuple(made), final_observation="", stop=stop)
