"""Marks of several judges, by hand; nobody gains by making one of them fall silent."""

from __future__ import annotations

import math

import numpy as np
import pytest
from numpy.typing import NDArray

from rlagents.scoring.panel import (
    agreement,
    joint_figures,
    joint_margins,
    joint_marks,
    joint_totals,
    own_margins,
)

NAN = math.nan


def floats(*rows: object) -> NDArray[np.float64]:
    return np.array(rows, np.float64)


def test_a_judge_has_a_margin_where_it_answers_in_both_orders() -> None:
    # Ahead by 3 when shown first, behind by 1 when shown second, so ahead by 2; one order is no
    # margin.
    leads = floats([[3, -1], [3, NAN]], [[0, 4], [NAN, NAN]])
    np.testing.assert_array_equal(own_margins(leads), floats([2, NAN], [-2, NAN]))


def test_a_margin_is_the_mean_over_those_that_have_one() -> None:
    margins = floats([1, NAN, NAN], [5, 5, NAN])
    np.testing.assert_array_equal(joint_margins(margins), floats(3, 5, NAN))


def test_a_total_needs_all_judges_in_both_orders() -> None:
    totals = floats([[14, 16], [14, 16]], [[3, 5], [3, NAN]])
    np.testing.assert_array_equal(joint_totals(totals), floats(9.5, NAN))  # (14+16+3+5) / 4


def test_the_level_of_a_judge_that_falls_silent_moves_nobody() -> None:
    # Judge 1 is two marks more generous than judge 0. It has no mark for member 1.
    marks = floats([5, 6, 7], [7, NAN, 9])
    np.testing.assert_array_equal(joint_marks(marks), floats(5, 6, 7))
    np.testing.assert_array_equal(joint_marks(floats([5, 6, 7], [7, 8, 9])), floats(6, 7, 8))


def test_who_has_no_mark_of_anybody_has_none_and_the_others_keep_all_judges() -> None:
    marks = floats([5, NAN, 7], [7, NAN, 9], [NAN, NAN, 9])
    np.testing.assert_array_equal(joint_marks(marks), floats(6, NAN, 8))


def test_where_no_judge_is_complete_the_one_with_most_marks_says_who_is_marked() -> None:
    marks = floats([1, NAN, 3, 4], [2, 2, NAN, NAN], [3, 9, 5, 6])
    np.testing.assert_array_equal(joint_marks(marks), floats(3, 9, 5, 6))
    marks[2, 1] = NAN
    np.testing.assert_array_equal(joint_marks(marks), floats(2, NAN, 4, 5))


@pytest.mark.parametrize("silent", [0, 1, 2])
def test_a_member_that_silences_one_judge_gains_no_place(silent: int) -> None:
    rng = np.random.default_rng(silent)
    for _ in range(50):
        honest = rng.normal(size=(3, 6)) + rng.normal(size=(3, 1), scale=5)
        marks = honest.copy()
        marks[silent, 2] = NAN
        others = np.delete(honest, silent, 0)
        np.testing.assert_allclose(joint_marks(marks), others.mean(0))


def test_one_judge_is_as_it_is() -> None:
    np.testing.assert_array_equal(joint_marks(floats([1, NAN, 3])), floats(1, NAN, 3))
    np.testing.assert_array_equal(joint_margins(floats([1, NAN, 3])), floats(1, NAN, 3))
    assert np.isnan(joint_marks(floats([NAN, NAN]))).all()


def test_agreement_leaves_ties_and_silence_aside() -> None:
    # Match 0: winners first, first, second, none, unknown: of 01, 02, 12 one agrees. Match 1: the
    # only two that see a winner agree.
    margins = floats([1, 2], [8, NAN], [-1, 0], [0, 0], [NAN, 5])
    assert agreement(margins) == (4, 2)
    assert agreement(floats([1, 2])) == (0, 0)


def test_figures_are_summed_or_weighted_by_calls() -> None:
    counted = [
        {"judge/calls": 1.0, "judge/cost": 2.0, "judge/parse_fail_frac": 1.0},
        {"judge/calls": 3.0, "judge/cost": 1.0, "judge/parse_fail_frac": 0.2},
        {"judge/calls": 0.0},
    ]
    figures = joint_figures(counted)
    assert figures["judge/calls"] == 4 and figures["judge/cost"] == 3
    # (1 * 1 + 3 * 0.2) / 4
    assert figures["judge/parse_fail_frac"] == pytest.approx(0.4)
    assert figures["judge/1/parse_fail_frac"] == 0.2
    assert joint_figures(counted[:1]) == counted[0]
