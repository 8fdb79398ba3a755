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
from rlagents.learner.step import Learner
from tests.learner.small import segment, segments, small_model

LENGTHS = [30, 20, 17, 40, 5, 12]


def clipped(logprobs, columns):
    """A minimal clipped surrogate."""
    ratio = (logprobs - columns["behaviour_logprobs"]).exp()
    clamped = ratio.clamp(0.8, 1.2)
    terms = -torch.minimum(ratio * columns["advantages"], clamped * columns["advantages"])
    return terms, {"ratio_mean": ratio.detach(), "clip_frac_low": (ratio < 0.8).float()}


def learner(model_changes=None, **changes) -> Learner:
    settings = {"device": "cpu", "lr": 1e-2, **changes}
    return Learner(small_model(**(model_changes or {})), LearnerSection(**settings))


def on_policy(one: Learner, parts):
    """The batch as if the learner's policy had sampled it."""
    batch = pack(parts, row_tokens=64, pad_id=0)
    logprobs, _ = policy_logprobs(one.model, batch, chunk=512)
    return dataclasses.replace(batch, behaviour_logprobs=logprobs.detach().numpy())


@pytest.mark.parametrize(
    "changes",
    [{"micro_rows": 1}, {"logprob_chunk": 5}, {"activation_checkpointing": True}],
    ids=str,
)
def test_the_update_does_not_depend_on_how_the_work_is_cut(changes):
    first, second = learner(), learner(**changes)
    batch = on_policy(first, segments(0, LENGTHS))
    a, b = first.step(batch, clipped), second.step(batch, clipped)
    for tag in ("train/loss", "policy/grad_norm", "policy/entropy", "policy/ratio_mean"):
        assert a.metrics[tag] == pytest.approx(b.metrics[tag], abs=1e-5), tag
    # Adam turns rounding of a gradient near 0 into a visible step, so compare at 1% of lr.
    for name, value in first.weights().items():
        torch.testing.assert_close(second.weights()[name], value, atol=1e-4, rtol=0)


def test_the_update_does_not_depend_on_row_length():
    first, second = learner(), learner()
    parts = segments(0, LENGTHS)
    weights = sequence_mean_weights(parts)
    long, short = (pack(parts, row_tokens=n, pad_id=0, weights=weights) for n in (124, 40))
    assert len(long.token_ids) == 1 and len(short.token_ids) > 3
    a, b = first.step(long, clipped), second.step(short, clipped)
    assert a.metrics["train/loss"] == pytest.approx(b.metrics["train/loss"], rel=1e-5)
    assert a.metrics["policy/grad_norm"] == pytest.approx(b.metrics["policy/grad_norm"], rel=1e-4)


def test_metrics_by_hand():
    """On-policy the ratio is 1, the loss is -sum(w A), entropy is the mean over trained tokens."""
    one = learner()
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
    one = learner()
    rng = np.random.default_rng(0)
    good = segment(rng, 20, 0, advantages=np.ones(20, np.float32))
    bad = segment(rng, 20, 1, advantages=-np.ones(20, np.float32))
    batch = on_policy(one, [good, bad])
    for _ in range(10):
        one.step(batch, lambda lp, c: (-lp * c["advantages"], {}))
    change = policy_logprobs(one.model, batch, chunk=512)[0].detach().numpy()
    change = (change - batch.behaviour_logprobs) * (batch.loss_weights != 0)
    assert change[batch.sequence_labels == 0].sum() > 1
    assert change[batch.sequence_labels == 1].sum() < -1


@pytest.mark.parametrize("poison", ["loss", "gradient"])
def test_a_step_that_is_not_finite_changes_nothing(poison):
    one = learner()
    batch = on_policy(one, segments(0, LENGTHS))
    one.step(batch, clipped)
    before = one.state()

    def objective(logprobs, columns):
        if poison == "loss":
            return logprobs * float("nan"), {}
        # 0 in value, infinite in slope.
        return (logprobs - logprobs.detach()).clamp(min=0).sqrt(), {}

    stats = one.step(batch, objective)
    assert stats.skipped and stats.metrics["policy/skipped_steps"] == 1
    after = one.state()
    assert after["steps"] == before["steps"] + 1
    for part in ("model", "optimizer"):
        torch.testing.assert_close(after[part], before[part], atol=0, rtol=0)
    assert not one.step(batch, clipped).skipped


def test_a_batch_without_trained_tokens_changes_nothing():
    one = learner()
    rng = np.random.default_rng(0)
    batch = pack([segment(rng, 9, loss_mask=np.zeros(9, bool))], row_tokens=9, pad_id=0)
    before = one.state()["model"]
    assert one.step(batch, clipped).skipped
    torch.testing.assert_close(one.state()["model"], before, atol=0, rtol=0)


def test_nonsense_on_masked_tokens_does_no_harm():
    one, other = learner(), learner()
    batch = on_policy(one, segments(0, LENGTHS))
    masked = batch.loss_weights == 0
    poisoned = dataclasses.replace(
        batch,
        behaviour_logprobs=np.where(masked, np.float32("nan"), batch.behaviour_logprobs),
        advantages=np.where(masked, np.float32("inf"), batch.advantages),
    )
    a, b = one.step(batch, clipped), other.step(poisoned, clipped)
    assert a.metrics["train/loss"] == b.metrics["train/loss"] and not b.skipped


def test_columns_are_those_of_the_policy_and_of_the_frozen_one():
    one = learner(micro_rows=1)
    batch = on_policy(one, segments(0, LENGTHS))
    with pytest.raises(LearnerError, match="freeze_reference"):
        one.columns(batch, ["reference_logprobs"])
    with pytest.raises(LearnerError, match="unknown batch column 'nonsense'"):
        one.columns(batch, ["nonsense"])
    one.freeze_reference()
    one.step(batch, clipped)
    now, _ = policy_logprobs(one.model, batch, chunk=512)
    filled = one.columns(batch, ["reference_logprobs", "proximal_logprobs"])
    reference, proximal = (filled.columns[f"{k}_logprobs"] for k in ("reference", "proximal"))
    np.testing.assert_allclose(reference, batch.behaviour_logprobs, atol=1e-5)
    np.testing.assert_allclose(proximal, now.detach().numpy(), atol=1e-5)
    assert np.abs(reference - proximal).max() > 1e-3

    def objective(logprobs, columns):
        torch.testing.assert_close(logprobs.detach(), columns["proximal_logprobs"])
        return logprobs * 0, {}

    one.step(filled, objective)


def test_resumed_equals_never_stopped():
    one = learner(warmup_steps=4)
    batch = on_policy(one, segments(0, LENGTHS))
    one.freeze_reference()
    for _ in range(2):
        one.step(batch, clipped)
    state = one.state()
    frozen = json.dumps(shape_of(state))
    other = learner({"seed": 5}, warmup_steps=4)
    other.load_state(state)
    for _ in range(2):
        a, b = one.step(batch, clipped), other.step(batch, clipped)
        assert a.metrics["train/loss"] == b.metrics["train/loss"]
        assert a.metrics["learner/lr"] == b.metrics["learner/lr"]
    torch.testing.assert_close(other.weights(), one.weights(), atol=0, rtol=0)
    torch.testing.assert_close(other.state()["reference"], state["reference"], atol=0, rtol=0)
    assert json.dumps(shape_of(state)) == frozen


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
    wider = learner({"hidden_size": 64})
    with pytest.raises(LearnerError, match="another model"):
        learner().load_state(wider.state())


def test_weights_load_into_a_model_and_are_snapshots():
    one = learner()
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
    one = learner(dtype="bfloat16", lr=1e-5)
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
            learner(device="cuda")


def test_group_names_failures_and_closes_twice():
    batch = pack(segments(0, LENGTHS), row_tokens=64, pad_id=0)
    with LearnerGroup(small_model(), LearnerSection(device="cpu")) as group:
        assert not group.step(batch, clipped).skipped
        with pytest.raises(LearnerError, match="optimizer step: KeyError"):
            group.step(batch, lambda logprobs, columns: columns["absent"])
        group.close()
    with pytest.raises(LearnerError, match="closed"):
        group.weights()
