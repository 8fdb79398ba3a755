"""Scores from marks of each trajectory by itself: what tournaments are compared with."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial

import numpy as np

from rlagents.config import JudgeSection
from rlagents.errors import JudgeError
from rlagents.scoring.judge import PointJudge
from rlagents.scoring.jury import Jury
from rlagents.scoring.panel import joint_marks
from rlagents.scoring.scorer import ReturnScorer, failed, returns_of
from rlagents.scoring.tally import Tally, finite, last_problem
from rlagents.scoring.transcript import candidate_of, question_of
from rlagents.types import Group, ScoredGroup


class PointwiseScorer:
    """The mean of `repeats` marks of each member; of several judges as `panel.joint_marks` has it.

    A call that fails, takes too long, or answers anything else than a finite mark, is missing: the
    mean is over the others. A member without any has no score, and neither has one that failed. A
    group of one, an evaluation's, has its return as score: held-out scores are true ones.
    """

    def __init__(self, judges: Sequence[tuple[PointJudge, JudgeSection]]) -> None:
        """`judges`: with how each is asked; `close` closes them.

        Raises:
            ConfigError: for judges that mark on different scales.
        """
        self._jury = Jury(judges)
        self._tally = Tally(len(judges))

    def score(self, group: Group) -> ScoredGroup:
        """Scores [G], whatever time it takes; see `score_by`."""
        return self.score_by(group, math.inf)

    def score_by(self, group: Group, deadline: float) -> ScoredGroup:
        """Scores [G]; calls without an answer at the deadline (`time.monotonic`) are missing.

        Parts: `return`; `marks`, how many calls for a member have one; `missing`, how many have
        none.

        Raises:
            JudgeError: when no call for any member has a mark.
        """
        size = len(group.trajectories)
        if size == 1:
            return ReturnScorer().score(group)
        live = np.flatnonzero(~failed(group))
        scores, count, missing = np.full(size, np.nan), np.zeros(size), np.zeros(size)
        if len(live):
            question = question_of(group)
            shown = [
                [candidate_of(group.trajectories[i], section) for i in live]
                for section in self._jury.sections
            ]
            batches = [
                [
                    partial(judge.rate, question, candidate, repeat)
                    for candidate in candidates
                    for repeat in range(section.repeats)
                ]
                for judge, section, candidates in zip(
                    self._jury.judges, self._jury.sections, shown, strict=True
                )
            ]
            each = []
            answers = self._jury.ask(batches, deadline)
            for i, answered in enumerate(answers):
                marks = np.array([finite(answer) for answer in answered])
                self._tally.calls(i, marks)
                marks = marks.reshape(len(live), -1)
                known = np.isfinite(marks)
                count[live] += known.sum(1)
                missing[live] += (~known).sum(1)
                total = np.where(known, marks, 0).sum(1)
                each.append(np.where(known.any(1), total / np.maximum(known.sum(1), 1), np.nan))
            scores[live] = joint_marks(np.array(each))
            self._tally.verdicts(np.array(each), scores[live])
            if np.isnan(scores).all():
                asked = sum(map(len, answers))
                problem = last_problem([one for answered in answers for one in answered])
                raise JudgeError(f"none of {asked} calls has a mark; {problem}")
            self._tally.scores(scores[live], [len(c.transcript) for c in shown[0]])
        return ScoredGroup(
            group=group,
            scores=scores.astype(np.float32),
            parts={
                "return": returns_of(group),
                "marks": count.astype(np.float32),
                "missing": missing.astype(np.float32),
            },
        )

    def take_figures(self) -> dict[str, float]:
        """Metrics since the last call: those of the judges, and of `rlagents.scoring.tally`."""
        return {**self._jury.take_figures(), **self._tally.take(pairs=False)}

    def close(self) -> None:
        """Ask nothing any more, and close the judges."""
        self._jury.close()
