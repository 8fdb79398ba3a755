"""A demonstration through the same context window as a rollout.

One path for both: what supervised training sees is cut and encoded exactly as what is sampled.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np

from rlagents.policy.chat import Chat
from rlagents.rollout.context import Window
from rlagents.types import EpisodeKey, StopReason, Task, Trajectory, Turn, TurnKind

Spans = tuple[tuple[int, int], ...]


class Misfit(StrEnum):
    """Why a turn of a demonstration can't be shown."""

    ACTION = "its action is longer than policy.max_tokens"
    TURN = "it does not fit into context.window"
    ASIDE = "context.strategy asks for something else there than an action"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Replay:
    """What a window made of a demonstration."""

    trajectory: Trajectory
    """Behaviour log-probabilities are zero."""
    repeated: tuple[Spans, ...]
    """For each turn, where its observation ids hold earlier actions again (`Prompt.repeated`)."""
    carried_tokens: int
    """Tokens of earlier turns, pinned or repeated, with which fresh contexts begin."""
    misfit: Misfit | None = None
    """Why the turn after the last can't be shown; None where all were, or as many as asked for."""


def replay(
    turns: Sequence[tuple[str, str]],
    task: Task,
    key: EpisodeKey,
    window: Window,
    chat: Chat,
    reserve: int,
    contexts: int | None = None,
) -> Replay:
    """Turn (observation, action) pairs into a trajectory with contexts and ids.

    It ends early, with `CONTEXT_LIMIT`, at a turn that can't be shown: one that fits into no
    context, whose action is longer than `reserve` tokens, or where the window asks for something
    else, such as a summary, which a demonstration does not have.

    Args:
        contexts: end, without a misfit, before the turn that would open one more than so many.
    """
    made: list[Turn] = []
    repeated: list[Spans] = []
    carried, bare = 0, len(chat.head_ids)
    misfit: Misfit | None = None
    for observation, action in turns:
        ids = chat.encode_action(action)
        if len(ids) > reserve:
            misfit = Misfit.ACTION
            break
        prompt = window.observe(observation)
        if prompt is None:
            misfit = Misfit.TURN
            break
        if contexts is not None and prompt.context >= contexts:
            break
        if window.act(ids, action).kind is not TurnKind.ACTION:
            misfit = Misfit.ASIDE
            break
        if prompt.context and (not made or prompt.context != made[-1].context):
            opening = len(chat.observation_ids(prompt.observation))
            carried += max(0, len(prompt.added_ids) - bare - opening)
        repeated.append(_actions(prompt.repeated, made))
        made.append(
            Turn(
                observation=prompt.observation,
                action=action,
                observation_ids=prompt.added_ids,
                action_ids=ids,
                behaviour_logprobs=np.zeros(len(ids), np.float32),
                context=prompt.context,
                dropped_tokens=prompt.dropped_tokens,
            )
        )
    trajectory = Trajectory(
        key=key,
        task=task,
        turns=tuple(made),
        final_observation="",
        stop=StopReason.CONTEXT_LIMIT if len(made) < len(turns) else StopReason.TERMINATED,
    )
    return Replay(
        trajectory=trajectory, repeated=tuple(repeated), carried_tokens=carried, misfit=misfit
    )


def _actions(bodies: Spans, made: Sequence[Turn]) -> Spans:
    """Spans of the latest turns' actions, without what the template closes them with.

    Only what was sampled is trained. The last of `bodies` belongs to the last of `made`.
    """
    latest = made[len(made) - len(bodies) :]
    return tuple(
        (begin, begin + len(turn.action_ids))
        for (begin, _), turn in zip(bodies, latest, strict=True)
    )
