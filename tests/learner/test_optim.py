from __future__ import annotations

import pytest
import torch

from rlagents.config import LearnerSection
from rlagents.learner.optim import clip_gradients, learning_rate, make_optimizer
from tests.learner.small import small_model


def test_warm_up_by_hand():
    config = LearnerSection(lr=0.4, warmup_steps=4)
    rates = [learning_rate(config, step) for step in range(6)]
    assert rates == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.4, 0.4])
    assert learning_rate(LearnerSection(lr=0.4), 0) == 0.4


def test_decay_acts_on_matrices_only():
    model = small_model(tie_word_embeddings=False)
    optimizer = make_optimizer(model, LearnerSection(weight_decay=0.1, betas=(0.8, 0.9)))
    decayed, kept = optimizer.param_groups
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    assert decayed["weight_decay"] == 0.1 and kept["weight_decay"] == 0
    assert all("proj" in names[id(p)] or "lm_head" in names[id(p)] for p in decayed["params"])
    assert all("norm" in names[id(p)] or "embed" in names[id(p)] for p in kept["params"])
    assert len(decayed["params"]) + len(kept["params"]) == len(names)
    assert decayed["betas"] == (0.8, 0.9)


def test_a_tied_head_is_an_embedding():
    model = small_model(tie_word_embeddings=True)
    _, kept = make_optimizer(model, LearnerSection()).param_groups
    assert any(p is model.lm_head.weight for p in kept["params"])


def test_clipping_by_hand():
    """Gradients 3 and 4 have norm 5; a limit of 1 makes them 0.6 and 0.8."""
    one, two = (torch.nn.Parameter(torch.zeros(1)) for _ in range(2))
    one.grad, two.grad = torch.tensor([3.0]), torch.tensor([4.0])
    assert float(clip_gradients([one, two], 10.0)) == pytest.approx(5)
    assert float(two.grad) == 4
    assert float(clip_gradients([one, two], 1.0)) == pytest.approx(5)
    assert [float(one.grad), float(two.grad)] == pytest.approx([0.6, 0.8], abs=1e-5)


def test_a_norm_that_is_not_finite_is_returned():
    one = torch.nn.Parameter(torch.zeros(2))
    one.grad = torch.tensor([float("inf"), 1.0])
    assert not torch.isfinite(clip_gradients([one], 1.0))
    assert one.grad[1] == 1
