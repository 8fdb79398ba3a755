"""What judged groups come to over an iteration: the figures of scorers that ask judges."""

from __future__ import annotations

import math
import threading
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rlagents.errors import JudgeError
from rlagents.scoring.panel import agreement, own_margins
from rlagents.types import FloatArray

Floats = NDArray[np.float64]
GREATEST = 1e30
"""Beyond it a number is no mark: sums of such numbers still fit into scores, of four bytes."""


def finite(answer: Any) -> float:
    """A mark out of what a judge answered; NaN for what is none."""
    try:
        mark = float(answer)
    except (TypeError, ValueError, OverflowError):
        return math.nan
    return mark if abs(mark) <= GREATEST else math.nan


def last_problem(answers: Sequence[Any]) -> str:
    """What came instead of verdicts, in words."""
    problems = [str(answer) for answer in answers if isinstance(answer, JudgeError)]
    return f"the last: {problems[-1]}" if problems else "no call failed, answers made no sense"


class Tally:
    """Sums of an iteration. Counted into from many threads at once.

    Letters: J judges, C calls of one, M matches, N members.
    """

    def __init__(self, judges: int = 1) -> None:
        self._lock = threading.Lock()
        self._judges = judges
        self._reset()

    def _reset(self) -> None:
        self._asked_J, self._failed_J = np.zeros((2, self._judges), int)
        self._groups = self._verdicts = self._missing = self._partial = 0
        self._both = self._flipped = 0
        self._shift = 0.0
        self._pairs = self._agreeing = 0
        self._products = np.zeros(3)
        """Of score and length, of score and score, of length and length, inside groups."""

    def calls(self, judge: int, marks_C: Floats) -> None:
        """Count calls of a judge; NaN are those without an answer, be it that it came too late."""
        with self._lock:
            self._asked_J[judge] += len(marks_C)
            self._failed_J[judge] += np.count_nonzero(np.isnan(marks_C))

    def verdicts(self, each_JX: Floats, joint_X: Floats) -> None:
        """Count matches, or members that are rated one by one.

        Args:
            each_JX: what each judge says of them; NaN: nothing.
            joint_X: what all together say.
        """
        known_X = np.isfinite(each_JX).sum(0)
        with self._lock:
            self._verdicts += len(joint_X)
            self._missing += int(np.count_nonzero(np.isnan(joint_X)))
            self._partial += int(np.count_nonzero((known_X > 0) & (known_X < self._judges)))

    def leads(self, leads_JM2: Floats) -> None:
        """Count what comparisons say of the order of the two, and of judges' agreement.

        Args:
            leads_JM2: by how many marks the member shown first is ahead, in both orders.
        """
        both_X2 = leads_JM2[np.isfinite(leads_JM2).all(2)]
        pairs, agreeing = agreement(own_margins(leads_JM2))
        with self._lock:
            self._both += len(both_X2)
            self._flipped += int(np.count_nonzero(both_X2.prod(1) > 0))
            self._shift += float(both_X2.mean(1).sum()) if len(both_X2) else 0.0
            self._pairs += pairs
            self._agreeing += agreeing

    def group(self) -> None:
        """Count a group that judges are asked about."""
        with self._lock:
            self._groups += 1

    def scores(self, scores: FloatArray, lengths: Sequence[int]) -> None:
        """Count the scores of a group's members, with the lengths of their transcripts."""
        known = np.isfinite(scores)
        with self._lock:
            if known.any():
                x = scores[known] - scores[known].mean(dtype=float)
                y = np.asarray(lengths, float)[known]
                y = y - y.mean()
                self._products += (x @ y, x @ x, y @ y)

    def take(self, *, pairs: bool) -> dict[str, float]:
        """Metrics since the last call; nothing of what has not happened.

        `judge/fail_frac`: calls without an answer in time, of all judges; of a panel also
        `judge/I/fail_frac`, from 0. `judge/missing_frac`: matches, or without `pairs` members, that
        have no verdict; `judge/partial_frac`: that have one of some judges and not of others.
        `judge/position_bias`: matches whose winner flips with the order, `judge/position_shift`:
        marks that being shown first is worth, both of each judge's matches;
        `judge/agreement`: of two judges that each see a winner of a match, how often they see the
        same. `score/comparisons_per_group`: matches, those of groups that get no scores included.
        `score/length_correlation`: Pearson's, of score and transcript length inside groups.
        """
        with self._lock:
            figures: dict[str, float] = {}
            asked = int(self._asked_J.sum())
            if asked:
                figures["judge/fail_frac"] = float(self._failed_J.sum() / asked)
            if self._judges > 1:
                counts = zip(self._asked_J.tolist(), self._failed_J.tolist(), strict=True)
                for i, (tried, failed) in enumerate(counts):
                    if tried:
                        figures[f"judge/{i}/fail_frac"] = failed / tried
            if self._verdicts:
                figures["judge/missing_frac"] = self._missing / self._verdicts
            if self._verdicts and self._judges > 1:
                figures["judge/partial_frac"] = self._partial / self._verdicts
            if pairs and self._groups:
                figures["score/comparisons_per_group"] = self._verdicts / self._groups
            if self._both:
                figures["judge/position_bias"] = self._flipped / self._both
                figures["judge/position_shift"] = self._shift / self._both
            if self._pairs:
                figures["judge/agreement"] = self._agreeing / self._pairs
            both, scores, lengths = self._products
            if scores > 0 and lengths > 0:
                figures["score/length_correlation"] = float(both / math.sqrt(scores * lengths))
            self._reset()
            return figures
