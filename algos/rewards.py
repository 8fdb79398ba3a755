"""From the standing of a tournament to the scores that advantages are made of. Pure."""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np

from rlagents.algos.ratings import bradley_terry, fit_margins
from rlagents.algos.tournaments import (
    Standing,
    decided,
    evened,
    points,
    quantiles,
    win_shares,
)
from rlagents.types import FloatArray

Reward = Literal["standing", "rank", "win_rate", "bradley_terry", "margin"]
ITERATED = 1e-5
"""Log-strengths closer than this are equal: the fit is found by iteration."""


def rewards_of(standing: Standing, kind: Reward, *, prior: float = 1.0) -> FloatArray:
    """[N] a score for each member, the more the better; NaN for one without a score there.

    - `standing`: the scores of the topology, whatever they are there.
    - `rank`: 1 - (rank - 1)/(n - 1) over the n members with a rank: 1 the best, 0 the last; equal
      ones share their mean (ArenaRL, arXiv 2601.06487, gives them the better one, and 0 to a group
      of ties). Without ties every group gets the same n numbers, easy or hard.
    - `win_rate`: wins and half the ties over the verdicts. Fair where all meet equally strong ones.
    - `bradley_terry`: log-strengths that make the wins most likely (`ratings.bradley_terry`).
    - `margin`: least squares on the margins, in marks (`ratings.fit_margins`): a group of members
      much alike has small scores, and `advantage.scale` decides what that means.

    All members equal in every match: all scores equal, exactly. A group of one has 0.

    Args:
        prior: of the two fits, in matches against an average member; above 0.

    Raises:
        ValueError: for another kind.
    """
    size = len(standing.scores)
    if kind not in get_args(Reward):
        raise ValueError(f"rewards: expected one of {', '.join(get_args(Reward))}, got {kind!r}")
    if size == 1:
        return np.zeros(1, np.float32)
    if kind == "standing":
        return standing.scores
    if kind == "rank":
        return quantiles(standing.ranks)
    if kind == "win_rate":
        values = win_shares(standing.matches, size)
    else:
        error = ITERATED if kind == "bradley_terry" else 0.0
        values = evened(_fitted(standing, kind, prior), error=error)
    return np.where(np.isnan(standing.scores), np.nan, values).astype(np.float32)


def _fitted(standing: Standing, kind: Reward, prior: float) -> FloatArray:
    """[N] strengths out of all matches with a verdict."""
    size = len(standing.scores)
    matches = decided(standing.matches)
    pairs = np.array([(m.first, m.second) for m in matches], np.int32).reshape(-1, 2)
    if kind == "margin":
        margins = np.array([m.margin for m in matches], np.float32)
        strengths, _ = fit_margins(pairs, margins, size, prior=prior)
    else:
        wins = np.array([points(m.margin) for m in matches], np.float32)
        strengths = bradley_terry(pairs, wins, size, prior=prior)
    return np.asarray(strengths, np.float32)
