from __future__ import annotations

import copy
import dataclasses
import os
import random

import numpy as np
import pytest
import torch
from datasets import Dataset
from trl import SFTConfig, SFTTrainer

from rlagents.config import LearnerSection, WarmStartSection
from rlagents.data.packing import pack, token_mean_weights
from rlagents.errors import LearnerError
from rlagents.learner.group import LearnerGroup
from rlagents.learner.model import policy_logprobs, prepare
from rlagents.learner.rows import check_count, spool
from rlagents.learner.sft import _no_tokenizer, schedule, train_sft
from tests.learner.small import segment, segments, small_model

LENGTHS = [30, 5, 17, 40, 2, 12, 33, 8]


def prepared(**changes):
    model = small_model(**changes)
    prepare(model)
    return model


def train(model, parts, tmp_path, on_step=None, learner=None, **changes):
    config = WarmStartSection(**{"epochs": 1, "lr": 1e-2, "batch_segments": 4, **changes})
    return train_sft(
        model,
        parts,
        config=config,
        learner=learner or LearnerSection(device="cpu"),
        seed=0,
        folder=str(tmp_path / "sft"),
        on_step=on_step,
    )


def masked_in(parts):
    return sum(int(part.loss_mask.sum()) for part in parts)


@pytest.mark.parametrize("length", [40, 1500])
def test_the_model_receives_exactly_the_masked_in_tokens(tmp_path, length):
    """Also past TRL's own limit of 1,024 tokens, where it would cut in silence."""
    model, heads = prepared(), []
    parts = segments(0, [length, 5, 17])
    hook = model.get_output_embeddings().register_forward_hook(
        lambda module, arguments, output: heads.append(output.shape[0])
    )
    report = train(model, parts, tmp_path, batch_segments=2, epochs=2)
    hook.remove()
    assert sum(heads) == report.trained_tokens == 2 * masked_in(parts)
    assert report.steps == 4


def test_the_loss_is_a_mean_over_the_tokens_of_the_batch(tmp_path):
    """One long and one short segment: the mean of means would be another number."""
    model = prepared()
    rng = np.random.default_rng(0)
    parts = [segment(rng, 60, 0, trained=0.9), segment(rng, 4, 1, trained=1.0)]
    batch = pack(parts, row_tokens=64, pad_id=0, weights=token_mean_weights(parts))
    batch = dataclasses.replace(batch, temperatures=np.ones_like(batch.temperatures))
    logprobs, _ = policy_logprobs(model, batch, chunk=64)
    expected = -(logprobs.detach().numpy() * batch.loss_weights).sum()
    logprobs = logprobs.detach()
    means = [-logprobs[0, :60].sum() / masked_in(parts[:1]), -logprobs[0, 60:].sum() / 3]
    seen = []
    report = train(model, parts, tmp_path, lambda *step: seen.append(step), batch_segments=2)
    assert report.first_loss == report.last_loss == pytest.approx(expected, rel=1e-5)
    assert abs(float(sum(means)) / 2 - expected) > 0.01
    assert seen == [(1, 1, report.first_loss)]


def test_accumulation_changes_nothing(tmp_path):
    one, other = prepared(), prepared()
    parts = segments(1, LENGTHS)
    whole = train(one, parts, tmp_path, learner=LearnerSection(device="cpu", micro_rows=8))
    small = LearnerSection(device="cpu", micro_rows=1, activation_checkpointing=True)
    cut = train(other, parts, tmp_path, learner=small)
    assert whole.steps == cut.steps == 2
    assert whole.trained_tokens == cut.trained_tokens == masked_in(parts)
    assert cut.last_loss == pytest.approx(whole.last_loss, rel=1e-4)
    for name, value in one.state_dict().items():
        torch.testing.assert_close(other.state_dict()[name], value, atol=3e-4, rtol=0)


def test_the_loss_is_that_of_trl(tmp_path):
    """The same batch through TRL's own loss on the plain model, padded, gives the same number."""
    plain, model = small_model(), prepared()
    parts = segments(2, [12, 30, 7])
    report = train(model, parts, tmp_path, batch_segments=3)
    rows = [dict(row) for row in spool(parts, str(tmp_path), keep=3).dataset()]
    trainer = SFTTrainer(
        model=plain,
        args=SFTConfig(
            output_dir=str(tmp_path / "trl"),
            max_length=None,
            report_to="none",
            use_cpu=True,
            bf16=False,
            dataset_kwargs={"skip_prepare_dataset": True},
            disable_tqdm=True,
        ),
        train_dataset=Dataset.from_list(rows),
        data_collator=_pad,
        processing_class=_no_tokenizer(),
    )
    loss = trainer.compute_loss(trainer.model, _pad(rows))
    assert float(loss.detach()) == pytest.approx(report.first_loss, rel=1e-5)


def _pad(rows):
    width = max(len(row["input_ids"]) for row in rows)

    def padded(name, fill):
        values = [list(row[name]) + [fill] * (width - len(row[name])) for row in rows]
        return torch.tensor(values)

    lengths = torch.tensor([[len(row["input_ids"])] for row in rows])
    return {
        "input_ids": padded("input_ids", 0),
        "labels": padded("labels", -100),
        "attention_mask": (torch.arange(width) < lengths).long(),
    }


@pytest.mark.parametrize("epochs", [0.4, 1.5, 2.0])
def test_fractions_of_epochs_are_counted_too(tmp_path, epochs):
    """Which segments a fraction has only the trainer knows; their tokens are all there."""
    parts = segments(1, LENGTHS)
    report = train(prepared(), parts, tmp_path, epochs=epochs, batch_segments=2)
    assert report.steps == -(-4 * epochs // 1)
    everything = masked_in(parts)
    assert int(epochs) * everything <= report.trained_tokens <= -(-epochs // 1) * everything


def test_tokens_that_get_lost_are_an_error():
    check_count(20, 20, 10, 2.0)
    check_count(13, 13, 10, 1.5)
    for received, expected, epochs in ((19, 20, 2.0), (19, 19, 2.0), (9, 9, 1.5), (21, 21, 1.5)):
        with pytest.raises(LearnerError, match=f"warm start: {received} tokens were trained"):
            check_count(received, expected, 10, epochs)


def test_the_schedule_by_hand():
    # 40 steps: two of warm-up, then linearly to zero.
    factors = [schedule(step, 40) for step in (0, 1, 2, 20, 39, 40)]
    assert factors == pytest.approx([0.5, 0.975, 0.95, 0.5, 0.025, 0])
    # A short run has no warm-up, and its only step is a full one.
    assert schedule(0, 1) == 1


def test_it_learns_and_reports_progress(tmp_path):
    model, seen = prepared(), []
    report = train(
        model, segments(3, LENGTHS), tmp_path, lambda *step: seen.append(step), epochs=15
    )
    assert [(step, total) for step, total, _ in seen] == [(i, 30) for i in range(1, 31)]
    assert report.last_loss == seen[-1][2] < 0.8 * seen[0][2] == 0.8 * report.first_loss
    assert report.seconds > 0


def test_the_model_is_left_as_the_learner_needs_it(tmp_path):
    model = prepared()
    config, generation = copy.deepcopy(model.config.to_dict()), model.generation_config.to_dict()
    attributes, implementation = set(model.__dict__), model.config._attn_implementation
    torch.manual_seed(5)
    random.seed(5)
    np.random.seed(5)
    states = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()
    train(model, segments(3, LENGTHS), tmp_path)
    assert set(model.__dict__) == attributes and not model.training
    assert model.config.to_dict() == config and model.config._attn_implementation == implementation
    assert model.generation_config.to_dict() == generation
    assert all(p.dtype == torch.float32 and p.grad is None for p in model.parameters())
    assert all(p.requires_grad for p in model.parameters())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    assert torch.equal(torch.get_rng_state(), states[0]) and random.getstate() == states[1]
    assert np.random.get_state()[1].tolist() == states[2]
    assert not os.path.exists(tmp_path / "sft") or not any(
        files for _, _, files in os.walk(tmp_path / "sft")
    )


def test_the_same_seed_gives_the_same_weights(tmp_path):
    one, other = prepared(), prepared()
    torch.manual_seed(1)
    train(one, segments(3, LENGTHS), tmp_path)
    torch.manual_seed(2)
    train(other, segments(3, LENGTHS), tmp_path)
    torch.testing.assert_close(one.state_dict(), other.state_dict(), atol=0, rtol=0)


def test_through_the_group_then_rl(tmp_path):
    """Masked-out segments are left out; with nothing left it is a named error."""
    rng = np.random.default_rng(0)
    parts = segments(3, LENGTHS)
    masked = segment(rng, 9, 99, loss_mask=np.zeros(9, bool))
    warm = WarmStartSection(epochs=1, batch_segments=16)
    for settings in ({}, {"dtype": "bfloat16", "activation_checkpointing": True}):
        group = LearnerGroup(small_model(), LearnerSection(device="cpu", **settings))
        before = group.weights()["model.norm.weight"]
        report = group.sft([*parts, masked], config=warm, seed=0, folder=str(tmp_path))
        assert report.trained_tokens == masked_in(parts)
        assert not torch.equal(group.weights()["model.norm.weight"], before)
        batch = pack(parts, row_tokens=64, pad_id=0)
        assert not group.step(batch, lambda lp, _, c: (-lp * c["advantages"], {})).skipped
        with pytest.raises(LearnerError, match="no segment has a token to train"):
            group.sft([masked], config=warm, seed=0, folder=str(tmp_path))
