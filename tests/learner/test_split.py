"""A term that spans segments: the gradient does not depend on how rows are dealt."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from rlagents.data.packing import pack, sequence_mean_weights
from rlagents.types import Batch
from tests.learner.small import gradients_of, segment, small_learner, small_model

LOW, HIGH = 0.02, 0.03
LENGTHS = [(0, 30), (0, 22), (0, 9), (1, 26), (1, 17), (2, 33), (2, 12), (3, 8)]
"""(label, tokens) of each segment."""


def derive(columns, generator):
    """The mean log-ratio of each trajectory, over all of its segments, and a random choice."""
    log_ratio = columns["current_logprobs"] - columns["behaviour_logprobs"]
    labels, index = torch.unique(columns["sequence_labels"], return_inverse=True)
    sums = torch.zeros(len(labels)).index_add(0, index, log_ratio)
    keep = torch.rand(len(labels), generator=generator) < 0.7
    return {"unit_log_ratio": (sums / index.bincount())[index], "keep": keep[index]}


def objective(logprobs, entropies, columns):
    """The trajectory's clipped ratio; each token carries its share of the gradient."""
    ratio = columns["unit_log_ratio"].exp() * (logprobs - logprobs.detach()).exp()
    clamped = ratio.clamp(1 - LOW, 1 + HIGH)
    advantages = columns["advantages"]
    terms = -torch.minimum(ratio * advantages, clamped * advantages) * columns["keep"]
    return terms - 0.01 * entropies, {}


def setting():
    rng = np.random.default_rng(0)
    credit = {0: 1.0, 1: -0.7, 2: 0.4, 3: -1.2}
    parts = []
    for label, length in LENGTHS:
        part = segment(rng, length, label)
        advantages = np.where(part.loss_mask, credit[label], 0).astype(np.float32)
        parts.append(
            dataclasses.replace(
                part, advantages=advantages, temperatures=np.ones(length, np.float32)
            )
        )
    one = small_learner()
    batch = pack(parts, row_tokens=48, pad_id=0, weights=sequence_mean_weights(parts))
    now = one.columns(batch, ["current_logprobs"]).columns["current_logprobs"]
    trained = batch.loss_weights != 0
    noise = rng.normal(0, 0.1, now.shape) * trained
    batch = dataclasses.replace(batch, behaviour_logprobs=(now + noise).astype(np.float32))
    return parts, one.columns(batch, ["current_logprobs"], derive, seed=0)


def gradient(batch: Batch, **changes):
    """Of one rank: what reaches its optimizer, unclipped."""
    one = small_learner(grad_clip=1e9, **changes)
    seen = gradients_of(one)
    one.step(batch, objective, entropy_gradient=True)
    return seen[0] if seen else {}


def rows(batch: Batch, chosen: slice) -> Batch:
    fields = [f.name for f in dataclasses.fields(batch) if f.name != "columns"]
    arrays = {name: getattr(batch, name)[chosen].copy() for name in fields}
    return Batch(**arrays, columns={k: v[chosen].copy() for k, v in batch.columns.items()})


def test_units_are_cut_by_rows_and_some_are_clipped_or_dropped():
    """Otherwise the tests below would show little."""
    _, batch = setting()
    assert len(batch.token_ids) >= 4
    rows_of = [np.nonzero(batch.sequence_labels == label)[0] for label in range(4)]
    assert sum(len(np.unique(found)) > 1 for found in rows_of) >= 2
    ratios = np.exp(batch.columns["unit_log_ratio"][batch.loss_weights != 0])
    assert ((ratios > 1 + HIGH) | (ratios < 1 - LOW)).any()
    assert ((ratios < 1 + HIGH) & (ratios > 1 - LOW)).any()
    assert set(of_labels(batch, batch.columns["keep"]).values()) == {0, 1}


@pytest.mark.parametrize(
    "changes",
    [
        {"micro_rows": 1},
        {"micro_rows": 2},
        {"logprob_chunk": 5},
        {"activation_checkpointing": True},
    ],
    ids=str,
)
def test_the_gradient_does_not_depend_on_the_micro_batch(changes):
    _, batch = setting()
    whole, cut = gradient(batch, micro_rows=8), gradient(batch, **changes)
    assert max(float(g.abs().max()) for g in whole.values()) > 0.1
    torch.testing.assert_close(cut, whole, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("ranks", [2, 3])
def test_ranks_sum_to_the_whole(ranks):
    _, batch = setting()
    whole = gradient(batch)
    dealt = [gradient(rows(batch, slice(rank, None, ranks))) for rank in range(ranks)]
    assert all(dealt)
    total = {name: sum(g[name] for g in dealt) for name in whole}
    torch.testing.assert_close(total, whole, atol=1e-6, rtol=1e-4)


def test_columns_do_not_depend_on_the_micro_batch_or_the_length_of_rows():
    parts, batch = setting()
    for changes in ({"micro_rows": 1}, {"logprob_chunk": 3}):
        again = small_learner(**changes).columns(batch, ["current_logprobs"], derive, seed=0)
        for name, values in batch.columns.items():
            np.testing.assert_allclose(again.columns[name], values, atol=1e-5)
    moved = [
        dataclasses.replace(part, behaviour_logprobs=values.copy())
        for part, values in zip(parts, behaviours(parts, batch), strict=True)
    ]
    long = pack(moved, row_tokens=200, pad_id=0, weights=sequence_mean_weights(moved))
    assert len(long.token_ids) == 1
    long = small_learner().columns(long, ["current_logprobs"], derive, seed=0)
    ours, theirs = (of_labels(one, one.columns["unit_log_ratio"]) for one in (long, batch))
    assert ours == pytest.approx(theirs, abs=1e-5) and len(ours) == 4
    torch.testing.assert_close(gradient(long), gradient(batch), atol=1e-6, rtol=1e-4)


def of_labels(batch: Batch, values: np.ndarray) -> dict[int, float]:
    """The value of each trajectory, which all of its trained tokens have."""
    trained = batch.loss_weights != 0
    pairs = set(zip(batch.sequence_labels[trained].tolist(), values[trained].tolist(), strict=True))
    assert len(dict(pairs)) == len(pairs)
    return dict(pairs)


def behaviours(parts, batch: Batch):
    """Each segment's behaviour log-probabilities in the batch."""
    for part in parts:
        size = len(part)
        for b, start in zip(*np.nonzero(batch.positions == 0), strict=True):
            if batch.token_ids[b, start : start + size].tolist() == part.token_ids.tolist():
                yield batch.behaviour_logprobs[b, start : start + size]


def test_the_gradient_is_that_of_the_trajectory_ratio_itself():
    """The oracle: s = exp(mean log-ratio of the trajectory), differentiated whole, in no pieces.

    loss = mean over trajectories of -min(s A, clip(s) A), less 0.01 of the mean entropy.
    """
    parts, batch = setting()
    plain = small_model()
    keep = of_labels(batch, batch.columns["keep"])
    advantages = of_labels(batch, batch.advantages)
    ratios: dict[int, list[torch.Tensor]] = {label: [] for label in keep}
    entropies: dict[int, list[torch.Tensor]] = {label: [] for label in keep}
    for part, behaviour in zip(parts, behaviours(parts, batch), strict=True):
        ids = torch.from_numpy(part.token_ids.astype(np.int64))
        logprobs = plain(input_ids=ids[None], use_cache=False).logits[0, :-1].log_softmax(-1)
        own = torch.from_numpy(part.loss_mask[1:].copy())
        chosen = logprobs.gather(-1, ids[1:, None])[:, 0]
        ratios[part.label].append((chosen - torch.from_numpy(behaviour[1:].copy()))[own])
        entropies[part.label].append(-(logprobs.exp() * logprobs).sum(-1)[own])
    loss = torch.zeros(())
    for label, advantage in advantages.items():
        ratio = torch.cat(ratios[label]).mean().exp()
        surrogate = torch.minimum(ratio * advantage, ratio.clamp(1 - LOW, 1 + HIGH) * advantage)
        bonus = 0.01 * torch.cat(entropies[label]).mean()
        loss = loss - (surrogate * keep[label] + bonus) / len(keep)
    loss.backward()
    ours = gradient(batch)
    for name, parameter in plain.named_parameters():
        torch.testing.assert_close(ours[name], parameter.grad, atol=2e-6, rtol=1e-3)
