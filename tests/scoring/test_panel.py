from __future__ import annotations

import pytest

from rlagents.config import JudgeSection
from rlagents.errors import ConfigError, JudgeError
from rlagents.scoring.asked import AskedJudge
from rlagents.scoring.judge import Candidate, Question, Verdict
from rlagents.scoring.panel import Panel
from rlagents.types import EpisodeKey
from tests.scoring.gullible import Gullible

QUESTION = Question(task="t")
ONE, OTHER = (
    Candidate(
        key=EpisodeKey(stream="train", iteration=0, group=0, member=i), transcript="", answer=""
    )
    for i in (0, 1)
)


class Fixed:
    """Always the same verdict; None: it fails."""

    def __init__(self, marks: tuple[float, float] | None, figures: dict[str, float] | None = None):
        self._marks = marks
        self._figures = figures or {}
        self.closed = 0

    def compare(self, question: Question, first: Candidate, second: Candidate) -> Verdict:
        if self._marks is None:
            raise JudgeError("down")
        return Verdict(first=self._marks[0], second=self._marks[1])

    def rate(self, question: Question, candidate: Candidate, repeat: int) -> float:
        return self.compare(question, candidate, candidate).first

    def take_figures(self) -> dict[str, float]:
        return self._figures

    def close(self) -> None:
        self.closed += 1


def test_marks_are_means() -> None:
    panel = Panel([Fixed((1, 2)), Fixed((4, 10))])
    assert panel.compare(QUESTION, ONE, OTHER) == Verdict(first=2.5, second=6)
    assert panel.rate(QUESTION, ONE, 0) == 2.5


def test_one_that_fails_is_left_out_and_counted() -> None:
    panel = Panel([Fixed(None), Fixed((1, 2)), Fixed((3, 4))])
    assert panel.compare(QUESTION, ONE, OTHER) == Verdict(first=2, second=3)
    figures = panel.take_figures()
    assert [figures[f"judge/{i}/fail_frac"] for i in range(3)] == [1, 0, 0]
    assert figures["judge/fail_frac"] == 0


def test_it_fails_when_none_answers() -> None:
    panel = Panel([Fixed(None), Fixed(None)])
    for ask in (
        lambda: panel.compare(QUESTION, ONE, OTHER),
        lambda: panel.rate(QUESTION, ONE, 0),
    ):
        with pytest.raises(JudgeError, match="no judge of 2 answers: down"):
            ask()
    assert panel.take_figures()["judge/fail_frac"] == 1
    assert panel.take_figures() == {}


def test_agreement_leaves_ties_aside() -> None:
    # winners: first, first, second, none: of the pairs 01, 02, 12 one agrees
    panel = Panel([Fixed((2, 1)), Fixed((9, 1)), Fixed((1, 2)), Fixed((5, 5)), Fixed(None)])
    for _ in range(2):
        panel.compare(QUESTION, ONE, OTHER)
    assert panel.take_figures()["judge/agreement"] == pytest.approx(1 / 3)
    assert "judge/agreement" not in panel.take_figures()


def test_without_two_winners_there_is_no_agreement() -> None:
    panel = Panel([Fixed((2, 1)), Fixed((5, 5))])
    panel.compare(QUESTION, ONE, OTHER)
    assert "judge/agreement" not in panel.take_figures()


def test_figures_of_the_judges_are_summed_or_weighted_by_calls() -> None:
    counted = [
        {"judge/calls": 1.0, "judge/cost": 2.0, "judge/parse_fail_frac": 1.0},
        {"judge/calls": 3.0, "judge/cost": 1.0, "judge/parse_fail_frac": 0.2},
        {"judge/calls": 0.0},
    ]
    figures = Panel([Fixed((1, 2), one) for one in counted]).take_figures()
    assert figures["judge/calls"] == 4 and figures["judge/cost"] == 3
    # (1 * 1 + 3 * 0.2) / 4
    assert figures["judge/parse_fail_frac"] == pytest.approx(0.4)
    assert figures["judge/1/parse_fail_frac"] == 0.2


def test_judges_that_mark_on_different_scales_are_refused() -> None:
    rubric, labels = (
        AskedJudge(Gullible(), JudgeSection(form=form)) for form in ("rubric", "refeval")
    )
    with pytest.raises(ConfigError, match=r"scoring\.panel: expected judges that mark on one"):
        Panel([rubric, Fixed((1, 2)), labels])
    Panel([labels, AskedJudge(Gullible(), JudgeSection(form="refmatch")), Fixed((0, 1))])
    with pytest.raises(ValueError, match="one or more"):
        Panel([])


def test_closing_closes_all() -> None:
    judges = [Fixed(None), Fixed(None)]
    Panel(judges).close()
    assert [judge.closed for judge in judges] == [1, 1]
