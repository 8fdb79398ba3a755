"""What the configuration makes of tokens: the whole path from columns to a gradient.

The single formulas have tests of their own; here the claims are about all of them together.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from rlagents import preset
from rlagents.algos import terms
from rlagents.algos.configs import (
    AlgoConfig,
    ClipConfig,
    CorrectionConfig,
    CovarianceConfig,
    EntropyConfig,
    KLConfig,
)
from rlagents.load import load

OBJECTIVES = ("clip", "gspo", "gspo_token", "gmpo", "cispo", "sapo", "luspo", "vespo")
SAME_ON_POLICY = ("clip", "gspo", "gspo_token", "gmpo", "cispo", "sapo", "vespo")
VARIANTS = {
    **{name: AlgoConfig(objective=name) for name in OBJECTIVES},
    **{f"{n}_segment": AlgoConfig(objective=n, sequence_unit="segment") for n in ("gspo", "gmpo")},
    "dual": AlgoConfig(clip=ClipConfig(dual=3.0)),
    "two_sided": AlgoConfig(clip=ClipConfig(ceiling=4.0)),
    "kl": AlgoConfig(kl=KLConfig(coef=0.1)),
    "kl_unbiased": AlgoConfig(kl=KLConfig(coef=0.1, estimator="unbiased")),
    "clip_cov": AlgoConfig(covariance=CovarianceConfig(method="clip", fraction=0.3, low=-9)),
    "kl_cov": AlgoConfig(covariance=CovarianceConfig(method="kl", fraction=0.3)),
    "entropy": AlgoConfig(entropy=EntropyConfig(coef=0.1)),
    "top_entropy": AlgoConfig(entropy=EntropyConfig(top=0.4)),
    **{
        f"{weight}_{level}": AlgoConfig(
            proximal="recomputed", correction=CorrectionConfig(weight=weight, level=level)
        )
        for weight in ("truncate", "mask")
        for level in ("token", "sequence")
    },
    "rejected": AlgoConfig(
        proximal="recomputed",
        correction=CorrectionConfig(reject="geometric", reject_low=0.97, reject_high=1.03),
    ),
    "k3": AlgoConfig(
        proximal="recomputed", correction=CorrectionConfig(reject="k3", reject_k3=0.02)
    ),
    "off_policy": AlgoConfig(correction=CorrectionConfig(off_policy=0.05)),
    "vespo_corrected": AlgoConfig(
        objective="vespo", proximal="recomputed", correction=CorrectionConfig(weight="truncate")
    ),
}


def columns_of(seed: int, *, on_policy: bool = False) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    """Twelve tokens: three trajectories of two segments of two tokens. (policy, entropies, all)."""
    draw = torch.Generator().manual_seed(seed)

    def noise(scale: float) -> Tensor:
        return scale * torch.randn(12, generator=draw, dtype=torch.float64)

    policy = -1 + noise(0.3)
    away = 0.0 if on_policy else 0.3
    advantages = torch.randn(3, generator=draw, dtype=torch.float64).repeat_interleave(4)
    entropies = noise(1.0).abs()
    columns = {
        "behaviour_logprobs": policy + noise(away),
        "proximal_logprobs": policy + noise(away),
        "reference_logprobs": policy + noise(0.3),
        "current_logprobs": policy.clone(),
        "current_entropies": entropies,
        "advantages": advantages,
        "segment_labels": torch.arange(6).repeat_interleave(2),
        "sequence_labels": torch.arange(3).repeat_interleave(4),
    }
    return policy, entropies, columns


def gradient(
    config: AlgoConfig,
    policy: Tensor,
    entropies: Tensor,
    columns: dict[str, Tensor],
    parts: Sequence[Tensor],
) -> tuple[Tensor, Tensor]:
    """Sum of the losses and gradients of the parts, each seen alone after the pre-pass."""
    if terms.derives(config):
        derived = terms.derive(config, columns, torch.Generator().manual_seed(0))
        columns = {**columns, **derived}
    total, loss = torch.zeros_like(policy), torch.zeros((), dtype=policy.dtype)
    weights = torch.linspace(0.5, 1.5, len(policy), dtype=policy.dtype)
    for part in parts:
        leaf = policy[part].clone().requires_grad_()
        mine = {name: values[part] for name, values in columns.items()}
        coef = config.entropy.coef
        values, _ = terms.loss_terms(config, coef, leaf, entropies[part], mine)
        weighted = (weights[part] * values).sum()
        weighted.backward()
        assert leaf.grad is not None
        total[part] += leaf.grad
        loss = loss + weighted.detach()
    return loss, total


@pytest.mark.parametrize("name", VARIANTS)
@given(seed=st.integers(0, 10_000), cuts=st.permutations(range(12)), pieces=st.integers(2, 5))
@settings(max_examples=20, deadline=None)
def test_the_gradient_does_not_depend_on_the_split(name, seed, cuts, pieces):
    batch = columns_of(seed)
    whole = gradient(VARIANTS[name], *batch, [torch.arange(12)])
    split = [torch.tensor(cuts[start::pieces]) for start in range(pieces)]
    parts = gradient(VARIANTS[name], *batch, split)
    for one, other in zip(whole, parts, strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("seed", range(5))
def test_on_policy_objectives_have_one_gradient(seed):
    batch = columns_of(seed, on_policy=True)
    found = {
        name: gradient(AlgoConfig(objective=name), *batch, [torch.arange(12)])[1]
        for name in SAME_ON_POLICY
    }
    found["dual"] = gradient(VARIANTS["dual"], *batch, [torch.arange(12)])[1]
    weights = torch.linspace(0.5, 1.5, 12, dtype=torch.float64)
    for name, value in found.items():
        torch.testing.assert_close(value, -weights * batch[2]["advantages"], msg=name)


@pytest.mark.parametrize("seed", range(3))
def test_off_policy_they_differ(seed):
    """The equality above is not because the configuration is not read."""
    batch = columns_of(seed)
    found = [
        gradient(AlgoConfig(objective=name), *batch, [torch.arange(12)])[1]
        for name in SAME_ON_POLICY
        if name != "gspo_token"  # equal to gspo where a trajectory has one advantage
    ]
    for i, one in enumerate(found):
        for other in found[i + 1 :]:
            assert not torch.allclose(one, other)


@pytest.mark.parametrize("name", VARIANTS)
def test_every_switch_changes_the_gradient_of_plain_grpo(name):
    if name == "clip":
        return
    batch = columns_of(3)
    if name in ("dual", "two_sided"):  # they act on ratios far above 1 with a negative advantage
        batch[2]["behaviour_logprobs"] -= 2.5
        batch[2]["advantages"] -= 2
    if name == "off_policy":  # and this one on sequences that the policy has left
        batch[2]["behaviour_logprobs"][:4] += 1
        batch[2]["advantages"] -= 2
    plain = gradient(AlgoConfig(proximal=VARIANTS[name].proximal), *batch, [torch.arange(12)])
    changed = gradient(VARIANTS[name], *batch, [torch.arange(12)])
    assert not (torch.allclose(plain[1], changed[1]) and torch.allclose(plain[0], changed[0]))


def test_truncated_importance_sampling_weighs_terms_by_hand():
    """rho = 4, 1, 0.25 bounded by 2 gives weights 2, 1, 0.25; on-policy terms are -A."""
    config = AlgoConfig(proximal="recomputed", correction=CorrectionConfig(weight="truncate"))
    behaviour = -torch.tensor([4.0, 1.0, 0.25]).log()
    columns = {
        "behaviour_logprobs": behaviour,
        "proximal_logprobs": torch.zeros(3),
        "advantages": torch.tensor([1.0, 1.0, -1.0]),
        "segment_labels": torch.zeros(3, dtype=torch.int64),
        "sequence_labels": torch.zeros(3, dtype=torch.int64),
    }
    columns |= terms.derive(config, columns, torch.Generator())
    values, figures = terms.loss_terms(config, 0.0, torch.zeros(3), torch.zeros(3), columns)
    torch.testing.assert_close(values, torch.tensor([-2.0, -1.0, 0.25]))
    torch.testing.assert_close(figures["token_weight"], torch.tensor([2.0, 1.0, 0.25]))


def test_the_unit_of_a_sequence_is_a_choice():
    """Log-ratios (0.2, 0) in two segments of a trajectory: ratios e^0.2 and 1, or e^0.1 twice."""
    columns = {
        "behaviour_logprobs": torch.tensor([-0.2, 0.0]),
        "current_logprobs": torch.zeros(2),
        "advantages": torch.ones(2),
        "segment_labels": torch.tensor([0, 1]),
        "sequence_labels": torch.tensor([7, 7]),
    }
    found = {}
    for unit in ("segment", "trajectory"):
        config = AlgoConfig(
            objective="gspo", sequence_unit=unit, clip=ClipConfig(low=0.9, high=0.9)
        )
        derived = terms.derive(config, columns, torch.Generator())
        found[unit], _ = terms.loss_terms(
            config, 0.0, torch.zeros(2), torch.zeros(2), {**columns, **derived}
        )
    torch.testing.assert_close(found["segment"], -torch.tensor([0.2, 0.0]).exp())
    torch.testing.assert_close(found["trajectory"], -torch.tensor([0.1, 0.1]).exp())


def test_the_entropy_bonus_pulls_at_entropy_alone():
    config = AlgoConfig(entropy=EntropyConfig(coef=0.5))
    entropies = torch.tensor([1.0, 2.0], requires_grad=True)
    columns = {"behaviour_logprobs": torch.zeros(2), "advantages": torch.ones(2)}
    values, _ = terms.loss_terms(config, 0.5, torch.zeros(2), entropies, columns)
    torch.testing.assert_close(values.detach(), torch.tensor([-1.5, -2.0]))
    values.sum().backward()
    assert entropies.grad is not None and entropies.grad.tolist() == [-0.5, -0.5]


@pytest.mark.parametrize("name", preset.names())
def test_every_preset_asks_for_what_it_reads(name):
    """Only the columns that the configuration names are there: a missing one is a KeyError."""
    config = load(None, [f"algo.name={name}"]).algo
    policy, entropies, columns = columns_of(1)
    asked = {*terms.columns(config), *terms.step_columns(config)}
    always = {"behaviour_logprobs", "advantages", "segment_labels", "sequence_labels"}
    columns = {key: value for key, value in columns.items() if key in asked | always}
    loss, total = gradient(config, policy, entropies, columns, [torch.arange(12)])
    assert torch.isfinite(loss) and torch.isfinite(total).all() and total.abs().sum() > 0


@pytest.mark.parametrize("name", VARIANTS)
def test_extreme_ratios_stay_finite(name):
    policy, entropies, columns = columns_of(2)
    far = dataclasses.replace(VARIANTS[name])
    for column in ("behaviour_logprobs", "proximal_logprobs"):
        columns[column] = columns[column] + torch.tensor([500.0, -500.0] * 6)
    loss, total = gradient(far, policy, entropies, columns, [torch.arange(12)])
    assert torch.isfinite(loss) and torch.isfinite(total).all()
