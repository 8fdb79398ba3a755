from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
import torch

from rlagents.config import LearnerSection
from rlagents.data.packing import pack, sequence_mean_weights
from rlagents.errors import ConfigError, LearnerError
from rlagents.learner.group import LearnerGroup
from rlagents.learner.model import policy_logprobs
from tests.learner.small import (
    LENGTHS,
    clipped,
    on_policy,
    segment,
    segments,
    small_learner,
    small_model,
)


@pytest.mark.parametrize(
    "changes",
    [{"micro_rows": 1}, {"logprob_chunk": 5}, {"activation_checkpointing": True}],
    ids=str,
)
def test_the_update_does_not_depend_on_how_the_work_is_cut(changes):
    first, second = small_learner(), small_learner(**changes)
    batch = on_policy(first, segments(0, LENGTHS))
    a, b = first.step(batch, clipped), second.step(batch, clipped)
    for tag in ("train/loss", "policy/grad_norm", "policy/entropy", "policy/ratio_mean"):
        assert a.metrics[tag] == pytest.approx(b.metrics[tag], abs=1e-5), tag
    # Adam turns rounding of a gradient near 0 into a visible step, so compare at 1% of lr.
    for name, value in first.weights().items():
        torch.testing.assert_close(second.weights()[name], value, atol=1e-4, rtol=0)


def test_the_update_does_not_depend_on_row_length():
    first, second = small_learner(), small_learner()
    parts = segments(0, LENGTHS)
    weights = sequence_mean_weights(parts)
    long, short = (pack(parts, row_tokens=n, pad_id=0, weights=weights) for n in (124, 40))
    assert len(long.token_ids) == 1 and len(short.token_ids) > 3
    a, b = first.step(long, clipped), second.step(short, clipped)
    assert a.metrics["train/loss"] == pytest.approx(b.metrics["train/loss"], rel=1e-5)
    assert a.metrics["policy/grad_norm"] == pytest.approx(b.metrics["policy/grad_norm"], rel=1e-4)


def test_metrics_by_hand():
    """On-policy the ratio is 1, the loss is -sum(w A), entropy is the mean over trained tokens."""
    one = small_learner()
    batch = on_policy(one, segments(0, LENGTHS))
    _, entropy = policy_logprobs(one.model, batch, chunk=512)
    stats = one.step(batch, clipped)
    trained = batch.loss_weights != 0
    assert stats.trained_tokens == trained.sum() and not stats.skipped
    expected = {
        "train/loss": -float((batch.loss_weights * batch.advantages).sum()),
        "policy/ratio_mean": 1.0,
        "policy/clip_frac_low": 0.0,
        "policy/entropy": float(entropy.numpy()[trained].mean()),
        "policy/skipped_steps": 0.0,
        "learner/trained_tokens": float(trained.sum()),
    }
    for tag, value in expected.items():
        assert stats.metrics[tag] == pytest.approx(value, abs=1e-5), tag
    assert stats.metrics["learner/tokens_per_s"] > 0


def test_repeated_steps_raise_the_probability_of_good_tokens():
    one = small_learner()
    rng = np.random.default_rng(0)
    good = segment(rng, 20, 0, advantages=np.ones(20, np.float32))
    bad = segment(rng, 20, 1, advantages=-np.ones(20, np.float32))
    batch = on_policy(one, [good, bad])
    for _ in range(10):
        one.step(batch, lambda lp, _, c: (-lp * c["advantages"], {}))
    change = policy_logprobs(one.model, batch, chunk=512)[0].detach().numpy()
    change = (change - batch.behaviour_logprobs) * (batch.loss_weights != 0)
    assert change[batch.sequence_labels == 0].sum() > 1
    assert change[batch.sequence_labels == 1].sum() < -1


def test_nonsense_on_masked_tokens_does_no_harm():
    one, other = small_learner(), small_learner()
    batch = on_policy(one, segments(0, LENGTHS))
    masked = batch.loss_weights == 0
    poisoned = dataclasses.replace(
        batch,
        behaviour_logprobs=np.where(masked, np.float32("nan"), batch.behaviour_logprobs),
        advantages=np.where(masked, np.float32("inf"), batch.advantages),
    )
    a, b = one.step(batch, clipped), other.step(poisoned, clipped)
    assert a.metrics["train/loss"] == b.metrics["train/loss"] and not b.skipped


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_resumed_equals_never_stopped(optimizer):
    settings = {"warmup_steps": 4, "optimizer": optimizer, "grad_clip": 100, "clip_adaptive": 1.1}
    one = small_learner(**settings)
    batch = on_policy(one, segments(0, LENGTHS))
    one.freeze_reference()
    for _ in range(6):
        one.step(batch, clipped)
        one.move_reference(0.5)
    one.step(batch, lambda lp, _, c: (lp * 0, {}))
    state = one.state()
    frozen = json.dumps(shape_of(state))
    other = small_learner({"seed": 5}, **settings)
    other.load_state(state)
    for _ in range(2):
        a, b = one.step(batch, clipped), other.step(batch, clipped)
        one.move_reference(0.5)
        other.move_reference(0.5)
        clocks = {"learner/tokens_per_s"}
        assert a.metrics.keys() == b.metrics.keys()
        for tag in a.metrics.keys() - clocks:
            assert a.metrics[tag] == b.metrics[tag], tag
        assert a.metrics["policy/skipped_no_signal"] == 1
        assert 0 < a.metrics["policy/grad_limit"] < 100
    first, second = one.state(), other.state()
    for part in ("model", "optimizer", "reference"):
        torch.testing.assert_close(second[part], first[part], atol=0, rtol=0)
    assert first["norms"] == second["norms"]
    assert json.dumps(shape_of(state)) == frozen


def test_muon_trains_at_the_rates_of_both_parts():
    """Warm-up by half: 0.05 for hidden matrices, a fifth of it for the rest."""
    one = small_learner(optimizer="muon", lr=0.1, warmup_steps=2)
    batch = on_policy(one, segments(0, LENGTHS))
    before = one.state()["model"]
    stats = one.step(batch, clipped)
    assert stats.metrics["learner/lr"] == 0.05
    assert [g["lr"] for g in one.optimizer.param_groups] == pytest.approx([0.01, 0.01, 0.05])
    change = {k: (v - before[k]).square().mean().sqrt() for k, v in one.state()["model"].items()}
    # AdamW's first step is the rate; Muon's is 0.2 of it for a full orthogonal matrix.
    assert float(change["model.norm.weight"]) == pytest.approx(0.01, rel=0.01)
    assert float(change["model.layers.0.mlp.up_proj.weight"]) == pytest.approx(0.01, rel=0.3)
    logprobs = [float(one.step(batch, clipped).metrics["train/loss"]) for _ in range(5)]
    assert logprobs[-1] < stats.metrics["train/loss"]


def test_the_reference_moves_by_hand():
    """Policy p0, then p1: 0.75 p0 + 0.25 p1; decay 1 stays, decay 0 is the policy itself."""
    one = small_learner()
    with pytest.raises(LearnerError, match="freeze_reference"):
        one.move_reference(0.5)
    one.freeze_reference()
    before = one.state()["reference"]
    one.step(on_policy(one, segments(0, LENGTHS)), clipped)
    policy = one.state()["model"]
    one.move_reference(1.0)
    torch.testing.assert_close(one.state()["reference"], before, atol=0, rtol=0)
    one.move_reference(0.75)
    expected = {name: 0.75 * before[name] + 0.25 * policy[name] for name in before}
    moved = one.state()["reference"]
    torch.testing.assert_close(moved, expected, atol=1e-7, rtol=1e-6)
    assert max(float((moved[name] - before[name]).abs().max()) for name in before) > 1e-3
    one.move_reference(0.0)
    torch.testing.assert_close(one.state()["reference"], policy, atol=0, rtol=0)
    torch.testing.assert_close(one.state()["model"], policy, atol=0, rtol=0)
    with pytest.raises(ValueError, match="between 0 and 1, got 1.5"):
        one.move_reference(1.5)


def test_entropies_reach_the_objective_with_gradient_only_where_asked():
    one = small_learner(lr=0.05)
    batch = on_policy(one, segments(0, LENGTHS))

    def entropy_only(logprobs, entropies, columns):
        return -entropies, {}

    with pytest.raises(RuntimeError, match="does not require grad"):
        one.step(batch, entropy_only)
    seen = [
        one.step(batch, entropy_only, entropy_gradient=True).metrics["policy/entropy"]
        for _ in range(5)
    ]
    assert seen[-1] > seen[0] + 0.1


def shape_of(value):
    """A state as JSON: it must be nested dicts with string keys, tensors and numbers."""
    if isinstance(value, dict):
        assert all(isinstance(key, str) for key in value)
        return {key: shape_of(item) for key, item in value.items()}
    if isinstance(value, torch.Tensor):
        return [str(value.dtype), list(value.shape), float(value.double().sum())]
    assert isinstance(value, int | float | str)
    return value


def test_the_state_of_another_model_is_refused():
    wider = small_learner({"hidden_size": 64})
    with pytest.raises(LearnerError, match="another model"):
        small_learner().load_state(wider.state())


def test_weights_load_into_a_model_and_are_snapshots():
    one = small_learner()
    weights = one.weights()
    fresh = small_model(seed=9)
    fresh.load_state_dict(weights)
    torch.testing.assert_close(dict(fresh.named_parameters()), dict(one.model.named_parameters()))
    # The head is tied to the embedding: one tensor under two names.
    assert weights["lm_head.weight"] is weights["model.embed_tokens.weight"]
    before = weights["model.norm.weight"].clone()
    one.step(pack(segments(0, LENGTHS), row_tokens=64, pad_id=0), clipped)
    torch.testing.assert_close(weights["model.norm.weight"], before, atol=0, rtol=0)


def test_bfloat16_keeps_updates_that_bfloat16_would_lose():
    one = small_learner(dtype="bfloat16", lr=1e-5)
    batch = on_policy(one, segments(0, LENGTHS))
    before = one.weights()["model.norm.weight"]
    stats = one.step(batch, clipped)
    change = one.weights()["model.norm.weight"] - before
    # The norm's weights are 1, where neighbours in bf16 are 2**-8 apart.
    assert before.eq(1).all() and 0 < change.abs().max() <= 1.1e-5
    assert stats.metrics["policy/ratio_mean"] == pytest.approx(1, abs=0.2)


def test_a_device_that_is_not_there_is_refused():
    if not torch.cuda.is_available():
        with pytest.raises(ConfigError, match=r"learner\.device"):
            small_learner(device="cuda")


def test_group_names_failures_and_closes_twice():
    batch = pack(segments(0, LENGTHS), row_tokens=64, pad_id=0)
    with LearnerGroup(small_model(), LearnerSection(device="cpu")) as group:
        assert not group.step(batch, clipped).skipped
        with pytest.raises(LearnerError, match="optimizer step: KeyError"):
            group.step(batch, lambda logprobs, entropies, columns: columns["absent"])
        with pytest.raises(LearnerError, match="freeze_reference"):
            group.move_reference(0.9)
        group.freeze_reference()
        with pytest.raises(LearnerError, match="move of the reference: ValueError"):
            group.move_reference(-1)
        names = ["current_entropies", "reference_logprobs"]
        filled = group.columns(batch, names, lambda c, _: {"twice": c["current_entropies"] * 2}, 1)
        np.testing.assert_allclose(
            filled.columns["twice"], 2 * filled.columns["current_entropies"], rtol=1e-6
        )
        bonus = group.step(filled, lambda lp, h, c: (-h, {}), entropy_gradient=True)
        assert not bonus.skipped
        group.close()
    with pytest.raises(LearnerError, match="closed"):
        group.weights()
