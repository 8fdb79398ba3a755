"""Credit of turns inside a group: which of a trajectory's actions did better than the others'.

Legend: N turns of a trajectory, G members of a group; lists run over the members.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import numpy as np

from rlagents.algos.advantages import group_relative
from rlagents.types import BoolArray, FloatArray


def turn_returns(rewards_N: FloatArray, discount: float) -> FloatArray:
    """[N] R_t = r_t + discount * R_{t+1}: what an action brought from its turn on.

    Valid for any discount between 0 and 1; 1 is the undiscounted objective.

    Args:
        rewards_N: [N] rewards of a trajectory's turns.

    Raises:
        ValueError: for a discount outside [0, 1] or rewards that are not [N].
    """
    if rewards_N.ndim != 1 or not 0 <= discount <= 1:
        raise ValueError(
            f"expected rewards [N] and a discount in [0, 1], got {rewards_N.shape}, {discount}"
        )
    returns = np.zeros(len(rewards_N), np.float32)
    following = 0.0
    for t in reversed(range(len(rewards_N))):
        following = float(rewards_N[t]) + discount * following
        returns[t] = following
    return returns


def turn_advantages(
    rewards: Sequence[FloatArray],
    anchors: Sequence[Sequence[str]] | None,
    counts_G: BoolArray,
    *,
    discount: float,
    normalise: bool,
) -> list[FloatArray]:
    """One [N] array a member: A_t = R_t - mean, or (R_t - mean) / (std + 1e-6), over like turns.

    R are `turn_returns`; std is unbiased. Like turns of a group are those of the same index, or
    those that answered the same anchor state, in whichever turn of whichever member: GiGPO, arXiv
    2505.10978, which has both forms. A turn like no other gets 0.

    Valid on-policy, within one task. By index: no more than a baseline for the turn's number, and
    late turns are compared among the members that lasted as long. By anchor: states must say all
    that matters, for equal text is taken as equal state; where a trajectory comes back to a state,
    its visits are compared with one another, so that the baseline depends on the action.

    Args:
        rewards: one [N] array a member.
        anchors: the N states of each member, as text; None compares turns of the same index.
        counts_G: [G] members whose turns are in the statistics; the others' are only compared.

    Raises:
        ValueError: where numbers of members or of turns differ, and as `turn_returns`.
    """
    turns = [len(rewards_N) for rewards_N in rewards]
    keys: Sequence[Sequence[Hashable]] = anchors or [range(n) for n in turns]
    if len(counts_G) != len(rewards) or [len(k) for k in keys] != turns:
        raise ValueError(
            f"expected counts and anchors of {turns} turns, got {len(counts_G)} counts and anchors "
            f"of {[len(k) for k in keys]}"
        )
    alike: dict[Hashable, list[tuple[int, int]]] = {}
    for member, keys_N in enumerate(keys):
        for t, key in enumerate(keys_N):
            alike.setdefault(key, []).append((member, t))
    compared = [places for places in alike.values() if len(places) > 1]
    returns = [turn_returns(rewards_N, discount) for rewards_N in rewards]
    values = group_relative(
        [np.array([returns[i][t] for i, t in places], np.float32) for places in compared],
        [np.array([counts_G[i] for i, _ in places], np.bool_) for places in compared],
        baseline="group",
        scale="group" if normalise else "none",
    )
    advantages = [np.zeros(n, np.float32) for n in turns]
    for places, values_of_places in zip(compared, values, strict=True):
        for (i, t), value in zip(places, values_of_places, strict=True):
            advantages[i][t] = value
    return advantages


def combined(
    trajectory_advantage: float, turn_advantages_N: FloatArray, *, trajectory: float, turn: float
) -> FloatArray:
    """[N] A_t = trajectory * A + turn * A_t: credit for the outcome and for the turn itself.

    GiGPO, arXiv 2505.10978, with trajectory = 1 and turn = its omega (1 in the paper).
    """
    return np.float32(trajectory * trajectory_advantage) + np.float32(turn) * turn_advantages_N
