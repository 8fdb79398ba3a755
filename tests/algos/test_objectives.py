"""The value of each objective on a 2x3 table, by hand. Their gradients: `test_gradients`."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from trl import GRPOTrainer

from rlagents.algos import objectives
from rlagents.algos.objectives import clip_indicators, clipped

UP = torch.tensor([[1.0] * 3, [-1.0] * 3])
"""Advantages: a row of +1 and a row of -1."""

BOUNDS = {"low": 0.2, "high": 0.28}
GATE = {"positive": 1.0, "negative": 1.05}
GAMMA = {"k_positive": 2, "lambda_positive": 3, "k_negative": 3, "lambda_negative": 2}


def logs(*rows):
    return torch.tensor([[math.log(ratio) for ratio in row] for row in rows])


def table(*rows):
    return torch.tensor(rows)


def check(terms, *rows):
    torch.testing.assert_close(terms, table(*rows))


def test_log_ratio_is_a_difference_with_limits():
    policy = table([-1.0, -2.0, 500.0], [-3.0, 0.0, -500.0])
    proximal = table([-1.5, -1.0, 0.0], [-3.0, -1.0, 0.0])
    check(objectives.log_ratio(policy, proximal), [0.5, -1.0, 20.0], [0.0, 1.0, -20.0])


def test_clipped():
    # Ratios 0.5, 1, 2 and bounds 0.8, 1.28. A = 1: min(0.5, 0.8), min(1, 1), min(2, 1.28), negated.
    # A = -1: -min(-0.5, -0.8) = 0.8, 1, -min(-2, -1.28) = 2.
    log_ratio = logs([0.5, 1, 2], [0.5, 1, 2])
    check(clipped(log_ratio, UP, low=0.2, high=0.28), [-0.5, -1.0, -1.28], [0.8, 1.0, 2.0])
    low, high = clip_indicators(log_ratio, UP, low=0.2, high=0.28)
    check(low, [0.0, 0.0, 0.0], [1.0, 0.0, 0.0])
    check(high, [0.0, 0.0, 1.0], [0.0, 0.0, 0.0])


def test_a_lower_bound_of_zero_is_none():
    # low = 1: r = 0.01 with A = -1 is not raised.
    check(clipped(logs([0.01, 1, 2]), -UP[:1], low=1.0, high=0.28), [0.01, 1.0, 2.0])


@pytest.mark.parametrize("bound", [{"dual": 3.0}, {"ceiling": 3.0}])
def test_dual_clip_and_two_sided_clip(bound):
    # Ratios 2, 3, 5. A = 1: all at the upper bound 1.28. A = -2: 2 x 2, then 3 x 2 is the most.
    log_ratio = logs([2, 3, 5], [2, 3, 5])
    advantages = table([1.0] * 3, [-2.0] * 3)
    terms = clipped(log_ratio, advantages, low=0.2, high=0.28, **bound)
    check(terms, [-1.28, -1.28, -1.28], [4.0, 6.0, 6.0])


@given(st.lists(st.tuples(st.floats(-4, 4), st.floats(-3, 3)), min_size=1), st.floats(1.3, 9))
def test_above_the_upper_bound_dual_and_two_sided_clip_are_one(tokens, bound):
    log_ratio, advantages = torch.tensor(tokens, dtype=torch.float64).unbind(1)
    torch.testing.assert_close(
        clipped(log_ratio, advantages, low=0.2, high=0.28, dual=bound),
        clipped(log_ratio, advantages, low=0.2, high=0.28, ceiling=bound),
    )


def test_gspo():
    # Row 1: ratios 1, 2, 4, mean log = ln 2, s = 2: with A = 1 it is clipped to 1.28.
    # Row 2: ratios 1, 1/2, 1/4, s = 1/2: with A = -1 it is raised to 0.8.
    log_ratio = logs([1, 2, 4], [1, 1 / 2, 1 / 4])
    unit = logs([2] * 3, [1 / 2] * 3)
    terms = objectives.gspo(log_ratio, unit, UP, low=0.2, high=0.28)
    check(terms, [-1.28] * 3, [0.8] * 3)
    # GSPO-token, A = 1, -1, 2 in a row. s = 2: 1.28, -min(-2, -1.28), 2 x 1.28.
    # s = 1/2: 0.5, -min(-0.5, -0.8), 2 x 0.5.
    mixed = table([1.0, -1.0, 2.0], [1.0, -1.0, 2.0])
    terms = objectives.gspo(log_ratio, unit, mixed, low=0.2, high=0.28)
    check(terms, [-1.28, 2.0, -2.56], [-0.5, 0.8, -1.0])


def test_indicators_of_gspo_read_the_ratio_of_the_unit():
    low, high = clip_indicators(logs([2] * 3, [1 / 2] * 3), UP, low=0.2, high=0.28)
    check(low, [0.0] * 3, [1.0] * 3)
    check(high, [1.0] * 3, [0.0] * 3)


def test_gmpo():
    # Bounds of log r: -ln 2, ln 2. Row 1: ratios 1/4, 2, 4 with A = 1: only from above, 1/4, 2, 2,
    # whose geometric mean is 1. Row 2: ratios 1/4, 1/2, 4 with A = -2: only from below,
    # 1/2, 1/2, 4, whose geometric mean is 1 as well; terms 2 x 1.
    advantages = table([1.0] * 3, [-2.0] * 3)
    bounds = {"low": math.log(2), "high": math.log(2)}
    log_ratio = logs([1 / 4, 2, 4], [1 / 4, 1 / 2, 4])
    bounded = objectives.gmpo_log_ratio(log_ratio, advantages, **bounds)
    torch.testing.assert_close(bounded, logs([1 / 4, 2, 2], [1 / 2, 1 / 2, 4]))
    unit = bounded.mean(1, keepdim=True).expand(2, 3)
    check(objectives.gmpo(log_ratio, unit, advantages, **bounds), [-1.0] * 3, [2.0] * 3)
    # Column of a geometric mean of 3: terms 3 A.
    unit = logs([3] * 3, [3] * 3)
    check(objectives.gmpo(log_ratio, unit, advantages, **bounds), [-3.0] * 3, [6.0] * 3)


def test_cispo():
    # Weights 0.8, 1, 1.28; -weight x A x log-probability -1, -2, -3.
    logprobs = table([-1.0, -2.0, -3.0], [-1.0, -2.0, -3.0])
    log_ratio = logs([0.5, 1, 2], [0.5, 1, 2])
    terms = objectives.cispo(logprobs, log_ratio, UP, low=0.2, high=0.28)
    check(terms, [0.8, 2.0, 3.84], [-0.8, -2.0, -3.84])
    # Only the upper bound, at 5: weights 0.5, 1, 2.
    terms = objectives.cispo(logprobs, log_ratio, UP, low=1.0, high=4.0)
    check(terms, [0.5, 2.0, 6.0], [-0.5, -2.0, -6.0])


def test_sapo():
    # r - 1 = -x, 0, x with x = ln 3 / temperature: sigmoid 1/4, 1/2, 3/4, times 4 / temperature.
    # Temperature 2 where A > 0: 0.5, 1, 1.5; 4 where A < 0: 0.25, 0.5, 0.75.
    two, four = math.log(3) / 2, math.log(3) / 4
    log_ratio = logs([1 - two, 1, 1 + two], [1 - four, 1, 1 + four])
    terms = objectives.sapo(log_ratio, UP, positive=2.0, negative=4.0)
    check(terms, [-0.5, -1.0, -1.5], [0.25, 0.5, 0.75])


def test_vespo():
    # W^k exp(lambda (1 - W)). A > 0, k 2, lambda 3: W = 1/2: 1/4 e^1.5; 1; W = 2: 4 e^-3.
    # A < 0, k 3, lambda 2: 1/8 e^1; 1; 8 e^-2.
    weight = objectives.vespo_weight(logs([1 / 2, 1, 2], [1 / 2, 1, 2]), UP, **GAMMA)
    e = math.exp
    check(weight, [e(1.5) / 4, 1.0, 4 * e(-3)], [e(1) / 8, 1.0, 8 * e(-2)])
    logprobs = table([-1.0, -2.0, -3.0], [-1.0, -2.0, -3.0])
    terms = objectives.vespo(logprobs, table([0.5, 1.0, 2.0], [0.5, 1.0, 2.0]), UP)
    check(terms, *(-UP * table([-0.5, -2.0, -6.0])).tolist())


@given(st.lists(st.tuples(st.floats(-3, 3), st.floats(-2, 2)), min_size=1, max_size=9))
def test_the_weight_of_vespo_is_that_of_trl(sequences):
    log_ratio, advantages = torch.tensor(sequences, dtype=torch.float64).unbind(1)
    # Eight tokens each of that log-ratio: log W from -24 to 24, beyond both limits.
    theirs = GRPOTrainer.get_gamma_weights(
        advantages[:, None], log_ratio[:, None].expand(-1, 8), torch.ones(len(sequences), 8), None
    )
    ours = objectives.vespo_weight(8 * log_ratio, advantages, **GAMMA)
    torch.testing.assert_close(ours, theirs[:, 0], rtol=1e-6, atol=1e-12)


def test_an_advantage_of_zero_asks_for_nothing():
    log_ratio, nothing, logprobs = logs([0.5, 1, 2]), torch.zeros(1, 3), table([-1.0, -2.0, -3.0])
    for terms in (
        clipped(log_ratio, nothing, **BOUNDS, dual=3.0, ceiling=3.0),
        objectives.gspo(log_ratio, log_ratio, nothing, **BOUNDS),
        objectives.gmpo(log_ratio, log_ratio, nothing, **BOUNDS),
        objectives.cispo(logprobs, log_ratio, nothing, **BOUNDS),
        objectives.sapo(log_ratio, nothing, **GATE),
        objectives.vespo(logprobs, log_ratio.exp(), nothing),
    ):
        assert (terms == 0).all()


@pytest.mark.parametrize(
    ("function", "tensors", "settings"),
    [
        (objectives.log_ratio, 2, {}),
        (clipped, 2, BOUNDS),
        (clip_indicators, 2, BOUNDS),
        (objectives.gspo, 3, BOUNDS),
        (objectives.gmpo_log_ratio, 2, BOUNDS),
        (objectives.gmpo, 3, BOUNDS),
        (objectives.cispo, 3, BOUNDS),
        (objectives.sapo, 2, GATE),
        (objectives.vespo_weight, 2, GAMMA),
        (objectives.vespo, 3, {}),
    ],
)
def test_a_shape_that_torch_would_broadcast_is_refused(function, tensors, settings):
    for odd in range(tensors):
        arguments = [torch.zeros(2, 1 if place == odd else 3) for place in range(tensors)]
        with pytest.raises(ValueError, match=r"equal shapes, got .*\(2, 1\)"):
            function(*arguments, **settings)
