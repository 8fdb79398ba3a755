import itertools
import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlagents.ablate.results import (
    Curve,
    Level,
    at,
    check_tags,
    crossing,
    estimate,
    read,
    source,
    t_quantile,
)
from rlagents.errors import ConfigError, RlagentsError
from tests.ablate.runs import entry, leave, planned, result


def test_a_finished_run_is_read_from_its_own_files(tmp_path: Path) -> None:
    run = planned(tmp_path).runs[2]
    greedy = {**entry(300, 0.9, 2), "mode": "greedy"}
    leave(
        run,
        evals=[
            entry(0, 0.1, 0, "initial"),
            entry(0, 0.2, 0, "warm_start"),  # of the two at 0 tokens, the one that RL starts from
            entry(150, None, 1),  # every episode failed
            entry(300, 0.7, 2),
            greedy,
        ],
        lines=[
            {"step": 0, "eval/score_mean": 0.2},
            {"step": 1, "train/loss": 1.0},
            {"step": 2, "train/score_mean": 0.3, "train/tokens_sampled": 150.0},
            {"step": 3, "train/score_mean": None, "train/tokens_sampled": 250.0},
            {"step": 4, "train/score_mean": 0.5, "train/tokens_sampled": 300.0},
        ],
        tokens_sampled=300,
        wall_s=12.5,
    )
    found = read(run)
    assert (found.arm, found.seed) == ("lr=0.001", 1)
    assert (found.tokens, found.steps, found.wall_s) == (300, 2, 12.5)
    assert found.held_out == ((0.0, 0.2), (300.0, 0.7))
    # A score belongs to the weights that sampled it, and those to the tokens before it.
    assert found.training == ((0.0, 0.3), (250.0, 0.5))
    assert (found.start, found.final) == (0.2, 0.7)


def test_the_last_score_holds_where_no_step_came_after_it(tmp_path: Path) -> None:
    run = planned(tmp_path).runs[0]
    leave(run, evals=[entry(0, 0.1, 0, "initial"), entry(40, 0.3, 1)], steps=1, tokens_sampled=100)
    assert read(run).held_out == ((0.0, 0.1), (40.0, 0.3), (100.0, 0.3))


def test_a_run_without_evaluations_is_known_by_its_training(tmp_path: Path) -> None:
    run = planned(tmp_path).runs[0]
    line = {"step": 1, "train/score_mean": 0.25, "train/tokens_sampled": 100.0}
    leave(run, evals=[], lines=[line])
    found = read(run)
    assert (found.start, found.final, found.held_out) == (0.25, 0.25, ())
    leave(run, evals=[])
    assert (read(run).start, read(run).final) == (None, None)


def test_where_the_metrics_of_a_run_lay(tmp_path: Path) -> None:
    run = planned(tmp_path).runs[0]
    lines: list[dict[str, Any]] = [{"step": n, "ten": float(n)} for n in range(1, 11)]
    lines += [{"step": 11, "ten": None, "never": None}]
    lines += [{"step": 11 + n, "nine": float(n)} for n in range(1, 10)]
    lines += [{"step": 21, "four": value} for value in (1, 2, 3, 6)]
    leave(run, lines=lines)
    assert read(run).metrics == {
        "ten": Level(mean=5.5, end=9.5),  # (9 + 10) / 2: the null does not count
        "never": None,
        "nine": Level(mean=5.0, end=9.0),  # a fifth of 9 lines is one
        "four": Level(mean=3.0, end=6.0),  # at least one
    }
    (run.folder.path / "metrics.jsonl").unlink()
    assert read(run).metrics == {}


def test_a_tag_that_no_run_has_is_named_with_the_nearest() -> None:
    level = Level(mean=0.0, end=0.0)
    one = result("a", 0, metrics={"policy/entropy": level, "train/loss": level})
    other = result("b", 0, metrics={"policy/kl_reference": level, "policy/kl_behaviour": None})
    check_tags((), ())
    check_tags(("train/loss", "policy/kl_behaviour"), (one, other))
    with pytest.raises(ConfigError) as caught:
        check_tags(("train/loss", "policy/kl"), (one, other))
    assert str(caught.value) == (
        "--report policy/kl: in no finished run's metrics; "
        "nearest: policy/kl_reference, policy/kl_behaviour, policy/entropy"
    )
    with pytest.raises(ConfigError, match=r"^--report step: in no finished run's metrics$"):
        check_tags(("step",), (one,))


def test_a_summary_that_is_none_is_named(tmp_path: Path) -> None:
    run = planned(tmp_path).runs[0]
    with pytest.raises(RlagentsError, match=r"summary.json: expected the summary of a run: KeyEr"):
        read(run)


def test_curves_are_held_out_scores_where_all_runs_have_enough() -> None:
    many, few = ((0.0, 0.1), (5.0, 0.2), (9.0, 0.4)), ((0.0, 0.1), (9.0, 0.4))
    training = ((0.0, 0.15), (3.0, 0.2), (6.0, 0.3))
    assert source([result("a", 0, many), result("b", 0, many)]) == "held-out"
    assert source([result("a", 0, many), result("b", 0, few)]) == "training"
    one = result("a", 0, few, training=training)
    assert one.curve("held-out") == few
    # At 0 tokens the training score counts, and the evaluation at the end closes the curve.
    assert one.curve("training") == (*training, (9.0, 0.4))


CURVE: Curve = ((0.0, 0.2), (100.0, 0.4), (300.0, 0.3), (400.0, 0.8))


@pytest.mark.parametrize(
    ("tokens", "score"),
    [(0, 0.2), (50, 0.3), (100, 0.4), (200, 0.35), (350, 0.55), (400, 0.8)],
)
def test_between_two_points_a_curve_is_a_line(tokens: float, score: float) -> None:
    assert at(CURVE, tokens) == pytest.approx(score)


def test_outside_of_a_curve_there_is_no_score() -> None:
    with pytest.raises(ValueError, match=r"expected a place on the curve \(0 to 400\), got 401"):
        at(CURVE, 401)
    with pytest.raises(ValueError, match=r"\(no points\), got 0"):
        at((), 0)


@pytest.mark.parametrize(
    ("threshold", "tokens"),
    [
        (0.1, 0),  # from the start
        (0.2, 0),
        (0.3, 50),  # halfway from 0.2 to 0.4, though the curve falls below it again
        (0.4, 100),
        (0.5, 340),  # 300 + 100 x (0.5 - 0.3) / (0.8 - 0.3)
        (0.8, 400),
        (0.9, None),
    ],
)
def test_the_first_time_at_a_threshold(threshold: float, tokens: float | None) -> None:
    found = crossing(CURVE, threshold)
    assert found is None if tokens is None else found == pytest.approx(tokens)
    assert crossing((), threshold) is None


@given(st.lists(st.floats(-5, 5), min_size=1, max_size=8), st.floats(-5, 5))
def test_the_curve_is_at_the_threshold_where_it_crosses(
    scores: list[float], threshold: float
) -> None:
    curve = tuple(zip(map(float, itertools.count()), scores, strict=False))
    tokens = crossing(curve, threshold)
    if tokens is None:
        assert max(scores) < threshold
    else:
        assert at(curve, tokens) == pytest.approx(max(threshold, scores[0]), abs=1e-9)
        assert all(score < threshold for place, score in curve if place < tokens)


def test_an_interval_by_hand() -> None:
    # Mean 2, deviation 1: 2 +- 4.3027 x 1 / sqrt(3) = 2 +- 2.48417
    found = estimate([1.0, 2.0, 3.0])
    assert found is not None
    assert (found.mean, found.n, found.bound) == (2.0, 3, "")
    assert found.low == pytest.approx(2 - 2.48417, abs=1e-4)
    assert found.high == pytest.approx(2 + 2.48417, abs=1e-4)


def test_one_value_has_no_interval_and_none_no_mean() -> None:
    one = estimate([0.5])
    assert one is not None
    assert (one.mean, one.low, one.high, one.n) == (0.5, None, None, 1)
    assert estimate([]) is None


def density(t: float, freedom: int) -> float:
    """Of Student's t."""
    scale = math.lgamma((freedom + 1) / 2) - math.lgamma(freedom / 2)
    return (
        math.exp(scale)
        / math.sqrt(freedom * math.pi)
        * (1 + t * t / freedom) ** (-(freedom + 1) / 2)
    )


@pytest.mark.parametrize("freedom", [*range(1, 35), 60, 120, 1000])
def test_quantiles_leave_a_fortieth_on_either_side(freedom: int) -> None:
    # Simpson's rule from 0 to the quantile: half of 95%.
    count, end = 4000, t_quantile(freedom)
    step = end / count
    inner = sum((4 if i % 2 else 2) * density(i * step, freedom) for i in range(1, count))
    area = step / 3 * (density(0, freedom) + inner + density(end, freedom))
    assert area == pytest.approx(0.475, abs=5e-6)
