"""Several judges as one: the mean of those that answer, and how far they agree."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from itertools import combinations
from typing import Protocol, TypeVar

from rlagents.errors import ConfigError, JudgeError
from rlagents.scoring.judge import Candidate, PairJudge, PointJudge, Question, Verdict

T = TypeVar("T")

_SUMS = ("judge/calls", "judge/tokens", "judge/cost")


class Judge(PairJudge, PointJudge, Protocol):
    """Compares and rates."""


class Panel:
    """A judge that asks all of its judges, one after the other. Called from many threads at once.

    Marks are means over those that answered, taken as they are: judges mark on one scale. The call
    fails when none of them answers. A call takes as long as all of theirs together.
    """

    def __init__(self, judges: Sequence[Judge]) -> None:
        """`close` closes them all.

        Raises:
            ConfigError: when judges say that their greatest marks differ: the mean of a mark out of
                10 and of a probability means nothing.
        """
        if not judges:
            raise ValueError("expected one or more judges, got none")
        scales = {judge.greatest for judge in judges if hasattr(judge, "greatest")}  # type: ignore[attr-defined]
        if len(scales) > 1:
            raise ConfigError(
                "scoring.panel: expected judges that mark on one scale, got form rubric (0 to 10) "
                "beside refeval or refmatch (0 to 1)"
            )
        self._judges = tuple(judges)
        self._lock = threading.Lock()
        self._reset()

    def _reset(self) -> None:
        self._asked = self._unanswered = 0
        self._failed = [0] * len(self._judges)
        self._pairs = self._agreeing = 0

    def compare(self, question: Question, first: Candidate, second: Candidate) -> Verdict:
        """Mean marks.

        Raises:
            JudgeError: when no judge answers.
        """
        verdicts = self._answers(lambda judge: judge.compare(question, first, second))
        winners = [v.first > v.second for v in verdicts if v.first != v.second]
        with self._lock:
            for one, other in combinations(winners, 2):
                self._pairs += 1
                self._agreeing += one == other
        return Verdict(
            first=_mean([v.first for v in verdicts]), second=_mean([v.second for v in verdicts])
        )

    def rate(self, question: Question, candidate: Candidate, repeat: int) -> float:
        """A mean mark.

        Raises:
            JudgeError: when no judge answers.
        """
        return _mean(self._answers(lambda judge: judge.rate(question, candidate, repeat)))

    def take_figures(self) -> dict[str, float]:
        """Metrics since the last call.

        `judge/agreement`: of two judges that each see a winner in the same call, how often it is
        the same one. `judge/fail_frac`: calls that no judge answered; `judge/I/fail_frac`: likewise
        of judge I, from 0. Of what the judges count themselves, sums (`calls`, `tokens`, `cost`)
        and means weighted by calls (shares), and each as `judge/I/...`.
        """
        inner = [judge.take_figures() for judge in self._judges]
        figures: dict[str, float] = {}
        for i, one in enumerate(inner):
            for name, value in one.items():
                figures[f"judge/{i}/{name.removeprefix('judge/')}"] = value
        for name in dict.fromkeys(name for one in inner for name in one):
            rows = [(one.get("judge/calls", 1.0), one[name]) for one in inner if name in one]
            calls = sum(weight for weight, _ in rows)
            if name in _SUMS:
                figures[name] = sum(value for _, value in rows)
            elif calls:
                figures[name] = sum(weight * value for weight, value in rows) / calls
        with self._lock:
            if self._asked:
                figures["judge/fail_frac"] = self._unanswered / self._asked
                for i, failed in enumerate(self._failed):
                    figures[f"judge/{i}/fail_frac"] = failed / self._asked
            if self._pairs:
                figures["judge/agreement"] = self._agreeing / self._pairs
            self._reset()
        return figures

    def close(self) -> None:
        """Close all judges."""
        for judge in self._judges:
            judge.close()

    def _answers(self, ask: Callable[[Judge], T]) -> list[T]:
        """What those judges say that say anything."""
        answers: list[T] = []
        error: JudgeError | None = None
        failed: list[int] = []
        for i, judge in enumerate(self._judges):
            try:
                answers.append(ask(judge))
            except JudgeError as raised:
                error = raised
                failed.append(i)
        with self._lock:
            self._asked += 1
            self._unanswered += not answers
            for i in failed:
                self._failed[i] += 1
        if not answers:
            raise JudgeError(f"no judge of {len(self._judges)} answers: {error}") from error
        return answers


def _mean(marks: Sequence[float]) -> float:
    return sum(marks) / len(marks)
