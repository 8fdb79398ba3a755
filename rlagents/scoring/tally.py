"""What judged groups come to over an iteration: the figures of scorers that ask judges."""

from __future__ import annotations

import math
import threading
from collections.abc import Sequence
from typing import Any

import numpy as np

from rlagents.errors import JudgeError
from rlagents.types import FloatArray

GREATEST = 1e30
"""Beyond it a number is no mark, and its square no number of a few bytes."""


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
    """Sums of an iteration. Counted into from many threads at once."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._reset()

    def _reset(self) -> None:
        self._groups = self._asked = self._missing = self._flipped = 0
        self._shift = 0.0
        self._products = np.zeros(3)
        """Of score and length, of score and score, of length and length, inside groups."""

    def match(self, one: float, other: float) -> float:
        """Count a match; its margin from what each order says, NaN where one of them says nothing.

        Args:
            one: lead of the member that was shown first, in marks.
            other: likewise with the order turned round.
        """
        margin = (one - other) / 2
        with self._lock:
            self._asked += 1
            if math.isnan(margin):
                self._missing += 1
            else:
                self._flipped += one * other > 0
                self._shift += (one + other) / 2
        return margin

    def marks(self, marks: Sequence[float]) -> None:
        """Count calls that rate one by one; NaN are missing."""
        with self._lock:
            self._asked += len(marks)
            self._missing += sum(map(math.isnan, marks))

    def group(self) -> None:
        """Count a group that the judge is asked about."""
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

        `judge/missing_frac`: matches, or without `pairs` calls, that have no verdict.
        `judge/position_bias`: matches whose winner flips with the order; `judge/position_shift`:
        marks that being shown first is worth. `score/comparisons_per_group`: matches, those of
        groups that get no scores included. `score/length_correlation`: Pearson's, of score and
        transcript length inside groups.
        """
        with self._lock:
            figures: dict[str, float] = {}
            if self._asked:
                figures["judge/missing_frac"] = self._missing / self._asked
            if pairs and self._groups:
                figures["score/comparisons_per_group"] = self._asked / self._groups
            answered = self._asked - self._missing
            if pairs and answered:
                figures["judge/position_bias"] = self._flipped / answered
                figures["judge/position_shift"] = self._shift / answered
            both, scores, lengths = self._products
            if scores > 0 and lengths > 0:
                figures["score/length_correlation"] = float(both / math.sqrt(scores * lengths))
            self._reset()
            return figures
