"""Scores from marks of each trajectory by itself: what tournaments are compared with."""

from __future__ import annotations

from functools import partial

import numpy as np

from rlagents.config import JudgeSection
from rlagents.errors import JudgeError
from rlagents.scoring.calls import Calls
from rlagents.scoring.judge import PointJudge
from rlagents.scoring.scorer import ReturnScorer, failed, returns_of
from rlagents.scoring.tally import Tally, finite, last_problem
from rlagents.scoring.transcript import candidate_of, question_of
from rlagents.types import Group, ScoredGroup


class PointwiseScorer:
    """The mean of `repeats` marks of each member.

    A call that fails, or answers anything else than a finite mark, is missing: the mean is over
    the others. A member without any has no score, and neither has one that failed. A group of one,
    an evaluation's, has its return as score: held-out scores are true ones.
    """

    def __init__(self, judge: PointJudge, calls: Calls, judge_section: JudgeSection) -> None:
        self._judge = judge
        self._calls = calls
        self._section = judge_section
        self._tally = Tally()

    def score(self, group: Group) -> ScoredGroup:
        """Scores [G].

        Parts: `return`; `marks`, how many calls for a member have one; `missing`, how many have
        none.

        Raises:
            JudgeError: when no call for any member has a mark.
        """
        size, repeats = len(group.trajectories), self._section.repeats
        if size == 1:
            return ReturnScorer().score(group)
        live = np.flatnonzero(~failed(group))
        marks = np.full((size, repeats), np.nan)
        if len(live):
            question = question_of(group)
            candidates = [candidate_of(group.trajectories[i], self._section) for i in live]
            answers = self._calls.run(
                [
                    partial(self._judge.rate, question, candidate, repeat)
                    for candidate in candidates
                    for repeat in range(repeats)
                ]
            )
            marks[live] = np.reshape([finite(answer) for answer in answers], (-1, repeats))
            self._tally.marks(marks[live].ravel().tolist())
            if np.isnan(marks).all():
                raise JudgeError(
                    f"none of {len(answers)} calls has a mark; {last_problem(answers)}"
                )
        known = np.isfinite(marks)
        count = known.sum(axis=1)
        total = np.where(known, marks, 0).sum(axis=1)
        scores = np.where(count > 0, total / np.maximum(count, 1), np.nan).astype(np.float32)
        if len(live):
            self._tally.scores(scores[live], [len(c.transcript) for c in candidates])
        missing = np.where(failed(group), 0, repeats - count)
        return ScoredGroup(
            group=group,
            scores=scores,
            parts={
                "return": returns_of(group),
                "marks": count.astype(np.float32),
                "missing": missing.astype(np.float32),
            },
        )

    def take_figures(self) -> dict[str, float]:
        """Metrics since the last call (`rlagents.scoring.tally`), those of the judge among them."""
        return {**self._tally.take(pairs=False), **self._judge.take_figures()}

    def close(self) -> None:
        """Close the judge."""
        self._judge.close()
