"""Against whom to play: the choice among frozen versions of a policy. Pure."""

from __future__ import annotations

from typing import Literal

import numpy as np

from rlagents.types import FloatArray

Choice = Literal["uniform", "recent", "prioritised"]
HARD = 2.0
"""Exponent p of prioritised play."""
FLOOR = 0.05
"""Of a version's weight in prioritised play, so that what is beaten now is met again."""


def chances(choice: Choice, wins_K: FloatArray, games_K: FloatArray) -> FloatArray:
    """[K] probability of each version, oldest first, to be the next opponent.

    - `uniform`: 1 / K, fictitious self-play (Heinrich et al. 2015, ICML).
    - `recent`: proportional to k + 1, so that the average opponent is two thirds of the way to the
      newest; OpenAI Five (arXiv 1912.06680) played 80% against the newest, which needs no choice
      (`self`).
    - `prioritised`: proportional to max((1 - w)^p, 0.05), w the share of games that the policy has
      won against it, p = 2: `f_hard` of prioritised fictitious self-play (Vinyals et al. 2019,
      Nature 575). Deviations: w begins at 1/2, with the weight of two games; the floor.

    Valid for any K of 1 or more; w should forget, since the policy changes.

    Args:
        choice: the rule.
        wins_K: [K] games that the policy won against each, a draw counted half.
        games_K: [K] games against each.

    Raises:
        ValueError: for no versions, shapes that differ, or wins beyond games.
    """
    if wins_K.shape != games_K.shape or wins_K.ndim != 1 or not len(wins_K):
        raise ValueError(f"expected [K] wins and games, K >= 1, got {wins_K.shape, games_K.shape}")
    if (wins_K < 0).any() or (wins_K > games_K).any():
        raise ValueError("expected wins between 0 and games")
    count = len(wins_K)
    if choice == "uniform":
        weights_K = np.ones(count)
    elif choice == "recent":
        weights_K = np.arange(1.0, count + 1)
    else:
        share_K = (wins_K + 1.0) / (games_K + 2.0)
        weights_K = np.maximum((1.0 - share_K) ** HARD, FLOOR)
    return (weights_K / weights_K.sum()).astype(np.float32)


def kept(steps: tuple[int, ...], limit: int) -> tuple[int, ...]:
    """Indices of `limit` versions that stay, by when they were frozen, oldest first.

    While there are too many, the one whose going leaves the smallest gap leaves; the first and the
    last never do. So the past stays covered from its beginning, evenly.

    Raises:
        ValueError: for a limit below 2.
    """
    if limit < 2:
        raise ValueError(f"expected a limit of 2 or more, got {limit}")
    left = list(range(len(steps)))
    while len(left) > limit:
        gaps = [steps[left[i + 1]] - steps[left[i - 1]] for i in range(1, len(left) - 1)]
        del left[1 + int(np.argmin(gaps))]
    return tuple(left)
