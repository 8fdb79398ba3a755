"""Statistics by turn and by segment: by hand, and for any split of the work."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rlagents.data.packing import pack
from rlagents.depth import BUCKETS, buckets
from rlagents.learner.depth import by_axis, depth_sums, totals
from rlagents.learner.model import policy_logprobs
from rlagents.learner.step import Learner
from rlagents.types import Batch
from tests.learner.small import clipped, gradients_of, on_policy, segments, small_learner


def test_sums_by_hand():
    columns = {
        "turns": torch.tensor([0, 1, 2, 2, 7, 5000], dtype=torch.int32),
        "contexts": torch.tensor([0, 0, 0, 1, 1, 3], dtype=torch.int32),
    }
    entropy = torch.tensor([1.0, 2, 3, 4, 5, 6], requires_grad=True)
    clipped = torch.tensor([1.0, 0, 0, 1, 0, 0])
    sums = depth_sums(columns, {"entropy": entropy, "clipped": clipped})
    assert all(s.dtype == torch.float64 and not s.requires_grad for s in sums.values())
    taken = by_axis(sums)
    assert totals(taken) == {"entropy": 21, "clipped": 2}
    # Turn 0 | 1-2 | 3-6 | 7-14 | ... | 2047 on; segments 0 | 1-2 | 3-6.
    rest = [0.0] * 7
    assert {name: values.tolist() for name, values in taken["turn"].items()} == {
        "entropy": [1, 2 + 3 + 4, 0, 5, *rest, 6],
        "clipped": [1, 1, 0, 0, *rest, 0],
        "count": [1, 3, 0, 1, *rest, 1],
    }
    assert {name: values.tolist() for name, values in taken["segment"].items()} == {
        "entropy": [1 + 2 + 3, 4 + 5, 6, *rest, 0, 0],
        "clipped": [1, 1, 0, *rest, 0, 0],
        "count": [3, 2, 1, *rest, 0, 0],
    }


def test_a_step_without_trained_tokens_has_no_depth():
    one = small_learner()
    parts = [
        dataclasses.replace(part, loss_mask=part.loss_mask & False) for part in segments(0, [9])
    ]
    stats = one.step(pack(parts, row_tokens=9, pad_id=0), clipped)
    assert stats.depth == {"turn": {}, "segment": {}} and stats.metrics["train/loss"] == 0


def deep(one: Learner, seed: int, lengths: list[int]) -> Batch:
    """A batch on policy whose tokens are of random turns and contexts."""
    rng = np.random.default_rng(seed)
    parts = [
        dataclasses.replace(
            part,
            turns=np.where(part.loss_mask, rng.integers(0, 100, len(part)), -1).astype(np.int32),
            source=(part.source[0], int(rng.integers(0, 9))),
        )
        for part in segments(seed, lengths)
    ]
    return on_policy(one, parts)


def test_a_step_reports_means_of_each_depth():
    one = small_learner()
    batch = deep(one, 0, [30, 20, 17])
    _, entropies = policy_logprobs(one.model, batch, chunk=512)
    depth = one.step(batch, clipped).depth
    trained = batch.loss_weights != 0
    assert set(depth["turn"]) == {"entropy", "ratio_mean", "clip_frac_low", "count"}
    for axis, indices in (("turn", batch.turns), ("segment", batch.contexts)):
        places = buckets(indices[trained])
        counts = np.bincount(places, minlength=BUCKETS)
        sums = np.bincount(places, entropies.numpy()[trained], minlength=BUCKETS)
        assert depth[axis]["count"].tolist() == counts.tolist()
        np.testing.assert_allclose(depth[axis]["entropy"], sums, rtol=1e-5)
        np.testing.assert_allclose(depth[axis]["ratio_mean"], counts, rtol=1e-5)  # on policy


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 1000), lengths=st.lists(st.integers(2, 40), min_size=1, max_size=6))
def test_depths_add_up_to_the_totals_for_any_split(seed: int, lengths: list[int]):
    whole, cut = small_learner(micro_rows=100), small_learner(micro_rows=1)
    batch = deep(whole, seed, lengths)
    first, second = whole.step(batch, clipped), cut.step(batch, clipped)
    if not first.trained_tokens:
        return
    for axis in ("turn", "segment"):
        assert first.depth[axis]["count"].sum() == first.trained_tokens
        assert (first.depth[axis]["count"] == second.depth[axis]["count"]).all()
        for name, values in first.depth[axis].items():
            np.testing.assert_allclose(values, second.depth[axis][name], rtol=1e-4, atol=1e-5)
            if name != "count":
                mean = values.sum() / first.trained_tokens
                assert mean == pytest.approx(first.metrics[f"policy/{name}"], rel=1e-9)


def test_the_gradient_knows_no_depth():
    one, other = small_learner(), small_learner()
    batch = deep(one, 3, [30, 20])
    elsewhere = dataclasses.replace(
        batch, turns=np.zeros_like(batch.turns), contexts=np.zeros_like(batch.contexts)
    )
    gradients, moved = gradients_of(one), gradients_of(other)
    one.step(batch, clipped)
    other.step(elsewhere, clipped)
    for name, gradient in gradients[0].items():
        assert torch.equal(gradient, moved[0][name]), name


def test_a_number_that_is_not_finite_stays_in_its_bucket():
    columns = {"turns": torch.tensor([0, 1, 7]), "contexts": torch.tensor([0, 0, 0])}
    depth = by_axis(depth_sums(columns, {"ratio": torch.tensor([1.0, float("nan"), 3.0])}))
    ratios = depth["turn"]["ratio"]
    assert ratios[0] == 1 and np.isnan(ratios[1]) and ratios[3] == 3
    assert np.isnan(depth["segment"]["ratio"]).tolist() == [True] + [False] * (BUCKETS - 1)


def test_an_index_below_zero_counts_as_the_first():
    columns = {"turns": torch.tensor([-1, 0]), "contexts": torch.tensor([0, 0])}
    depth = by_axis(depth_sums(columns, {"ratio": torch.ones(2)}))
    assert depth["turn"]["count"][0] == depth["segment"]["count"][0] == 2
