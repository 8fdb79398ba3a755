import math
from pathlib import Path

import pytest

from rlagents.ablate.compare import Comparison, Row, compare
from rlagents.ablate.results import Level, Result
from tests.ablate.runs import planned, result

# Two arms with seeds 0 and 1. `slow` ends at 400 tokens, `quick` at 300.
SLOW = (
    result("lr=0.001", 0, ((0.0, 0.0), (200.0, 0.4), (400.0, 0.6)), tokens=400, steps=4, wall_s=9),
    result("lr=0.001", 1, ((0.0, 0.2), (200.0, 0.4), (400.0, 0.8)), tokens=400, steps=4, wall_s=11),
)
QUICK = (
    result("lr=0.002", 0, ((0.0, 0.0), (100.0, 0.5), (300.0, 0.9)), tokens=300, steps=2),
    result("lr=0.002", 1, ((0.0, 0.2), (100.0, 0.7), (300.0, 0.9)), tokens=300, steps=2),
)
ALL = (*SLOW, *QUICK)


def compared(
    folder: Path, results: tuple[Result, ...], threshold: float | None = None
) -> Comparison:
    return compare(planned(folder), results, threshold)


def rows(comparison: Comparison) -> tuple[Row, Row]:
    slow, quick = comparison.rows
    assert (slow.arm, quick.arm) == ("lr=0.001", "lr=0.002")
    return slow, quick


def test_final_scores_and_their_paired_difference(tmp_path: Path) -> None:
    slow, quick = rows(compared(tmp_path, ALL))
    assert slow.final is not None and quick.final is not None
    assert (slow.final.mean, quick.final.mean) == pytest.approx((0.7, 0.9))
    # 0.6 and 0.8: deviation 0.1 x sqrt(2), so 12.7062 x 0.1 on either side.
    assert slow.final.high == pytest.approx(0.7 + 1.27062)
    difference = quick.final_difference
    # 0.9 - 0.6 and 0.9 - 0.8: mean 0.2, deviation 0.1 x sqrt(2) again.
    assert difference is not None
    assert (difference.mean, difference.low) == pytest.approx((0.2, 0.2 - 1.27062))
    assert slow.final_difference is None
    assert (slow.tokens, slow.steps, slow.wall_s) == (400, 4, 10)


def test_scores_at_equal_tokens(tmp_path: Path) -> None:
    comparison = compared(tmp_path, ALL)
    assert (comparison.source, comparison.budget) == ("held-out", 300)
    slow, quick = rows(comparison)
    assert slow.at_equal_tokens is not None and quick.at_equal_tokens is not None
    # Halfway between 0.4 and 0.6 or 0.8: 0.5 and 0.6.
    assert slow.at_equal_tokens.mean == pytest.approx(0.55)
    assert quick.at_equal_tokens.mean == pytest.approx(0.9)
    difference = quick.at_equal_tokens_difference
    assert difference is not None and difference.mean == pytest.approx(0.35)  # 0.4 and 0.3


def test_the_threshold_is_90_percent_of_the_way_to_the_best_arm(tmp_path: Path) -> None:
    comparison = compared(tmp_path, ALL)
    # All start at 0.1 in the mean; the best arm ends at 0.9: 0.1 + 0.9 x 0.8 = 0.82
    assert comparison.threshold == pytest.approx(0.82)
    slow, quick = rows(comparison)
    # `slow` never gets there: at least its 400 tokens.
    assert slow.to_threshold is not None and quick.to_threshold is not None
    assert (slow.to_threshold.mean, slow.to_threshold.bound, slow.reached) == (400, ">", 0)
    assert slow.to_threshold.low is None
    # `quick`: 100 + 200 x 0.32 / 0.4 = 260 and 100 + 200 x 0.12 / 0.2 = 220
    assert quick.to_threshold.mean == pytest.approx(240)
    assert (quick.to_threshold.bound, quick.reached) == ("", 2)
    # 260 / 400 and 220 / 400, in the geometric mean, at most: `slow` would have needed more.
    ratio = quick.to_threshold_ratio
    assert ratio is not None
    assert (ratio.mean, ratio.bound) == (pytest.approx(math.sqrt(260 * 220) / 400), "<")


def test_some_seeds_that_get_there_make_a_lower_bound(tmp_path: Path) -> None:
    slow, quick = rows(compared(tmp_path, ALL, threshold=0.7))
    # Seed 1 of `slow`: 200 + 200 x 0.3 / 0.4 = 350. Seed 0 counts with its 400.
    assert slow.to_threshold is not None
    assert slow.to_threshold.mean == pytest.approx(375)
    assert (slow.to_threshold.bound, slow.reached) == (">", 1)
    # `quick`: 200 and 100. At most sqrt(200 / 400 x 100 / 350).
    ratio = quick.to_threshold_ratio
    assert ratio is not None and ratio.bound == "<"
    assert ratio.mean == pytest.approx(math.sqrt(0.5 * 100 / 350))
    # The other way round it is at least that.
    arms = ["lr=0.002: learner.lr=0.002", "lr=0.001: learner.lr=0.001"]
    turned = compare(planned(tmp_path, vary=(), arms=arms), ALL, 0.7)
    assert turned.rows[0].arm == "lr=0.002"
    ratio = turned.rows[1].to_threshold_ratio
    assert ratio is not None and ratio.bound == ">"
    assert ratio.mean == pytest.approx(math.sqrt(2 * 350 / 100))


def test_ratios_of_runs_that_all_get_there(tmp_path: Path) -> None:
    _, quick = rows(compared(tmp_path, ALL, threshold=0.5))
    # `slow`: 300 and 250; `quick`: 100 and 100 x 0.3 / 0.5 = 60.
    logs = [math.log(100 / 300), math.log(60 / 250)]
    mean, half = sum(logs) / 2, 12.7062 * abs(logs[0] - logs[1]) / 2
    ratio = quick.to_threshold_ratio
    assert ratio is not None and ratio.bound == ""
    assert ratio.mean == pytest.approx(math.exp(mean))
    assert ratio.low == pytest.approx(math.exp(mean - half))
    assert ratio.high == pytest.approx(math.exp(mean + half))


def test_no_ratio_where_it_would_say_nothing(tmp_path: Path) -> None:
    _, quick = rows(compared(tmp_path, ALL, threshold=0.95))  # nobody
    assert quick.to_threshold_ratio is None
    assert quick.to_threshold is not None and quick.to_threshold.bound == ">"
    _, quick = rows(compared(tmp_path, ALL, threshold=0.1))  # seed 1 from the start: 0 tokens
    assert quick.to_threshold_ratio is None


def test_differences_are_of_seeds_that_both_arms_have(tmp_path: Path) -> None:
    slow, quick = rows(compared(tmp_path, (*SLOW, QUICK[1])))
    assert (slow.runs, quick.runs) == (2, 1)
    difference = quick.final_difference
    assert difference is not None and difference.n == 1
    assert (difference.mean, difference.low) == (pytest.approx(0.9 - 0.8), None)


def test_an_arm_without_finished_runs_is_a_row_of_nothing(tmp_path: Path) -> None:
    slow, quick = rows(compared(tmp_path, SLOW))
    assert quick.runs == quick.reached == 0
    nothing = (quick.final, quick.at_equal_tokens, quick.to_threshold, quick.tokens)
    assert nothing == (None,) * 4
    assert (quick.final_difference, quick.to_threshold_ratio) == (None, None)
    assert slow.runs == 2


def test_where_nothing_was_learned_there_is_no_threshold(tmp_path: Path) -> None:
    flat = ((0.0, 0.5), (50.0, 0.4), (100.0, 0.5))
    comparison = compared(tmp_path, (result("lr=0.001", 0, flat), result("lr=0.002", 0, flat)))
    assert comparison.threshold is None
    slow, quick = rows(comparison)
    assert slow.to_threshold is None and quick.to_threshold_ratio is None
    assert quick.at_equal_tokens_difference is not None


def test_training_scores_where_evaluations_are_too_few(tmp_path: Path) -> None:
    runs = tuple(
        result(
            arm,
            0,
            ((0.0, 0.0), (100.0, end)),
            training=((0.0, 0.1), (50.0, end / 2)),
        )
        for arm, end in (("lr=0.001", 0.4), ("lr=0.002", 1.0))
    )
    comparison = compared(tmp_path, runs)
    assert (comparison.source, comparison.budget) == ("training", 100)
    # The threshold is one of held-out scores, which are there: 0 + 0.9 x 1
    assert comparison.threshold == pytest.approx(0.9)
    slow, quick = rows(comparison)
    assert quick.to_threshold is not None
    assert quick.to_threshold.mean == pytest.approx(90)  # 50 + 50 x 0.4 / 0.5
    assert slow.at_equal_tokens is not None and slow.at_equal_tokens.mean == pytest.approx(0.4)


def test_runs_without_any_score(tmp_path: Path) -> None:
    comparison = compared(tmp_path, (result("lr=0.001", 0), result("lr=0.002", 0)))
    assert (comparison.budget, comparison.threshold) == (None, None)
    slow, _ = rows(comparison)
    assert (slow.final, slow.at_equal_tokens, slow.tokens) == (None, None, 100)


def with_metric(arm: str, seed: int, mean: float, end: float) -> Result:
    return result(arm, seed, metrics={"m": Level(mean=mean, end=end), "silent": None})


METRICS = (
    with_metric("lr=0.001", 0, 2.0, 1.0),
    with_metric("lr=0.001", 1, 4.0, 2.0),
    with_metric("lr=0.002", 0, 5.0, 1.5),
    with_metric("lr=0.002", 1, 5.0, 3.5),
)


def test_metrics_that_are_asked_for(tmp_path: Path) -> None:
    comparison = compare(planned(tmp_path), METRICS, tags=("silent", "m", "unknown"))
    silent, _, slow, quick = comparison.figures
    named = [(figure.tag, figure.arm) for figure in comparison.figures]
    arms = ("lr=0.001", "lr=0.002")
    assert named == [(tag, arm) for tag in ("silent", "m") for arm in arms]
    assert (silent.mean, silent.end, silent.end_difference) == (None, None, None)
    assert slow.mean is not None and slow.end is not None
    # 2 and 4: 3, and 12.7062 x 1 on either side; 1 and 2: 1.5, and 12.7062 x 0.5.
    assert (slow.mean.mean, slow.mean.high) == pytest.approx((3.0, 15.7062))
    assert (slow.end.mean, slow.end.low) == pytest.approx((1.5, -4.8531))
    assert slow.end_difference is None
    assert quick.mean is not None and (quick.mean.low, quick.mean.high) == (5.0, 5.0)
    # 1.5 - 1 and 3.5 - 2: 0.5 and 1.5, so 1, and 12.7062 x 0.5.
    difference = quick.end_difference
    assert difference is not None
    assert (difference.mean, difference.low) == pytest.approx((1.0, 1 - 6.3531))
    assert compare(planned(tmp_path), METRICS).figures == ()


def test_a_metric_that_one_arm_does_not_have(tmp_path: Path) -> None:
    runs = (result("lr=0.001", 0), *METRICS[2:])
    slow, quick = compare(planned(tmp_path), runs, tags=("m",)).figures
    assert (slow.mean, slow.end) == (None, None)
    assert quick.end is not None and quick.end.n == 2
    assert quick.end_difference is None  # no seed that both have
