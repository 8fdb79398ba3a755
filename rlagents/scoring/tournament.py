"""Scores from comparisons: members of a group meet in pairs, as a topology says (ArenaRL).

ArenaRL, arXiv 2601.06487, with these differences: a match that a judge did not answer is missing
and never a tie; what counts of a match is its margin, in which the drift of a call cancels; groups
of any size work, with byes (`rlagents.algos.tournaments`).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rlagents.algos.active import TAKES_TOTALS
from rlagents.algos.rewards import rewards_of
from rlagents.algos.topologies import topology
from rlagents.algos.tournaments import Standing, play, with_verdicts
from rlagents.config import JudgeSection, TournamentSection
from rlagents.errors import JudgeError
from rlagents.scoring.judge import Candidate, PairJudge, Question
from rlagents.scoring.jury import Batch, Jury
from rlagents.scoring.panel import joint_margins, joint_totals, own_margins
from rlagents.scoring.scorer import ReturnScorer, failed, returns_of
from rlagents.scoring.tally import Tally, finite, last_problem
from rlagents.scoring.transcript import candidate_of, question_of
from rlagents.types import FloatArray, Group, IntArray, ScoredGroup

DRAW = 203
"""Purpose of the seed of what a topology draws."""

Floats = NDArray[np.float64]


class TournamentScorer:
    """What comparisons in both orders make of a group.

    A match is two calls of each judge, one in each order: a judge's margin is the mean of the two
    differences of marks, ((a1 - b1) + (a2 - b2)) / 2, so that neither what an order is worth nor
    what a call is shifted by enters it. It is missing when one of the calls fails, takes too long,
    or answers anything else than two finite marks. The match has the mean of the judges' margins,
    and is missing (NaN) when all of them are; then it decides nothing.

    When the same two meet again, the calls have the next `repeat`, so that it is another question
    to a cache and to whatever is drawn. (A judge that draws nothing says the same once more.)

    Members that failed take no part and have no score; nor has the only member that is left, nor
    one with too few verdicts. A group of one, an evaluation's, has its return as score: there is
    nobody to compare it with.
    """

    def __init__(
        self,
        judges: Sequence[tuple[PairJudge, JudgeSection]],
        section: TournamentSection,
        seed: int,
    ) -> None:
        """`judges`: with how each is asked; `close` closes them. `seed` is the run's.

        Raises:
            ConfigError: for judges that mark on different scales.
        """
        self._jury = Jury(judges)
        self._section = section
        self._seed = seed
        self._topology = topology(
            section.topology,
            matches=section.matches,
            rounds=section.rounds,
            prior=section.prior,
        )
        self._totals = section.totals and section.topology in TAKES_TOTALS
        self._tally = Tally(len(judges))

    def score(self, group: Group) -> ScoredGroup:
        """Scores [G], whatever time it takes; see `score_by`."""
        return self.score_by(group, math.inf)

    def score_by(self, group: Group, deadline: float) -> ScoredGroup:
        """Scores [G]; matches without a verdict at the deadline (`time.monotonic`) are missing.

        Parts: `return`; `rank`, 1 is best; `matches`, how many of a member's have a verdict;
        `missing`, how many have none.

        Raises:
            JudgeError: when fewer than `min_matches` of the matches have a verdict, or no member
                has as many of its own.
        """
        size = len(group.trajectories)
        if size == 1:
            return ReturnScorer().score(group)
        playing = np.flatnonzero(~failed(group))
        scores = np.full(size, np.nan, np.float32)
        parts = {
            "return": returns_of(group),
            "rank": np.full(size, np.nan, np.float32),
            "matches": np.zeros(size, np.float32),
            "missing": np.zeros(size, np.float32),
        }
        if len(playing) > 1:
            asking = _Asking(
                question=question_of(group),
                shown=[
                    [candidate_of(group.trajectories[i], section) for i in playing]
                    for section in self._jury.sections
                ],
                deadline=deadline,
            )
            self._tally.group()
            rng = np.random.default_rng(group.trajectories[0].key.seed(self._seed, DRAW))
            course = self._topology(len(playing), rng)
            standing = play(course, partial(self._verdicts, asking))
            standing = self._enough(standing, asking)
            rewards = rewards_of(standing, self._section.rewards, prior=self._section.prior)
            self._tally.scores(rewards, [len(c.transcript) for c in asking.shown[0]])
            scores[playing], parts["rank"][playing] = rewards, standing.ranks
            for match in standing.matches:
                part = parts["missing" if math.isnan(match.margin) else "matches"]
                part[playing[[match.first, match.second]]] += 1
        return ScoredGroup(group=group, scores=scores, parts=parts)

    def take_figures(self) -> dict[str, float]:
        """Metrics since the last call: those of the judges, and of `rlagents.scoring.tally`."""
        return {**self._jury.take_figures(), **self._tally.take(pairs=True)}

    def close(self) -> None:
        """Ask nothing any more, and close the judges."""
        self._jury.close()

    def _verdicts(self, asking: _Asking, pairs: IntArray) -> FloatArray:
        """[M] margins of a round of pairs [M, 2], or with totals [M, 2]; all its calls at once."""
        batches = asking.batches(self._jury.judges, pairs)
        answers = self._jury.ask(batches, asking.deadline)
        asking.problem = last_problem([one for answered in answers for one in answered])
        # [J, M, 2, 2]: the order of the call, and who is shown first and second in it.
        marks = np.array([[_marks(answer) for answer in answered] for answered in answers])
        marks = marks.reshape(len(batches), len(pairs), 2, 2)
        leads_JM2 = marks[..., 0] - marks[..., 1]
        margins_JM = own_margins(leads_JM2)
        margins_M = joint_margins(margins_JM)
        for i, leads_M2 in enumerate(leads_JM2):
            self._tally.calls(i, leads_M2.ravel())
        self._tally.verdicts(margins_JM, margins_M)
        self._tally.leads(leads_JM2)
        if not self._totals:
            return margins_M.astype(np.float32)
        totals_M = joint_totals(marks.sum(-1))
        return np.stack([margins_M, totals_M], axis=1).astype(np.float32)

    def _enough(self, standing: Standing, asking: _Asking) -> Standing:
        """The standing of those with verdicts enough."""
        asked = standing.comparisons
        missing = sum(math.isnan(match.margin) for match in standing.matches)
        least = self._section.min_matches
        kept = with_verdicts(standing, least)
        if asked - missing < least * asked or np.isnan(kept.scores).all():
            raise JudgeError(
                f"{missing} of {asked} matches have no verdict, at least {least:.0%} must have one "
                f"(scoring.tournament.min_matches); {asking.problem}"
            )
        return kept


@dataclass(slots=True, kw_only=True, eq=False)
class _Asking:
    """What judges are asked about one group."""

    question: Question
    shown: list[list[Candidate]]
    """The members as each judge is shown them."""
    deadline: float
    meetings: Counter[frozenset[int]] = field(default_factory=Counter)
    """How often two have met."""
    problem: str = ""
    """Of the last round."""

    def batches(self, judges: Sequence[PairJudge], pairs: IntArray) -> list[Batch]:
        """Two calls a match, in both orders, for each judge."""
        asked: list[list[Any]] = [[] for _ in judges]
        for a, b in pairs.tolist():
            repeat = self.meetings[frozenset((a, b))]
            self.meetings[frozenset((a, b))] += 1
            for calls, judge, members in zip(asked, judges, self.shown, strict=True):
                for one, other in ((a, b), (b, a)):
                    call = partial(judge.compare, self.question, members[one], members[other])
                    calls.append(partial(call, repeat))
        return list(asked)


def _marks(answer: Any) -> tuple[float, float]:
    """Of the member shown first and of the other; NaN, both, for what is no verdict."""
    try:
        marks = finite(answer.first), finite(answer.second)
    except AttributeError:
        return math.nan, math.nan
    return marks if not any(map(math.isnan, marks)) else (math.nan, math.nan)
