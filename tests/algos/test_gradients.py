"""The gradient of every objective: against finite differences, against the objective at the level
of sequences, on-policy, and over any split of the batch. `integration/test_trl_parity` has TRL's.
"""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rlagents.algos import objectives
from rlagents.algos.units import unit_means
from tests.algos.objective_table import (
    BOUNDS,
    DOUBLE,
    GAMMA,
    HIGH,
    LOW,
    OBJECTIVES,
    POLICY_OBJECTIVES,
    SEQUENCE_ADVANTAGE,
    gradient,
    unit_weights,
    with_columns,
)


def drawn(seed=0, tokens=120, units=20, spread=1.0):
    """Policy [n] and its batch, off-policy enough that every bound binds somewhere."""
    generator = torch.Generator().manual_seed(seed)

    def normal(scale):
        return torch.randn(tokens, generator=generator, dtype=DOUBLE) * scale

    proximal = -normal(1).abs() - 0.1
    policy = proximal + normal(spread)
    labels = torch.randint(units, (tokens,), generator=generator)
    return policy, with_columns(policy, proximal, normal(1), labels, proximal + normal(0.5))


# --- Finite differences. The terms once more in numpy, what a stop-gradient holds as constants.


def frozen(name, policy, batch):
    """Terms [n] as a function of log-probabilities; every sg[...] is a number made at `policy`."""
    b = {key: value.numpy() for key, value in batch.items()}
    p0, proximal, reference, units = policy.numpy(), b["proximal"], b["reference"], b["units"]
    a = b["unit_advantages" if name in SEQUENCE_ADVANTAGE else "advantages"]
    same = units[:, None] == units[None]
    length = same.sum(1)
    s0 = np.exp((same * (p0 - proximal)).sum(1) / length)

    def surrogate(r):
        return -np.minimum(r * a, np.clip(r, 1 - LOW, 1 + HIGH) * a)

    def bounded(p):  # as in the paper: the sign turns the clip round
        x, sign = p - proximal, np.sign(a)
        return sign * np.minimum(sign * x, sign * np.clip(x, -LOW, HIGH))

    def dual(p):
        return np.where(a < 0, np.minimum(surrogate(np.exp(p - proximal)), -3 * a), two_sided(p))

    def two_sided(p):
        r = np.exp(p - proximal)
        return -np.minimum(np.minimum(r, 4) * a, np.clip(r, 1 - LOW, 1 + HIGH) * a)

    def sapo(p):
        t = np.where(a > 0, 1.0, 1.05)
        return -4 / t / (1 + np.exp(-t * (np.exp(p - proximal) - 1))) * a

    def k3(p):
        return np.exp(reference - p) - 1 - (reference - p)

    g0 = np.exp((same * bounded(p0)).sum(1) / length)
    cispo = np.clip(np.exp(p0 - proximal), 1 - LOW, 1 + HIGH)
    w0 = s0**length
    vespo = np.where(a > 0, w0**2 * np.exp(3 - 3 * w0), w0**3 * np.exp(2 - 2 * w0))
    return {
        "clip": lambda p: surrogate(np.exp(p - proximal)),
        "dual": dual,
        "two_sided": two_sided,
        "gspo": lambda p: surrogate(s0 * np.exp(p - p0)),
        "gspo_token": lambda p: surrogate(s0 * np.exp(p - p0)),
        "luspo": lambda p: length * surrogate(s0 * np.exp(p - p0)),
        "gmpo": lambda p: -g0 * np.exp(bounded(p) - bounded(p0)) * a,
        "cispo": lambda p: -cispo * a * p,
        "sapo": sapo,
        "vespo": lambda p: -vespo * a * p,
        "k1": lambda p: p - reference,
        "k2": lambda p: (p - reference) ** 2 / 2,
        "k3": k3,
        "unbiased": lambda p: np.exp(p - proximal) * k3(p),
    }[name]


@pytest.mark.parametrize("name", OBJECTIVES)
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_gradient_is_that_of_finite_differences(name, seed):
    policy, batch = drawn(seed)
    terms = frozen(name, policy, batch)
    np.testing.assert_allclose(OBJECTIVES[name](policy, batch).numpy(), terms(policy.numpy()))
    p, h = policy.numpy(), 1e-6
    # A term reads its own token only, so one central difference serves for all tokens.
    differences = (terms(p + h) - terms(p - h)) / (2 * h)
    found = gradient(lambda q: OBJECTIVES[name](q, batch), policy)
    np.testing.assert_allclose(found.numpy(), differences, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_drawn_tokens_reach_every_bound(seed):
    policy, batch = drawn(seed)
    log_ratio = policy - batch["proximal"]
    for column in (log_ratio, batch["unit_log_ratio"]):
        for indicator in objectives.clip_indicators(column, batch["advantages"], **BOUNDS):
            assert 0 < indicator.sum() < len(policy)
    # The two bounds for negative advantages, 3 and 4.
    assert ((log_ratio.exp() > 4) & (batch["advantages"] < 0)).any()


# --- The objective at the level of sequences, written plainly.


def sequence_objective(name, policy, batch):
    """Mean over units of the objective of a whole unit, with no straight-through factor."""
    losses = []
    for unit in batch["units"].unique():
        of_unit = batch["units"] == unit
        x = (policy - batch["proximal"])[of_unit]
        advantage = batch["unit_advantages"][of_unit][0]
        if name == "gmpo":
            sign = advantage.sign()
            x = sign * torch.minimum(sign * x, sign * x.clamp(-LOW, HIGH))
            losses.append(-x.mean().exp() * advantage)
            continue
        s = x.mean().exp()
        loss = -torch.minimum(s * advantage, s.clamp(1 - LOW, 1 + HIGH) * advantage)
        losses.append(loss * len(x) if name == "luspo" else loss)
    return torch.stack(losses).mean()


@pytest.mark.parametrize("name", ["gspo", "luspo", "gmpo"])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_sequence_terms_have_value_and_gradient_of_the_sequence_objective(name, seed):
    policy, batch = drawn(seed)
    weights = unit_weights(batch["units"])
    plain = gradient(lambda p: sequence_objective(name, p, batch), policy)
    found = gradient(lambda p: OBJECTIVES[name](p, batch), policy, weights)
    torch.testing.assert_close(found, plain)
    value = (OBJECTIVES[name](policy, batch) * weights).sum()
    torch.testing.assert_close(value, sequence_objective(name, policy, batch))


def test_luspo_under_sequence_mean_is_gspo_under_sequence_sum():
    policy, batch = drawn()
    weights = unit_weights(batch["units"])
    summed = torch.full_like(weights, 1 / len(batch["units"].unique()))
    torch.testing.assert_close(
        gradient(lambda p: OBJECTIVES["luspo"](p, batch), policy, weights),
        gradient(lambda p: OBJECTIVES["gspo"](p, batch), policy, summed),
    )


def test_in_a_unit_of_one_token_gspo_is_clipped():
    policy, batch = drawn()
    batch = with_columns(policy, batch["proximal"], batch["advantages"], torch.arange(len(policy)))
    torch.testing.assert_close(
        gradient(lambda p: OBJECTIVES["gspo"](p, batch), policy),
        gradient(lambda p: OBJECTIVES["clip"](p, batch), policy),
    )


# --- On-policy.


@pytest.mark.parametrize("name", POLICY_OBJECTIVES)
def test_on_policy_the_choice_changes_nothing(name):
    policy, batch = drawn()
    units = batch["units"]
    batch = with_columns(policy, policy.clone(), unit_means(batch["advantages"], units), units)
    weights = unit_weights(units)
    expected = -weights * batch["advantages"]
    if name == "luspo":  # but for its length
        expected = expected * batch["unit_lengths"]
    found = gradient(lambda p: OBJECTIVES[name](p, batch), policy, weights)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("temperature", [0.3, 1.0, 7.0])
def test_the_gate_of_sapo_has_slope_one_at_one(temperature):
    found = gradient(
        lambda p: objectives.sapo(
            p, torch.ones(1, dtype=DOUBLE), positive=temperature, negative=temperature
        ),
        torch.zeros(1, dtype=DOUBLE),
    )
    torch.testing.assert_close(found, -torch.ones(1, dtype=DOUBLE))


@pytest.mark.parametrize(
    ("name", "column"),
    [("gspo", "unit_log_ratio"), ("gmpo", "unit_clipped"), ("vespo", "vespo_weight")],
)
def test_a_column_gets_no_gradient(name, column):
    policy, batch = drawn()
    batch[column].requires_grad_()
    OBJECTIVES[name](policy.requires_grad_(), batch).sum().backward()
    assert policy.grad is not None and batch[column].grad is None


def test_the_weight_of_vespo_carries_no_gradient():
    log_w = torch.zeros(1, requires_grad=True)
    assert not objectives.vespo_weight(log_w, torch.ones(1), **GAMMA).requires_grad


# --- Splits.

TOKENS = st.lists(
    st.tuples(
        st.floats(-3, 3),  # log-ratio
        st.floats(-2, 2),  # advantage
        st.integers(0, 3),  # unit
        st.integers(0, 2),  # micro-batch
    ),
    min_size=1,
    max_size=24,
)


@pytest.mark.parametrize("name", OBJECTIVES)
@given(tokens=TOKENS)
def test_any_split_of_the_tokens_has_the_gradient_of_the_whole(name, tokens):
    log_ratio, advantages, units, part = torch.tensor(tokens, dtype=DOUBLE).unbind(1)
    proximal = torch.full_like(log_ratio, -1.5)
    policy = proximal + log_ratio
    batch = with_columns(policy, proximal, advantages, units.long())
    weights = unit_weights(batch["units"])
    whole = gradient(lambda p: OBJECTIVES[name](p, batch), policy, weights)
    total = torch.zeros_like(policy)
    for number in range(3):
        chosen = part == number
        piece = {key: value[chosen] for key, value in batch.items()}
        total[chosen] += gradient(
            lambda p, piece=piece: OBJECTIVES[name](p, piece), policy[chosen], weights[chosen]
        )
    torch.testing.assert_close(total, whole, rtol=1e-12, atol=1e-14)


# --- Extremes.


@pytest.mark.parametrize("name", OBJECTIVES)
def test_extreme_log_ratios_stay_finite(name):
    # Six units: far above, far below and both, each with an advantage of either sign.
    policy = torch.tensor([500.0, -500.0, 500.0, -500.0, 500.0, -500.0, 21.0, -21.0])
    units = torch.tensor([0, 1, 2, 3, 4, 4, 5, 5])
    advantages = torch.tensor([1.0, 1.0, -1.0, -1.0, 1.0, 1.0, -1.0, -1.0])
    batch = with_columns(policy, torch.zeros(8), advantages, units)
    assert all(torch.isfinite(column).all() for column in batch.values())
    assert torch.isfinite(OBJECTIVES[name](policy, batch)).all()
    assert torch.isfinite(gradient(lambda p: OBJECTIVES[name](p, batch), policy)).all()
