"""From a trajectory to segments: the turns that share one context, as flat arrays.

Exact by construction: a turn stores only the tokens it adds, so the concatenation of a context's
turns is the context that each of its actions was sampled under. Nothing is inferred.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from rlagents.types import BoolArray, EpisodeKey, FloatArray, Segment, Trajectory, Turn


def segments_of(
    trajectory: Trajectory,
    advantages: FloatArray,
    *,
    label: int,
    gradient: bool | BoolArray = True,
) -> tuple[Segment, ...]:
    """One segment for each context of a trajectory, in the order in which contexts appear.

    Args:
        trajectory: contexts may interleave.
        advantages: [N] one value a turn, given to each of its action tokens.
        label: the trajectory's number, unique in the batch.
        gradient: whether its tokens are trained, or [N] those of each turn; everything else is the
            same.

    Raises:
        ValueError: when `advantages` is not [N], or an action has no token before it.
    """
    turns = trajectory.turns
    if np.shape(advantages) != (len(turns),):
        raise ValueError(f"advantages must be [N] = ({len(turns)},), got {np.shape(advantages)}")
    if np.ndim(gradient) and np.shape(gradient) != (len(turns),):
        raise ValueError(f"gradient must be [N] = ({len(turns)},), got {np.shape(gradient)}")
    trained = np.broadcast_to(gradient, len(turns))
    contexts: dict[int, list[int]] = {}
    for number, turn in enumerate(turns):
        contexts.setdefault(turn.context, []).append(number)
    return tuple(
        _segment(turns, owned, advantages, trained, (trajectory.key, context), label)
        for context, owned in contexts.items()
    )


def _segment(
    turns: Sequence[Turn],
    owned: Sequence[int],
    advantages: FloatArray,
    trained: BoolArray,
    source: tuple[EpisodeKey, int],
    label: int,
) -> Segment:
    """The turns of one context, with their advantages, one after the other."""
    size = sum(len(turns[n].observation_ids) + len(turns[n].action_ids) for n in owned)
    token_ids, loss_mask = np.zeros(size, np.int32), np.zeros(size, np.bool_)
    logprobs, credit = np.zeros(size, np.float32), np.zeros(size, np.float32)
    temperatures, numbers = np.ones(size, np.float32), np.full(size, -1, np.int32)
    end = 0
    for number in owned:
        turn = turns[number]
        start, end = end, end + len(turn.observation_ids)
        token_ids[start:end] = turn.observation_ids
        start, end = end, end + len(turn.action_ids)
        token_ids[start:end] = turn.action_ids
        loss_mask[start:end] = trained[number]
        logprobs[start:end] = turn.behaviour_logprobs
        credit[start:end] = advantages[number]
        numbers[start:end] = number
        # Greedy turns record log-probabilities under temperature 1.
        temperatures[start:end] = turn.temperature if turn.temperature > 0 else 1.0
    return Segment(
        token_ids=token_ids,
        loss_mask=loss_mask,
        behaviour_logprobs=logprobs,
        advantages=credit,
        temperatures=temperatures,
        turns=numbers,
        label=label,
        source=source,
    )
