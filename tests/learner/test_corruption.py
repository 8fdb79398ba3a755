"""What may never reach weights or moments: each kind of poison, and the steps after it."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from rlagents.data.packing import pack
from tests.learner.small import (
    LENGTHS,
    clipped,
    on_policy,
    segment,
    segments,
    small_learner,
)

NAN, INF = float("nan"), float("inf")


def steep(logprobs, entropies, columns):
    """0 in value, infinite in slope."""
    return (logprobs - logprobs.detach()).clamp(min=0).sqrt(), {}


def derived(logprobs, entropies, columns):
    terms, stats = clipped(logprobs, entropies, columns)
    return terms * columns["derived"], stats


def scaled(factor: float):
    def objective(logprobs, entropies, columns):
        terms, stats = clipped(logprobs, entropies, columns)
        return terms * factor, stats

    return objective


def at_one_token(batch, values, poison):
    """The column with a poison at the batch's fifth trained token."""
    rows, places = np.nonzero(batch.loss_weights)
    changed = values.copy()
    changed[rows[5], places[5]] = poison
    return changed


def replaced(name: str, poison: float):
    def change(one, batch):
        values = at_one_token(batch, getattr(batch, name), poison)
        return dataclasses.replace(batch, **{name: values})

    return change


def without_advantages(one, batch):
    return dataclasses.replace(batch, advantages=np.zeros_like(batch.advantages))


def column_of_nan(one, batch):
    with_column = one.columns(batch, ["proximal_logprobs"])
    poisoned = at_one_token(batch, with_column.columns["proximal_logprobs"], NAN)
    return dataclasses.replace(batch, columns={"derived": poisoned})


def derive_nan(one, batch):
    return one.columns(batch, [], lambda c, _: {"derived": c["advantages"] / 0 * 0})


def as_is(one, batch):
    return batch


def unweighted(one, batch):
    return dataclasses.replace(batch, loss_weights=np.zeros_like(batch.loss_weights))


POISONS = {
    "loss is nan": (scaled(NAN), as_is, "not_finite"),
    "loss is infinite": (scaled(INF), as_is, "not_finite"),
    "gradient is infinite": (steep, as_is, "not_finite"),
    "gradient overflows": (scaled(1e38), as_is, "not_finite"),
    "nan advantage": (clipped, replaced("advantages", NAN), "not_finite"),
    "infinite advantage": (clipped, replaced("advantages", -INF), "not_finite"),
    "nan behaviour": (clipped, replaced("behaviour_logprobs", NAN), "not_finite"),
    "ratio overflows": (clipped, replaced("behaviour_logprobs", -1e3), "not_finite"),
    "nan weight": (clipped, replaced("loss_weights", NAN), "not_finite"),
    "nan in a column": (derived, column_of_nan, "not_finite"),
    "nan from derive": (derived, derive_nan, "not_finite"),
    "advantages are zero": (clipped, without_advantages, "no_signal"),
    "weights are zero": (clipped, unweighted, "no_signal"),
}


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
@pytest.mark.parametrize("name", POISONS)
def test_a_poisoned_step_changes_nothing_and_training_goes_on(name, optimizer):
    """Bit for bit: weights and moments at once, and all that follows against a learner without."""
    objective, change, reason = POISONS[name]
    settings = {"optimizer": optimizer, "weight_decay": 0.1, "clip_adaptive": 1.5}
    one, clean = small_learner(**settings), small_learner(**settings)
    batch = on_policy(one, segments(0, LENGTHS))
    # Momentum from two good steps: a step on a gradient of 0 would still move.
    for _ in range(2):
        one.step(batch, clipped)
        clean.step(batch, clipped)
    before = one.state()
    stats = one.step(change(one, batch), objective)
    after = one.state()
    assert stats.skipped
    for part in ("model", "optimizer"):
        torch.testing.assert_close(after[part], before[part], atol=0, rtol=0)
    assert after["norms"] == before["norms"]
    assert after["skips"] == {"not_finite": 0, "no_signal": 0, "outliers": 0, reason: 1}
    assert stats.metrics["policy/skipped_steps"] == stats.metrics[f"policy/skipped_{reason}"] == 1
    assert after["steps"] == before["steps"] + 1
    for _ in range(2):
        assert not one.step(batch, clipped).skipped
        clean.step(batch, clipped)
    one, clean = one.state(), clean.state()
    for part in ("model", "optimizer"):
        torch.testing.assert_close(one[part], clean[part], atol=0, rtol=0)


@pytest.mark.parametrize("factor", [1e6, 1e12, 1e18])
@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_a_huge_finite_gradient_is_a_clipped_step(optimizer, factor):
    """As far as a step of the same direction and usual size goes, moments included."""
    one, usual = small_learner(optimizer=optimizer), small_learner(optimizer=optimizer)
    batch = on_policy(one, segments(0, LENGTHS))
    stats, same = one.step(batch, scaled(factor)), usual.step(batch, clipped)
    assert not stats.skipped
    norms = [s.metrics["policy/grad_norm"] for s in (stats, same)]
    assert norms[0] == pytest.approx(norms[1] * factor, rel=1e-4) and norms[1] > 1
    # Rounding of entries near 0 turns AdamW's first steps around, by twice the rate at most.
    for part, allowed in (("model", 2.1e-2), ("optimizer", 1e-5)):
        torch.testing.assert_close(one.state()[part], usual.state()[part], atol=allowed, rtol=1e-3)
    assert not one.step(batch, clipped).skipped


def test_zero_advantages_still_train_where_something_else_pulls():
    """An entropy bonus has a gradient of its own: only a gradient of 0 is no signal."""
    one = small_learner()
    batch = without_advantages(one, on_policy(one, segments(0, LENGTHS)))

    def bonus(logprobs, entropies, columns):
        terms, stats = clipped(logprobs, entropies, columns)
        return terms - 0.01 * entropies, stats

    assert not one.step(batch, bonus, entropy_gradient=True).skipped


def test_a_batch_without_trained_tokens_has_no_signal():
    one = small_learner()
    rng = np.random.default_rng(0)
    batch = pack([segment(rng, 9, loss_mask=np.zeros(9, bool))], row_tokens=9, pad_id=0)
    before = one.state()["model"]
    stats = one.step(batch, clipped)
    assert stats.skipped and stats.metrics["policy/skipped_no_signal"] == 1
    torch.testing.assert_close(one.state()["model"], before, atol=0, rtol=0)


def test_a_report_on_a_poisoned_batch_names_the_label_and_does_no_harm():
    one = small_learner(norm_report=1)
    batch = on_policy(one, segments(0, LENGTHS))
    rows, places = np.nonzero(batch.loss_weights)
    guilty = int(batch.sequence_labels[rows[5], places[5]])
    before = one.state()["model"]
    stats = one.step(replaced("advantages", NAN)(one, batch), clipped)
    assert stats.skipped
    assert [label for label, norm in stats.label_norms.items() if norm != norm] == [guilty]
    torch.testing.assert_close(one.state()["model"], before, atol=0, rtol=0)
    assert not one.step(batch, clipped).skipped
