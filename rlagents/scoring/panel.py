"""What several judges say together. Pure: arrays of their marks in, NaN where there is none.

Judges differ in how generous they are, so whoever falls silent must take nothing but its own word
with it: a mean over whoever has answered would move with who that is. Margins of one judge over
both orders have no level, and means of them may be taken over any judges; marks have one.

Letters: J judges, M matches, N members; the last axis of a lead or total is the order of the call.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
_SUMS = ("judge/calls", "judge/tokens", "judge/cost")


def own_margins(leads_JM2: Floats) -> Floats:
    """[J, M] of the member named first; NaN where a judge has not answered in both orders.

    Args:
        leads_JM2: by how many marks the member shown first is ahead; in the second call of a match
            the other one is shown first.
    """
    return (leads_JM2[..., 0] - leads_JM2[..., 1]) / 2


def joint_margins(margins_JM: Floats) -> Floats:
    """[M] means over the judges that have one."""
    return _means(margins_JM)


def joint_totals(totals_JM2: Floats) -> Floats:
    """[M] marks of both members together: means over all calls; NaN where one of them has none.

    A total holds the level of its judge: without one of them it says something else.
    """
    return totals_JM2.mean(axis=(0, 2))


def joint_marks(marks_JN: Floats) -> Floats:
    """[N] means over the judges that have a mark for everybody, so that all are marked by the same.

    Where none has, those of whom the one that has most marks (the first of such) has one are
    marked, by all judges that have a mark for each of these; the others have NaN. A member that
    makes a judge fall silent takes that judge from everybody, which gains it nothing. (Marks above
    each judge's mean of a group would keep more of them, but whoever silences the judge that likes
    it least would gain.)
    """
    known_JN = np.isfinite(marks_JN)
    marked_N = known_JN[known_JN.sum(1).argmax()]
    counted_J = (known_JN | ~marked_N).all(1)
    return np.where(marked_N, _means(np.where(marked_N, marks_JN, np.nan)[counted_J]), np.nan)


def agreement(margins_JM: Floats) -> tuple[int, int]:
    """Of two judges that each see a winner of a match: how often, and how often it is the same."""
    pairs = agreeing = 0
    for one, other in combinations(np.sign(np.nan_to_num(margins_JM)), 2):
        pairs += int(np.count_nonzero(one * other))
        agreeing += int(np.count_nonzero(one * other > 0))
    return pairs, agreeing


def joint_figures(figures: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Figures of a panel: sums (calls, tokens, cost) or means weighted by calls (shares).

    Beside them each judge's own as `judge/I/...`, I from 0. Those of one judge are as they are.
    """
    if len(figures) == 1:
        return dict(figures[0])
    joint: dict[str, float] = {}
    for name in dict.fromkeys(name for one in figures for name in one):
        rows = [(one.get("judge/calls", 1.0), one[name]) for one in figures if name in one]
        calls = sum(weight for weight, _ in rows)
        if name in _SUMS:
            joint[name] = sum(value for _, value in rows)
        elif calls:
            joint[name] = sum(weight * value for weight, value in rows) / calls
    for i, one in enumerate(figures):
        joint |= {f"judge/{i}/{name.removeprefix('judge/')}": one[name] for name in one}
    return joint


def _means(values_JX: Floats) -> Floats:
    """[X] means over J of what is known; NaN where nothing is."""
    known_JX = np.isfinite(values_JX)
    count_X = known_JX.sum(0)
    total_X = np.where(known_JX, values_JX, 0).sum(0)
    return np.where(count_X > 0, total_X / np.maximum(count_X, 1), np.nan)
