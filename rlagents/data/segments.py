"""From a trajectory to segments: the turns that share one context, as flat arrays.

Exact by construction: a turn stores only the tokens it adds, so the concatenation of a context's
turns is the context that each of its actions was sampled under. Nothing is inferred.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from rlagents.types import EpisodeKey, FloatArray, Segment, Trajectory, Turn


def segments_of(
    trajectory: Trajectory, advantages: FloatArray, *, label: int, gradient: bool = True
) -> tuple[Segment, ...]:
    """One segment for each context of a trajectory, in the order in which contexts appear.

    Args:
        trajectory: contexts may interleave.
        advantages: [N] one value a turn, given to each of its action tokens.
        label: the trajectory's number, unique in the batch.
        gradient: false trains no token; everything else is the same.

    Raises:
        ValueError: when `advantages` is not [N], or an action has no token before it.
    """
    turns = trajectory.turns
    if np.shape(advantages) != (len(turns),):
        raise ValueError(f"advantages must be [N] = ({len(turns)},), got {np.shape(advantages)}")
    contexts: dict[int, list[tuple[Turn, float]]] = {}
    for turn, advantage in zip(turns, advantages, strict=True):
        contexts.setdefault(turn.context, []).append((turn, float(advantage)))
    return tuple(
        _segment(owned, (trajectory.key, context), label, gradient)
        for context, owned in contexts.items()
    )


def _segment(
    owned: Sequence[tuple[Turn, float]],
    source: tuple[EpisodeKey, int],
    label: int,
    gradient: bool,
) -> Segment:
    """The turns of one context, with their advantages, one after the other."""
    size = sum(len(turn.observation_ids) + len(turn.action_ids) for turn, _ in owned)
    token_ids, loss_mask = np.zeros(size, np.int32), np.zeros(size, np.bool_)
    logprobs, credit = np.zeros(size, np.float32), np.zeros(size, np.float32)
    temperatures = np.ones(size, np.float32)
    end = 0
    for turn, advantage in owned:
        start, end = end, end + len(turn.observation_ids)
        token_ids[start:end] = turn.observation_ids
        start, end = end, end + len(turn.action_ids)
        token_ids[start:end] = turn.action_ids
        loss_mask[start:end] = gradient
        logprobs[start:end] = turn.behaviour_logprobs
        credit[start:end] = advantage
        # Greedy turns record log-probabilities under temperature 1.
        temperatures[start:end] = turn.temperature if turn.temperature > 0 else 1.0
    return Segment(
        token_ids=token_ids,
        loss_mask=loss_mask,
        behaviour_logprobs=logprobs,
        advantages=credit,
        temperatures=temperatures,
        label=label,
        source=source,
    )
