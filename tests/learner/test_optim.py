from __future__ import annotations

import math

import pytest
import torch

from rlagents.config import LearnerSection
from rlagents.learner.optim import clip_gradients, gradient_norm, learning_rate, make_optimizer
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
    norm = gradient_norm([one, two])
    assert norm == 5
    clip_gradients([one, two], norm, 10.0)
    assert float(two.grad) == 4
    clip_gradients([one, two], norm, 1.0)
    assert [float(one.grad), float(two.grad)] == pytest.approx([0.6, 0.8], rel=1e-6)


def test_clipping_is_exact_at_any_scale():
    """Near 1e-8, where the usual slack of 1e-6 on the norm would make nothing of it."""
    one = torch.nn.Parameter(torch.zeros(2))
    one.grad = torch.tensor([3e-8, 4e-8])
    clip_gradients([one], gradient_norm([one]), 1e-8)
    assert one.grad.tolist() == pytest.approx([0.6e-8, 0.8e-8], rel=1e-6)


def test_norms_that_are_zero_missing_or_not_finite():
    one, two = (torch.nn.Parameter(torch.zeros(2)) for _ in range(2))
    assert gradient_norm([one, two]) == 0
    one.grad = torch.zeros(2)
    assert gradient_norm([one, two]) == 0
    two.grad = torch.tensor([float("inf"), 1.0])
    assert not math.isfinite(gradient_norm([one, two]))


@pytest.mark.parametrize("tied", [True, False])
def test_muon_has_the_hidden_matrices_and_adamw_all_else(tied):
    """An untied head is a matrix, and no hidden one."""
    model = small_model(tie_word_embeddings=tied)
    optimizer = make_optimizer(model, LearnerSection(optimizer="muon", lr=0.1, weight_decay=0.2))
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    head, rest, hidden = (
        {names[id(p)] for p in group["params"]} for group in optimizer.param_groups
    )
    assert head == (set() if tied else {"lm_head.weight"})
    assert hidden == {name for name in names.values() if "proj" in name}
    assert rest == set(names.values()) - head - hidden
    assert [g["lr"] for g in optimizer.param_groups] == pytest.approx([0.02, 0.02, 0.1])
    assert [g["weight_decay"] for g in optimizer.param_groups] == [0.2, 0, 0.2]


def test_muon_keeps_one_state():
    """Both parts write where a checkpoint reads, also after somebody put another one in."""
    model = small_model()
    optimizer = make_optimizer(model, LearnerSection(optimizer="muon"))
    for _ in range(2):
        for parameter in model.parameters():
            parameter.grad = torch.ones_like(parameter)
        optimizer.step()
        kinds = {name: set(optimizer.state[p]) for name, p in model.named_parameters()}
        assert kinds["model.norm.weight"] == {"step", "exp_avg", "exp_avg_sq"}
        assert kinds["model.layers.0.mlp.up_proj.weight"] == {"momentum_buffer"}
        assert len(optimizer.state) == len(kinds)
        optimizer.load_state_dict(optimizer.state_dict())
    assert optimizer.state[model.model.norm.weight]["step"] == 2
