"""Scores from comparisons: members of a group meet in pairs, as a topology says (ArenaRL).

ArenaRL, arXiv 2601.06487, with these differences: a match that a judge did not answer is missing
and never a tie; what counts of a match is its margin, in which the drift of a call cancels; groups
of any size work, with byes (`rlagents.algos.tournaments`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np

from rlagents.algos.active import TAKES_TOTALS
from rlagents.algos.rewards import rewards_of
from rlagents.algos.topologies import topology
from rlagents.algos.tournaments import Standing, play
from rlagents.config import JudgeSection, TournamentSection
from rlagents.errors import JudgeError
from rlagents.scoring.calls import Calls
from rlagents.scoring.judge import Candidate, PairJudge, Question, Verdict
from rlagents.scoring.scorer import ReturnScorer, failed, returns_of
from rlagents.scoring.tally import Tally, finite, last_problem
from rlagents.scoring.transcript import candidate_of, question_of
from rlagents.types import FloatArray, Group, IntArray, ScoredGroup

DRAW = 203
"""Purpose of the seed of what a topology draws."""


class TournamentScorer:
    """What comparisons in both orders make of a group.

    A match is two calls, one in each order: its margin is the mean of the two differences of
    marks, ((a1 - b1) + (a2 - b2)) / 2, so that neither what an order is worth nor what a call is
    shifted by enters it. A match is missing (NaN) when one of its calls fails or answers anything
    else than two finite marks; it decides nothing.

    Members that failed take no part and have no score; nor has the only member that is left. A
    group of one, an evaluation's, has its return as score: there is nobody to compare it with.
    """

    def __init__(
        self,
        judge: PairJudge,
        calls: Calls,
        section: TournamentSection,
        judge_section: JudgeSection,
        seed: int,
    ) -> None:
        """`judge_section` says how much of a trajectory is shown; `seed` is the run's."""
        self._judge = judge
        self._calls = calls
        self._section = section
        self._judge_section = judge_section
        self._seed = seed
        self._topology = topology(
            section.topology,
            matches=section.matches,
            rounds=section.rounds,
            prior=section.prior,
        )
        self._tally = Tally()

    def score(self, group: Group) -> ScoredGroup:
        """Scores [G].

        Parts: `return`; `rank`, 1 is best; `matches`, how many of a member's have a verdict;
        `missing`, how many have none.

        Raises:
            JudgeError: when fewer than `min_matches` of the matches have a verdict, or none has.
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
            candidates = [candidate_of(group.trajectories[i], self._judge_section) for i in playing]
            self._tally.group()
            rng = np.random.default_rng(group.trajectories[0].key.seed(self._seed, DRAW))
            answers: list[Any] = []
            margins = partial(self._margins, question_of(group), candidates, answers)
            standing = play(self._topology(len(playing), rng), margins)
            self._require_verdicts(standing, answers)
            rewards = rewards_of(standing, self._section.rewards, prior=self._section.prior)
            self._tally.scores(rewards, [len(c.transcript) for c in candidates])
            scores[playing], parts["rank"][playing] = rewards, standing.ranks
            for match in standing.matches:
                part = parts["missing" if math.isnan(match.margin) else "matches"]
                part[playing[[match.first, match.second]]] += 1
        return ScoredGroup(group=group, scores=scores, parts=parts)

    def take_figures(self) -> dict[str, float]:
        """Metrics since the last call (`rlagents.scoring.tally`), those of the judge among them."""
        return {**self._tally.take(pairs=True), **self._judge.take_figures()}

    def close(self) -> None:
        """Close the judge."""
        self._judge.close()

    def _margins(
        self,
        question: Question,
        candidates: Sequence[Candidate],
        answers: list[Any],
        pairs: IntArray,
    ) -> FloatArray:
        """[M] margins of a round of pairs [M, 2]; all its calls run at once.

        [M, 2] margins and totals, the mean of both members' marks together, for a topology that
        makes something of them. The outcomes of the calls join `answers`.
        """
        compare = partial(self._judge.compare, question)
        calls: list[Callable[[], Verdict]] = []
        for a, b in pairs:
            calls.append(partial(compare, candidates[a], candidates[b]))
            calls.append(partial(compare, candidates[b], candidates[a]))
        answered = self._calls.run(calls)
        answers += answered
        leads = [_lead(answer) for answer in answered]
        margins = np.array(list(map(self._tally.match, leads[::2], leads[1::2])), np.float32)
        if self._section.topology not in TAKES_TOTALS:
            return margins
        totals = np.array([_total(answer) for answer in answered], np.float32)
        return np.stack([margins, (totals[::2] + totals[1::2]) / 2], axis=1)

    def _require_verdicts(self, standing: Standing, answers: Sequence[Any]) -> None:
        asked = standing.comparisons
        missing = sum(math.isnan(match.margin) for match in standing.matches)
        least = self._section.min_matches
        if missing == asked or asked - missing < least * asked:
            raise JudgeError(
                f"{missing} of {asked} matches have no verdict, at least {least:.0%} must have one "
                f"(scoring.tournament.min_matches); {last_problem(answers)}"
            )


def _lead(answer: Any) -> float:
    """By how many marks the member shown first is ahead; NaN for what is no verdict."""
    try:
        return finite(answer.first) - finite(answer.second)
    except AttributeError:
        return math.nan


def _total(answer: Any) -> float:
    """Marks of both together; NaN for what is no verdict."""
    try:
        return finite(answer.first) + finite(answer.second)
    except AttributeError:
        return math.nan
