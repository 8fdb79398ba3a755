from __future__ import annotations

import gc

import numpy as np
import pytest
import torch

from rlagents.config import LearnerSection
from rlagents.data.packing import pack
from rlagents.learner.memory import measure_windows, peak_live_bytes
from rlagents.learner.step import Learner
from tests.learner.small import segment, small_model


def test_counts_by_hand():
    idle = torch.ones(1000)
    with peak_live_bytes() as live:
        doubled = idle * 2
        view = doubled[10:]
        assert live.live == 4000
        del doubled
        # The view keeps the storage alive.
        assert live.live == 4000
        three = [torch.ones(100) for _ in range(3)]
        del view
        assert (live.live, live.peak) == (1200, 5200)
        idle += 1
        del three
    assert (live.live, live.peak) == (0, 5200)


def test_the_backward_pass_is_seen():
    weight = torch.ones(100, 100, requires_grad=True)
    with peak_live_bytes() as live:
        loss = (weight.exp() * weight).sum()
        # exp and its product; the sum is 4 bytes. autograd keeps exp, and lets go of the product.
        assert live.live == 40_000 + 4
        loss.backward()
        # The gradient is left, and the loss.
        gc.collect()
        assert live.live == 40_000 + 4
        assert live.peak >= 3 * 40_000


def test_eight_windows_train_in_the_memory_of_one():
    """The contract, with activations above 200 MB: at most 1.2 times the peak bytes."""
    torch.set_num_threads(1)
    # A narrow model with a wide feed-forward layer has the most activations for its cost.
    model = small_model(intermediate_size=4096)
    config = LearnerSection(device="cpu", micro_rows=1, logprob_chunk=128)
    one, eight = measure_windows(model, config, window=1536, counts=(1, 8))
    assert one > 200e6
    assert eight <= 1.2 * one


@pytest.mark.parametrize("pinned", [0, 160])
def test_a_hundred_windows_train_in_the_memory_of_one(pinned):
    """51,200 tokens of a policy with a window of 512: at most 1.1 times the peak bytes."""
    config = LearnerSection(device="cpu", micro_rows=1, logprob_chunk=128)
    one, many = measure_windows(
        small_model(num_hidden_layers=1), config, window=512, counts=(1, 100), pinned=pinned
    )
    assert many <= 1.1 * one


WIDE = 4000
"""A vocabulary so large that logits are nearly all of the memory."""


def wide(**changes) -> Learner:
    model = small_model(vocab_size=WIDE, num_hidden_layers=1, intermediate_size=16)
    settings = {"device": "cpu", "micro_rows": 1, "logprob_chunk": 32, **changes}
    return Learner(model, LearnerSection(**settings))


def rows_of(count: int):
    """Rows of one segment of 512 tokens, all trained."""
    rng = np.random.default_rng(0)
    parts = [segment(rng, 512, label, trained=1.0) for label in range(count)]
    return pack(parts, row_tokens=512, pad_id=0)


def test_the_gradient_of_entropies_needs_a_chunk_of_logits_and_not_all():
    one, batch = wide(), rows_of(1)
    dense = batch.trained_tokens * WIDE * 4

    def objective(logprobs, entropies, columns):
        return -logprobs * columns["advantages"] - entropies, {}

    one.step(batch, objective, entropy_gradient=True)
    with peak_live_bytes() as live:
        assert not one.step(batch, objective, entropy_gradient=True).skipped
    assert live.peak < dense
    # The bound means something: one chunk that holds everything needs several such arrays.
    with peak_live_bytes() as whole:
        wide(logprob_chunk=512).step(batch, objective, entropy_gradient=True)
    assert whole.peak > 3 * dense


@pytest.mark.parametrize(
    "names", [["proximal_logprobs"], ["current_logprobs", "current_entropies"]]
)
def test_a_pre_pass_of_eight_rows_needs_the_memory_of_one(names):
    one = wide()
    peaks = []
    for count in (1, 8):
        batch = rows_of(count)
        with peak_live_bytes() as live:
            one.columns(batch, names, lambda c, _: {"ratio": c[names[0]].exp()})
        peaks.append(live.peak)
    assert peaks[1] <= 1.2 * peaks[0]
    assert peaks[0] < 512 * WIDE * 4
