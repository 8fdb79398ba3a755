"""Loss and gradient of one optimizer step are TRL's, wherever TRL has what we have.

Where the two differ by definition:

- A row without a trained token counts in TRL's mean over sequences, and not in ours (a test).
- TRL averages `bnpo`, `grpo`, `sapo` and `luspo` over micro-batches, and normalises the others over
  an accumulation window; ours are normalised over the whole batch. They agree but for `bnpo` (a
  test), and for windows that hold less than what was generated.
- TRL's entropy bonus is a mean over tokens, those of highest entropy where only these are trained.
  Ours is a part of each token's term, and aggregated as that is: the same for a token mean.
- TRL's unbiased KL takes the ratio of the sequence where the objective does; ours the token's.
- TRL's advantages have 1e-4 added to their divisor, ours 1e-6 (a test).
- Our log-ratios are clamped to +-20; TRL's are not, VESPO's apart.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rlagents.algos.advantages import group_relative, several_rewards
from rlagents.algos.configs import (
    AlgoConfig,
    ClipConfig,
    CorrectionConfig,
    EntropyConfig,
    KLConfig,
)
from tests.integration.trl_parity import (
    CONSTANT,
    GROUP,
    MASKS,
    SCORES,
    Result,
    Row,
    apart,
    make_rows,
    our_result,
    save_policy,
    trl_result,
)

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")

TOLERANCE = 1e-5
"""Absolute; the gradients' largest entries are between 0.1 and 10."""


@dataclass(frozen=True)
class Case:
    name: str
    ours: AlgoConfig
    theirs: dict[str, Any]
    off: dict[str, Any] = field(default_factory=dict)
    """Arguments of TRL without what the case is about: the gradient must then be another."""
    vllm: bool = False
    """TRL corrects for its sampler only where that is vLLM."""


def config(objective: str = "clip", aggregation: str = "token_mean", **settings: Any) -> AlgoConfig:
    return AlgoConfig(
        objective=objective,
        aggregation=aggregation,
        **{"clip": ClipConfig(low=0.2, high=0.28), **settings},
    )


BASE = {"epsilon": 0.2, "epsilon_high": 0.28, "use_bias_correction_kl": False}
DAPO = {**BASE, "loss_type": "dapo"}
LEVEL = {"importance_sampling_level": "sequence"}
FREE = {"epsilon": 1.0, "epsilon_high": 1e6}
"""Bounds that nothing reaches."""
NARROW = {"epsilon": 0.02, "epsilon_high": 0.03}
narrow = ClipConfig(low=0.02, high=0.03)


def corrected(mode: str, **bounds: float) -> Case:
    level, weight = mode.split("_")
    theirs = {
        "vllm_importance_sampling_mode": mode,
        "vllm_importance_sampling_clip_min": bounds.get("low"),
        "vllm_importance_sampling_clip_max": bounds["high"],
    }
    correction = CorrectionConfig(weight=weight, level=level, **bounds)  # type: ignore[arg-type]
    return Case(
        mode,
        config(proximal="recomputed", correction=correction),
        {**DAPO, **theirs},
        off={"vllm_importance_sampling_correction": False},
        vllm=True,
    )


def off_policy(limit: float, off: dict[str, Any]) -> Case:
    ours = config(proximal="recomputed", correction=CorrectionConfig(off_policy=limit))
    return Case(f"off_policy_{limit}", ours, {**DAPO, "off_policy_mask_threshold": limit}, off)


def vespo(mode: str) -> Case:
    case = corrected(mode, low=0.7, high=1.4)
    ours = config(
        "vespo", proximal="recomputed", correction=case.ours.correction, clip=ClipConfig()
    )
    return Case(f"vespo_{mode}", ours, {**case.theirs, "loss_type": "vespo"}, case.off, vllm=True)


CASES = [
    Case("grpo", config("clip", "sequence_mean"), {**BASE, "loss_type": "grpo"}, FREE),
    Case("bnpo", config(), {**BASE, "loss_type": "bnpo"}, FREE),
    Case("dapo", config(), DAPO, FREE),
    Case(
        "dr_grpo",
        config("clip", "constant", length_constant=CONSTANT),
        {**BASE, "loss_type": "dr_grpo"},
        FREE,
    ),
    Case(
        "two_sided",
        config(clip=ClipConfig(low=0.2, high=0.28, ceiling=1.4)),
        {**DAPO, "delta": 1.4},
        {"delta": None},
    ),
    Case(
        "gspo",
        config("gspo", "sequence_mean", clip=narrow),
        {**BASE, **NARROW, **LEVEL, "loss_type": "grpo"},
        FREE,
    ),
    Case(
        "gspo_token_mean",
        config("gspo", clip=narrow),
        {**BASE, **NARROW, **LEVEL, "loss_type": "dapo"},
        {"importance_sampling_level": "token"},
    ),
    Case(
        "cispo",
        config("cispo", clip=ClipConfig(low=1.0, high=0.28)),
        # TRL's upper bound is one of the ratio itself, and it has no lower one.
        {**BASE, "loss_type": "cispo", "epsilon_high": 1.28},
        {"epsilon_high": 1e6},
    ),
    Case(
        "sapo",
        config("sapo", "sequence_mean", clip=ClipConfig()),
        {**BASE, "loss_type": "sapo"},
        {"sapo_temperature_neg": 3.0},
    ),
    Case(
        "luspo",
        config("luspo", "sequence_mean", clip=narrow),
        {**BASE, **NARROW, **LEVEL, "loss_type": "luspo"},
        {"loss_type": "grpo"},
    ),
    Case(
        "luspo_as_gspo_sums",
        config("gspo", "sequence_sum", clip=narrow),
        {**BASE, **NARROW, **LEVEL, "loss_type": "luspo"},
    ),
    Case(
        "vespo",
        config("vespo", clip=ClipConfig()),
        {**BASE, "loss_type": "vespo"},
        {"vespo_k_neg": 1.0},
    ),
    Case(
        "kl_k3",
        config(kl=KLConfig(coef=0.3, estimator="k3")),
        {**DAPO, "beta": 0.3},
        {"use_bias_correction_kl": True},
    ),
    Case(
        "kl_unbiased",
        config("clip", "sequence_mean", kl=KLConfig(coef=0.3, estimator="unbiased")),
        {**BASE, "loss_type": "grpo", "beta": 0.3, "use_bias_correction_kl": True},
        {"beta": 0.0},
    ),
    Case(
        "top_entropy",
        config(entropy=EntropyConfig(top=0.4)),
        {**DAPO, "top_entropy_quantile": 0.4},
        {"top_entropy_quantile": 1.0},
    ),
    Case(
        "entropy_bonus",
        config(entropy=EntropyConfig(coef=0.05)),
        {**DAPO, "entropy_coef": 0.05},
        {"entropy_coef": 0.0},
    ),
    off_policy(0.45, {"off_policy_mask_threshold": None}),
    off_policy(1.0, {"off_policy_mask_threshold": 0.45}),  # sums, not means, are above it
    corrected("token_truncate", high=1.2),
    corrected("token_mask", low=0.8, high=1.3),
    corrected("sequence_truncate", low=0.6, high=1.2),
    corrected("sequence_mask", low=0.6, high=1.5),
    vespo("token_truncate"),
    vespo("token_mask"),
    Case(
        "everything",
        config(
            "clip",
            "sequence_mean",
            proximal="recomputed",
            clip=ClipConfig(low=0.2, high=0.28, ceiling=1.4),
            kl=KLConfig(coef=0.3, estimator="unbiased"),
            entropy=EntropyConfig(top=0.6),
            correction=CorrectionConfig(weight="mask", low=0.8, high=1.3, off_policy=0.45),
        ),
        {
            **BASE,
            "loss_type": "grpo",
            "delta": 1.4,
            "beta": 0.3,
            "use_bias_correction_kl": True,
            "top_entropy_quantile": 0.6,
            "vllm_importance_sampling_mode": "token_mask",
            "vllm_importance_sampling_clip_min": 0.8,
            "vllm_importance_sampling_clip_max": 1.3,
            "off_policy_mask_threshold": 0.45,
        },
        {"beta": 0.0},
        vllm=True,
    ),
]


Theirs = Callable[..., Result]


@pytest.fixture(scope="module")
def policy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_policy(tmp_path_factory.mktemp("policy"))


@pytest.fixture(scope="module")
def rows(policy: Path) -> tuple[Row, ...]:
    return make_rows(policy)


@pytest.fixture(scope="module")
def theirs(policy: Path, rows: tuple[Row, ...], tmp_path_factory: pytest.TempPathFactory) -> Theirs:
    """TRL's result by its arguments; that of one set is computed once."""
    folder = tmp_path_factory.mktemp("trl")

    @cache
    def made(arguments: tuple[tuple[str, Any], ...], vllm: bool, micro: int) -> Result:
        return trl_result(policy, rows, folder, dict(arguments), vllm=vllm, micro=micro)

    def result(arguments: dict[str, Any], vllm: bool = False, micro: int = 1) -> Result:
        return made(tuple(sorted(arguments.items())), vllm, micro)

    return result


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_loss_and_gradient_are_those_of_trl(
    case: Case, policy: Path, rows: tuple[Row, ...], theirs: Theirs
) -> None:
    expected = theirs(case.theirs, case.vllm)
    assert apart(our_result(policy, rows, case.ours, expected.inputs), expected) < TOLERANCE
    if case.off:  # what the case is about does something here
        assert apart(expected, theirs({**case.theirs, **case.off}, case.vllm)) > 100 * TOLERANCE


@pytest.mark.parametrize("loss", ["grpo", "dapo", "dr_grpo", "cispo", "vespo", "bnpo"])
def test_micro_batches_change_nothing_but_bnpo(loss: str, theirs: Theirs) -> None:
    arguments = {**BASE, "loss_type": loss}
    difference = apart(theirs(arguments, micro=2), theirs(arguments))
    assert difference < TOLERANCE if loss != "bnpo" else difference > 100 * TOLERANCE


def test_a_row_without_a_trained_token_counts_in_their_mean_only(
    policy: Path, tmp_path: Path
) -> None:
    rows = make_rows(policy, [MASKS[0], "0", *MASKS[2:]])
    expected = trl_result(policy, rows, tmp_path, {**BASE, "loss_type": "grpo"})
    found = our_result(policy, rows, config("clip", "sequence_mean"), expected.inputs)
    assert apart(found, expected, factor=6 / 5) < TOLERANCE


OTHER = (0.1, 0.9, 0.3, 0.2, 0.2, 0.7)


@pytest.mark.parametrize("scale", ["group", "batch", "none"])
def test_advantages_are_those_of_trl(
    scale: Any, policy: Path, rows: tuple[Row, ...], tmp_path: Path
) -> None:
    expected = trl_result(policy, rows, tmp_path, {"scale_rewards": scale}).inputs["advantages"]
    groups = list(np.array(SCORES, np.float32).reshape(-1, GROUP))
    counts = [np.ones(GROUP, np.bool_)] * len(groups)
    found = group_relative(groups, counts, baseline="group", scale=scale)
    np.testing.assert_allclose(np.concatenate(found), expected, atol=1e-3)


def test_advantages_of_several_rewards_are_those_of_trl(
    policy: Path, rows: tuple[Row, ...], tmp_path: Path
) -> None:
    arguments = {
        "multi_objective_aggregation": "normalize_then_sum",
        "reward_weights": [1.0, 0.5],
    }
    expected = trl_result(policy, rows, tmp_path, arguments, rewards=(SCORES, OTHER))
    groups = [
        {"score": np.float32(SCORES[n : n + GROUP]), "other": np.float32(OTHER[n : n + GROUP])}
        for n in range(0, len(SCORES), GROUP)
    ]
    counts = [np.ones(GROUP, np.bool_)] * len(groups)
    found = several_rewards(groups, counts, {"score": 1.0, "other": 0.5})
    np.testing.assert_allclose(np.concatenate(found), expected.inputs["advantages"], atol=1e-3)
