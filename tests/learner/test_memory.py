from __future__ import annotations

import gc

import torch

from rlagents.config import LearnerSection
from rlagents.learner.memory import measure_windows, peak_live_bytes
from tests.learner.small import small_model


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
