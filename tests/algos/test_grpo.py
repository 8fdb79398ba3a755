"""The algorithm as the main loop sees it: what it rejects, and what it remembers."""

import dataclasses
import json

import numpy as np
import pytest
import torch

from rlagents.algos.configs import (
    AlgoConfig,
    ClipConfig,
    EntropyConfig,
    OverlongConfig,
    SamplingConfig,
    ShapingConfig,
)
from rlagents.algos.grpo import GRPO
from rlagents.algos.state import AlgoState
from rlagents.errors import ConfigError
from tests.fakes import scored_group


def test_groups_without_signal_are_rejected_by_name():
    algorithm = GRPO(AlgoConfig(sampling=SamplingConfig(filter="zero_variance")))
    assert algorithm.reject(scored_group(scores=[1.0, 1.0])) == "zero_variance"
    assert algorithm.reject(scored_group(scores=[1.0, float("nan")])) == "too_few_scores"
    assert algorithm.reject(scored_group(scores=[1.0, 0.0])) is None
    assert GRPO(AlgoConfig()).reject(scored_group(scores=[1.0, 1.0])) is None
    unscored = scored_group(scores=[float("nan")] * 2)
    assert algorithm.reject(unscored) == "too_few_scores"
    unscored = dataclasses.replace(unscored, parts={"judge_error": np.ones(2, np.float32)})
    assert algorithm.reject(unscored) == "judge_error"


def test_shaping_may_bring_a_signal():
    """Equal scores, unequal lengths: with the punishment the group is worth training on."""
    shaping = ShapingConfig(overlong=OverlongConfig(limit=3, cache=2))
    sampling = SamplingConfig(filter="zero_variance")
    group = scored_group(scores=[1.0, 1.0], turns=[3, 1])
    assert GRPO(AlgoConfig(sampling=sampling, shaping=shaping)).reject(group) is None


def coefficient(algorithm: GRPO, state: AlgoState) -> float:
    """What the objective takes off for a nat of entropy."""
    columns = {"behaviour_logprobs": torch.zeros(1), "advantages": torch.zeros(1)}
    values, _ = algorithm.objective(state)(torch.zeros(1), torch.ones(1), columns)
    return -float(values[0])


def test_the_entropy_coefficient_follows_its_target():
    """Target 1 nat, steps of 0.1 up to 0.15: measured 0.5, 0.5, 2, 0.5, the coefficient in force
    is 0 (nothing measured yet), 0.1, 0.15 (limited), 0 (above the target), 0.15 again."""
    control = EntropyConfig(target=1.0, delta=0.1, limit=0.15)
    algorithm = GRPO(AlgoConfig(entropy=control))
    state, seen = algorithm.initial_state(), []
    assert algorithm.entropy_gradient
    for measured in (0.5, 0.5, 2.0, 0.5, 0.5):
        seen.append(coefficient(algorithm, state))
        state = algorithm.after_step(state, measured)
    assert seen == pytest.approx([0, 0.1, 0.15, 0, 0.15])


def test_a_fixed_coefficient_stays():
    algorithm = GRPO(AlgoConfig(entropy=EntropyConfig(coef=0.2)))
    state = algorithm.initial_state()
    assert algorithm.after_step(state, 9.0) == state
    assert coefficient(algorithm, state) == pytest.approx(0.2)
    assert not GRPO(AlgoConfig()).entropy_gradient


def test_scores_are_remembered_only_for_the_running_scale():
    groups = [scored_group(scores=[0.0, 4.0]), scored_group(scores=[float("nan"), 2.0])]
    plain, running = GRPO(AlgoConfig()), GRPO(AlgoConfig(shaping=ShapingConfig(running=True)))
    assert plain.after_groups(AlgoState(), groups) == AlgoState()
    remembered = running.after_groups(AlgoState(), groups).scores
    assert (remembered.count, remembered.mean) == (3, 2.0)


def test_the_state_survives_a_checkpoint():
    algorithm = GRPO(AlgoConfig(shaping=ShapingConfig(running=True)))
    state = algorithm.after_groups(AlgoState(entropy_coef=0.1), [scored_group(scores=[0.0, 1.0])])
    plain = json.loads(json.dumps(dataclasses.asdict(state)))
    assert AlgoState.of(plain) == state


def test_bad_values_name_the_full_key():
    with pytest.raises(ConfigError, match=r"algo\.clip\.low: expected above 0, at most 1, got 2"):
        ClipConfig(low=2)
