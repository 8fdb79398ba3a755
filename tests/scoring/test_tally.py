"""Figures of judged scoring, by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from rlagents.errors import JudgeError
from rlagents.scoring.panel import joint_margins, own_margins
from rlagents.scoring.tally import Tally, finite, last_problem


def test_comparisons_by_hand() -> None:
    tally = Tally()
    tally.group()
    # Ahead by 3 when shown first, behind by 1 when shown second; one order without an answer; who
    # comes first wins.
    leads = np.array([[[3.0, -1.0], [3.0, math.nan], [1.0, 1.0]]])
    tally.calls(0, leads.ravel())
    tally.verdicts(own_margins(leads), joint_margins(own_margins(leads)))
    tally.leads(leads)
    # Shifts (3 - 1) / 2 and (1 + 1) / 2 of the two matches with a verdict, one of which flips.
    assert tally.take(pairs=True) == {
        "judge/fail_frac": 1 / 6,
        "judge/missing_frac": 1 / 3,
        "score/comparisons_per_group": 3.0,
        "judge/position_bias": 0.5,
        "judge/position_shift": 1.0,
    }
    assert tally.take(pairs=True) == {}


def test_of_a_panel_each_judge_is_counted_and_what_only_some_answered() -> None:
    tally = Tally(2)
    # Both see the first member win; only one answers; neither does.
    leads = np.array(
        [
            [[2.0, -2.0], [1.0, -1.0], [0.0, math.nan]],
            [[1.0, -3.0], [math.nan, 0.0], [math.nan] * 2],
        ]
    )
    for judge in (0, 1):
        tally.calls(judge, leads[judge].ravel())
    tally.verdicts(own_margins(leads), joint_margins(own_margins(leads)))
    tally.leads(leads)
    figures = tally.take(pairs=True)
    assert figures["judge/0/fail_frac"] == 1 / 6 and figures["judge/1/fail_frac"] == 3 / 6
    assert figures["judge/fail_frac"] == 4 / 12
    assert figures["judge/missing_frac"] == figures["judge/partial_frac"] == 1 / 3
    assert figures["judge/agreement"] == 1


def test_correlation_with_length_is_inside_groups() -> None:
    tally = Tally()
    # Inside each group they rise together, by different amounts; the longer group scores less.
    tally.scores(np.array([5.0, 6.0, np.nan], np.float32), [10, 12, 99])
    tally.scores(np.array([0.0, 1.0], np.float32), [100, 101])
    # Centred: scores +-1/2 twice, lengths +-1 and +-1/2: (1 + 1/2) / sqrt(1 * 2.5).
    expected = 1.5 / math.sqrt(2.5)
    assert tally.take(pairs=False)["score/length_correlation"] == pytest.approx(expected)


def test_without_anything_there_are_no_figures() -> None:
    tally = Tally()
    tally.scores(np.array([1.0, 1.0], np.float32), [3, 4])  # no spread of scores: no correlation
    assert tally.take(pairs=True) == {}


def test_marks_that_are_missing_are_counted() -> None:
    tally = Tally()
    marks = np.array([1.0, math.nan, 2.0, 3.0])
    tally.calls(0, marks)
    tally.verdicts(marks[None], marks)
    assert tally.take(pairs=False) == {"judge/fail_frac": 0.25, "judge/missing_frac": 0.25}
    assert tally.take(pairs=False) == {}


@pytest.mark.parametrize(
    ("answer", "mark"), [(1, 1.0), ("2.5", 2.5), (np.float32(3), 3.0), (-1e30, -1e30)]
)
def test_what_is_a_mark(answer: object, mark: float) -> None:
    assert finite(answer) == mark


@pytest.mark.parametrize("answer", [None, "ten", math.nan, math.inf, 1e31, [1.0], JudgeError("x")])
def test_what_is_no_mark(answer: object) -> None:
    assert math.isnan(finite(answer))


def test_the_last_problem_is_that_of_the_last_call_that_failed() -> None:
    assert last_problem([JudgeError("a"), 1.0, JudgeError("b"), 2.0]) == "the last: b"
    assert last_problem(["full marks"]) == "no call failed, answers made no sense"
