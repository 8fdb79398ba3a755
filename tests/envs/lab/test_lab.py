"""What holds for every lab environment."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import subprocess
import sys

import gymnasium
import numpy as np
import pytest
from gymnasium.envs.registration import EnvSpec
from hypothesis import given, settings
from hypothesis import strategies as st

from rlagents.envs import ENTRY_POINTS, catalogue
from tests.envs.lab.known import make, measured

IDS = sorted(name for name, where in ENTRY_POINTS.items() if ".envs.lab." in where)

FINGERPRINT = """
import hashlib, json, sys
import gymnasium, numpy as np, rlagents.envs
seen = []
for env_id in sys.argv[1:]:
    env = gymnasium.make(env_id)
    for seed in (0, 7, 2**62):
        observation, _ = env.reset(seed=seed)
        act = env.unwrapped.scripted["expert"](env.unwrapped, np.random.default_rng(seed))
        seen.append(observation)
        over = False
        while not over:
            observation, reward, over, cut, info = env.step(act(observation))
            seen.append([observation, reward, over, cut, info])
print(hashlib.sha256(json.dumps(seen).encode()).hexdigest())
"""


def test_the_same_episodes_in_other_processes_and_under_other_hash_seeds() -> None:
    def fingerprint(hash_seed: str) -> str:
        told = subprocess.run(
            [sys.executable, "-c", FINGERPRINT, *IDS],
            env={**os.environ, "PYTHONHASHSEED": hash_seed},
            capture_output=True,
            text=True,
            check=True,
        )
        return told.stdout.strip()

    assert len(fingerprint("0")) == len(hashlib.sha256().hexdigest())
    assert fingerprint("0") == fingerprint("1234")


@pytest.mark.parametrize("env_id", IDS)
@pytest.mark.parametrize("policy", ["random", "expert", "oracle"])
def test_documented_scores_over_400_seeds(env_id: str, policy: str) -> None:
    """Within 4 standard errors (p = 6e-5 each, on fixed seeds)."""
    documented = {e.id: e.known_scores for e in catalogue()}[env_id][policy]
    mean, error = measured(env_id, policy, episodes=400)
    if policy == "oracle":
        assert mean == documented == 1.0 and error == 0.0
    else:
        assert abs(mean - documented) <= 4 * error + 1e-3


@pytest.mark.parametrize("env_id", IDS)
def test_a_policy_seeded_like_the_task_does_not_draw_the_task(env_id: str) -> None:
    """Both streams come from the same number; they must not be the same stream."""
    env = make(env_id).unwrapped
    env.reset(seed=5)
    assert env.rng.bit_generator.state["state"] != np.random.default_rng(5).bit_generator.state
    drawn = env.rng.integers(1000, size=20)
    for other in (np.random.default_rng(5), env.np_random):
        assert drawn.tolist() != other.integers(1000, size=20).tolist()


@pytest.mark.parametrize("env_id", IDS)
@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**63 - 1), actions=st.lists(st.text(), max_size=30), data=st.data())
def test_any_text_costs_a_turn_and_never_raises(env_id: str, seed: int, actions, data) -> None:
    env = make(env_id)
    observation, _ = env.reset(seed=seed)
    total = 0.0
    for turn, text in enumerate(actions, start=1):
        verb = data.draw(st.sampled_from(["", "run ", "note ", "submit "]))
        observation, reward, terminated, truncated, info = env.step(verb + text)
        total += reward
        assert observation in env.observation_space and type(reward) is float
        assert truncated is False and info["metrics"]["turns"] == turn
        assert all(type(value) is float for value in info["metrics"].values())
        if terminated:
            break
    assert -1.3 <= total <= 1.0


@pytest.mark.parametrize("env_id", IDS)
@pytest.mark.parametrize("policy", ["random", "expert", "oracle"])
def test_a_potential_promises_at_most_the_whole_score_and_nothing_after_the_end(
    env_id: str, policy: str
) -> None:
    env = make(env_id)
    for seed in range(5):
        observation, info = env.reset(seed=seed)
        act = env.unwrapped.scripted[policy](env.unwrapped, np.random.default_rng(seed))
        over = False
        while not over:
            assert type(info["potential"]) is float and 0 <= info["potential"] <= 1
            observation, _, over, _, info = env.step(act(observation))
        assert info["potential"] == 0.0


@pytest.mark.parametrize("env_id", IDS)
def test_nonsense_ends_the_episode_at_its_budget(env_id: str) -> None:
    env = make(env_id)
    env.reset(seed=0)
    for turn in range(1, env.unwrapped.turns + 1):
        observation, _, terminated, truncated, info = env.step("nonsense " * 2000)
        assert terminated == (turn == env.unwrapped.turns) and truncated is False
        assert len(observation) < 60
    assert info["metrics"]["invalid"] == turn
    after = env.unwrapped.step("anything")
    assert after == ("out of turns", 0.0, True, False, info)


@pytest.mark.parametrize("env_id", IDS)
def test_misuse_is_named(env_id: str) -> None:
    env = make(env_id).unwrapped
    with pytest.raises(gymnasium.error.ResetNeeded):
        env.step("a")
    with pytest.raises(ValueError, match=r"options: .* has none, got"):
        env.reset(options={"difficulty": 3})
    env.reset(seed=0, options={})
    with pytest.raises(TypeError, match="expected a string, got int"):
        env.step(3)
    env.close()
    env.close()


@pytest.mark.parametrize("env_id", IDS)
def test_spec_pickles_and_rebuilds(env_id: str) -> None:
    env = make(env_id, horizon=9)
    spec = pickle.loads(pickle.dumps(env.spec))
    rebuilt = make(spec)
    assert rebuilt.reset(seed=3)[0] == env.reset(seed=3)[0]
    assert EnvSpec.from_json(spec.to_json()).kwargs == spec.kwargs
    assert json.loads(spec.to_json())["kwargs"] == {"horizon": 9}


@pytest.mark.parametrize("env_id", IDS)
def test_unset_seeds_continue_the_stream(env_id: str) -> None:
    env = make(env_id)
    first = [env.reset(seed=1)[0], env.reset()[0], env.reset()[0]]
    again = [env.reset(seed=1)[0], env.reset()[0], env.reset()[0]]
    assert first == again and len(set(first)) == 3


WRONG = {
    "rlagents/KeyRooms-v0": {
        "horizon": [0, -1, 2.0, "8", None, True, 10_001],
        "turns": [47, 0, 1.5, "60"],
        "keys": [0, 27, 3.0],
        "codes": [1, 11],
        "facts": ["Card", 3, ""],
        "order": ["Loop", 3, ""],
        "penalty": [-0.1, 1.1, "0", float("nan"), True],
        "rules": [1, "yes", None],
        "passing": [-1, 1.5, "5", True],
        "gap": [0, 1.5, "3"],
        "tries": [-1, 0.5, "1"],
        "expert_waste": [-0.01, 1.01],
        "expert_error": [2, float("inf")],
        "expert_forget": [-0.1, 1.1, "0"],
    },
    "rlagents/MethodSearch-v0": {
        "horizon": [1, 10_001, 8.5],
        "methods": [1, 701, "8"],
        "noise": [-0.1, float("nan"), 2],
        "cost": [-1, 1.5, "x"],
        "note_limit": [-1, 1001, 2.5],
        "expert_haste": [-0.1, 1.1],
    },
    "rlagents/Itinerary-v0": {
        "horizon": [0, 10_001, 2.5, "4"],
        "stops": [0, 27, None],
        "rules": [1, "no"],
        "expert_care": [-0.1, 1.1, "0"],
    },
    "rlagents/Needle-v0": {
        "horizon": [0, 10_001, "1"],
        "characters": [99, 10_000_001, 2e5, None],
        "turns": [0, 1.5],
        "expert_error": [-0.1, 1.1],
    },
    "rlagents/Lock-v0": {
        "horizon": [0, 10_001],
        "symbols": [1, 27],
        "period": [0, 9, 2.5],
        "hint": ["hidden", True],
        "wrong": ["restart", 0],
        "partial": [0, "no"],
        "turns": [7, 0.5],
        "rules": [None],
        "expert_error": [-1, 1.5],
    },
}


@pytest.mark.parametrize("env_id", IDS)
def test_every_wrong_argument_is_named_with_what_is_expected(env_id: str) -> None:
    defaults = {e.id: e.kwargs for e in catalogue()}[env_id]
    assert WRONG[env_id].keys() == defaults.keys()
    for name, values in WRONG[env_id].items():
        for value in values:
            with pytest.raises(ValueError, match=rf"^{name}: expected .*, got") as caught:
                make(env_id, **{name: value})
            assert repr(value) in str(caught.value)
