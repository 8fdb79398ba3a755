from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from rlagents.data.packing import pack
from rlagents.errors import LearnerError
from rlagents.learner.columns import trained_columns
from rlagents.learner.model import policy_logprobs
from tests.learner.small import (
    LENGTHS,
    clipped,
    on_policy,
    segment,
    segments,
    small_learner,
)


def test_columns_are_those_of_the_policy_and_of_the_frozen_one():
    one = small_learner(micro_rows=1)
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

    def objective(logprobs, entropies, columns):
        torch.testing.assert_close(logprobs.detach(), columns["proximal_logprobs"])
        return logprobs * 0, {}

    one.step(filled, objective)


def test_policy_columns_come_from_one_pass():
    one = small_learner(micro_rows=1)
    batch = on_policy(one, segments(0, LENGTHS))
    heads = []
    one.model.get_output_embeddings().register_forward_hook(
        lambda module, arguments, output: heads.append(output.shape[0])
    )
    names = ["current_entropies", "proximal_logprobs", "current_logprobs"]
    filled = one.columns(batch, names)
    assert sum(heads) == batch.trained_tokens
    assert set(filled.columns) == set(names)
    now, entropies = policy_logprobs(one.model, batch, chunk=512)
    np.testing.assert_allclose(
        filled.columns["current_entropies"][batch.loss_weights != 0],
        entropies.detach().numpy()[batch.loss_weights != 0],
        atol=1e-5,
    )
    np.testing.assert_allclose(filled.columns["current_logprobs"], now.detach().numpy(), atol=1e-5)
    heads.clear()
    one.columns(filled, [], lambda c, _: {"ratio": c["proximal_logprobs"].exp()})
    assert not heads


def test_what_derive_is_given_by_hand():
    """Two rows: [segment of label 4, segment of label 7], [segment of label 4]."""
    rng = np.random.default_rng(0)

    def part(length: int, label: int, *trained: int):
        return segment(rng, length, label, loss_mask=np.isin(np.arange(length), trained))

    parts = [part(5, 4, 1, 3), part(3, 7, 2), part(4, 4, 1)]
    batch = pack(parts, row_tokens=8, pad_id=0)
    assert batch.sequence_labels[:, 0].tolist() == [4, 4]
    batch = dataclasses.replace(batch, columns={"extra": batch.positions.astype(np.float32)})
    columns = trained_columns(batch)
    assert columns["segment_labels"].tolist() == [0, 0, 1, 2]
    assert columns["sequence_labels"].tolist() == [4, 4, 7, 4]
    assert columns["positions"].tolist() == [1, 3, 2, 1]
    assert columns["extra"].tolist() == [1, 3, 2, 1]
    ids = [parts[i].token_ids[t] for i, t in ((0, 1), (0, 3), (1, 2), (2, 1))]
    assert columns["token_ids"].tolist() == ids
    fields = {f.name for f in dataclasses.fields(batch)} - {"columns"}
    assert set(columns) == fields | {"segment_labels", "extra"}
    whole = {"segment_labels", "sequence_labels", "token_ids", "positions", "segment_ids"}
    whole |= {"turns", "contexts"}
    for name, values in columns.items():
        assert values.shape == (4,) and values.device.type == "cpu" and not values.requires_grad
        assert values.dtype == (torch.int64 if name in whole else torch.float32), name


def test_derived_columns_lie_where_their_tokens_are_and_reach_the_objective():
    one = small_learner(micro_rows=1)
    batch = on_policy(one, segments(0, LENGTHS))
    calls = []

    def derive(columns, generator):
        calls.append(len(columns["current_logprobs"]))
        order = torch.arange(len(columns["advantages"]))
        return {
            "order": order,
            "odd": order % 2 == 1,
            "noise": torch.rand(len(order), generator=generator, dtype=torch.float64),
        }

    first = one.columns(batch, ["current_logprobs"], derive, seed=3)
    assert calls == [batch.trained_tokens]
    trained = batch.loss_weights != 0
    assert first.columns["order"][trained].tolist() == list(range(batch.trained_tokens))
    assert first.columns["odd"][trained].tolist() == [i % 2 for i in range(batch.trained_tokens)]
    for values in first.columns.values():
        assert values.dtype == np.float32 and not values[~trained].any()
    again, other = (one.columns(batch, ["current_logprobs"], derive, seed=s) for s in (3, 4))
    assert np.array_equal(first.columns["noise"], again.columns["noise"])
    assert not np.array_equal(first.columns["noise"], other.columns["noise"])
    # A column of the same name is made anew, the others stay.
    later = one.columns(first, [], lambda c, _: {"odd": c["odd"] + c["order"]})
    assert later.columns["odd"][trained][3] == 4
    assert np.array_equal(later.columns["noise"], first.columns["noise"])
    seen = []

    def objective(logprobs, entropies, columns):
        seen.extend(columns["order"].tolist())
        return logprobs * columns["odd"], {}

    one.step(first, objective)
    assert seen == list(range(batch.trained_tokens))


@pytest.mark.parametrize("shape", [(), (1,), (3, 1), (2, 2)], ids=str)
def test_a_derived_column_of_another_shape_is_refused(shape):
    one = small_learner()
    batch = on_policy(one, segments(0, LENGTHS))
    with pytest.raises(LearnerError, match=r"derived column 'bad': expected \[\d+\]"):
        one.columns(batch, [], lambda c, _: {"bad": torch.zeros(shape)})


@pytest.mark.parametrize("name", ["loss_weights", "advantages", "segment_labels"])
def test_derive_can_not_replace_what_the_batch_holds(name):
    one = small_learner()
    batch = on_policy(one, segments(0, LENGTHS))
    with pytest.raises(LearnerError, match=f"own '{name}'"):
        one.columns(batch, [], lambda c, _: {name: c["advantages"]})


def test_nothing_is_derived_where_nothing_is_trained():
    one = small_learner()
    rng = np.random.default_rng(0)
    batch = pack([segment(rng, 9, loss_mask=np.zeros(9, bool))], row_tokens=9, pad_id=0)
    filled = one.columns(batch, ["current_entropies"], lambda c, _: {"mean": c["nonsense"]})
    assert set(filled.columns) == {"current_entropies"}
    assert one.step(filled, clipped).skipped
