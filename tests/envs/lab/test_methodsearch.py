from __future__ import annotations

import numpy as np
import pytest

from rlagents.envs.lab.methodsearch import MethodSearch
from tests.envs.lab.known import make, measured

ID = "rlagents/MethodSearch-v0"


def planted(**kwargs) -> MethodSearch:
    """Two methods without noise: a has r = 1 and b r = -0.5; baseline 0.5, gain 0.2."""
    env = MethodSearch(methods=2, noise=0.0, **kwargs)
    env.reset(seed=0)
    env.relative = np.array([1.0, -0.5])
    env._baseline, env._gain = 0.5, 0.2
    return env


def test_worked_example() -> None:
    """8 turns, cost 0.2: three turns before the submission cost 0.2 * 3 / 8."""
    env = planted(horizon=8)
    assert env.step("run a")[:3] == ("a 0.70 left 7", 0.0, False)
    assert env.step("run b")[:3] == ("b 0.40 left 6", 0.0, False)
    assert env.step("note a 0.70")[:3] == ("left 5 | a 0.70", 0.0, False)
    observation, reward, terminated, truncated, info = env.step("submit a")
    assert (observation, terminated, truncated) == ("submitted a", True, False)
    assert reward == pytest.approx(1 - 0.075)
    assert info["metrics"] == {
        "turns": 4.0,
        "success": 1.0,
        "submitted": 1.0,
        "quality": 1.0,
        "runs": 2.0,
        "notes": 1.0,
        "invalid": 0.0,
    }


def test_the_potential_is_the_share_of_methods_measured() -> None:
    env = planted(horizon=9)
    potentials = [env._info()["potential"]]
    for action in ("run b", "run b", "note b", "bad", "run a", "submit a"):
        potentials.append(env.step(action)[4]["potential"])
    assert potentials == [0, 0.5, 0.5, 0.5, 0.5, 1, 0]
    assert env.reset(seed=1)[1]["potential"] == 0


def test_a_method_below_the_baseline_scores_below_zero() -> None:
    assert planted(horizon=8).step("submit b")[1] == -0.5


def test_without_a_submission_only_the_cost_is_left() -> None:
    env = planted(horizon=3, cost=0.3)
    rewards = [env.step("run a")[1] for _ in range(3)]
    assert rewards == [0.0, 0.0, -0.3]
    assert env.step("submit a")[1:3] == (0.0, True)


def test_submitting_on_the_last_turn_counts() -> None:
    env = planted(horizon=2, cost=0.3)
    env.step("run b")
    assert env.step("submit a")[1] == pytest.approx(1 - 0.3 / 2)


def test_notebook_is_replaced_cut_cleaned_and_emptied() -> None:
    env = planted(horizon=9, note_limit=5)
    assert env.step("note 1234567")[0] == "left 8 | 12345"
    assert env.step("run b")[0] == "b 0.40 left 7 | 12345"
    assert env.step("note a\nb\x00\ud800é")[0] == "left 6 | a b  "
    assert env.step("note")[0] == "left 5"
    assert env.step("note " + "🙂" * 9000)[0] == "left 4 | " + "🙂" * 5


@pytest.mark.parametrize("action", ["", "run", "run c", "run a b", "submit", "Run a", "noted"])
def test_what_is_no_action_is_answered_bad(action: str) -> None:
    env = planted(horizon=9)
    assert env.step(action)[:3] == ("bad left 8", 0.0, False)
    assert env._info()["metrics"]["invalid"] == 1.0


def test_card_states_goal_baseline_methods_and_budget() -> None:
    env = planted(horizon=9)
    env.reset(seed=0)
    card = env.reset(seed=0)[0].split("\n")
    assert card[0].startswith("goal: ")
    assert card[1] == f"baseline {env._baseline:.2f}"
    assert card[2] == "methods a b (2)"
    assert card[3] == "budget 9 turns, cost 0.2"
    many = make(ID, methods=30, horizon=500)
    assert "methods a to ad (30)" in many.reset(seed=0)[0]
    assert many.step("run ad")[0].startswith("ad ")


def test_measurements_scatter_around_the_quality_with_the_given_noise() -> None:
    env = MethodSearch(methods=2, horizon=2001, noise=0.1)
    env.reset(seed=1)
    quality = env._baseline + env._gain * env.relative[0]
    values = [float(env.step("run a")[0].split()[1]) for _ in range(2000)]
    assert np.mean(values) == pytest.approx(quality, abs=4 * 0.1 / 2000**0.5)
    assert np.std(values) == pytest.approx(0.1, rel=0.07)


def test_qualities_follow_the_documented_law() -> None:
    env = MethodSearch(methods=3)
    others = []
    for seed in range(400):
        env.reset(seed=seed)
        assert env.relative.max() == 1.0 and env.relative[env.names.index(env.best)] == 1.0
        assert 0.4 <= env._baseline <= 0.6 and 0.1 <= env._gain <= 0.3
        others += sorted(env.relative)[:2]
    assert min(others) >= -1 and max(others) <= 0.9
    assert np.mean(others) == pytest.approx(-0.05, abs=4 * (1.9 / 12**0.5) / 800**0.5)


def random_score(horizon: int, methods: int, cost: float) -> float:
    return (1 - 2.0**-horizon) * ((1 - 0.05 * (methods - 1)) / methods - cost / horizon)


def test_known_score_of_the_random_policy_is_its_closed_form() -> None:
    assert MethodSearch.known_scores["random"] == pytest.approx(random_score(32, 8, 0.2), abs=5e-5)


def test_closed_form_of_the_random_policy_holds_for_other_arguments() -> None:
    """A budget of 2 turns: it runs out in one episode of four."""
    mean, error = measured(ID, "random", 1000, horizon=2, methods=2, cost=1.0)
    assert abs(mean - random_score(2, 2, 1.0)) <= 4 * error
    assert random_score(2, 2, 1.0) == pytest.approx(0.75 * (0.475 - 0.5))


def test_closed_form_by_hand() -> None:
    """H = 1 would be: submit (1/2) for r, or waste the turn (1/2) for -cost."""
    assert random_score(1, 2, 0.4) == pytest.approx(0.5 * 0.475 - 0.5 * 0.4)


def test_expert_without_noise_is_the_best_less_its_waste() -> None:
    """8 methods and a note are 9 turns a round: 3 rounds in 32 turns, submission on the 28th.

    Two decimals tie the best with another method when they are within 0.01 in quality, so that a
    few submissions are second best.
    """
    mean, _ = measured(ID, "expert", 200, noise=0.0)
    assert 1 - 0.2 * 27 / 32 - 0.01 < mean < 1 - 0.2 * 27 / 32 + 1e-9


@pytest.mark.parametrize(
    ("horizon", "turns"), [(2, 2), (8, 8), (9, 9), (10, 10), (19, 19), (20, 19)]
)
def test_expert_always_submits_within_the_budget(horizon: int, turns: int) -> None:
    env = make(ID, horizon=horizon)
    observation, _ = env.reset(seed=2)
    act = env.unwrapped.scripted["expert"](env.unwrapped, np.random.default_rng(0))
    over = False
    while not over:
        observation, _, over, _, info = env.step(act(observation))
    assert info["metrics"]["submitted"] == 1.0 and info["metrics"]["turns"] == turns


def test_expert_notes_what_it_then_submits() -> None:
    env = make(ID, horizon=10)
    observation, _ = env.reset(seed=3)
    act = env.unwrapped.scripted["expert"](env.unwrapped, np.random.default_rng(0))
    said, over = [], False
    while not over:
        said.append(act(observation))
        observation, _, over, _, _ = env.step(said[-1])
    assert sorted(said[:8]) == [f"run {name}" for name in "abcdefgh"]
    assert said[8].split()[:2] == ["note", said[9].split()[1]] and said[9].startswith("submit ")


def test_a_hasty_expert_submits_what_has_measured_best_so_far() -> None:
    """Without noise; it stops after a measurement with probability one half, never before one."""
    lengths = []
    for seed in range(40):
        env = make(ID, horizon=20, noise=0.0, expert_haste=0.5)
        observation, _ = env.reset(seed=seed)
        act = env.unwrapped.scripted["expert"](env.unwrapped, np.random.default_rng(seed))
        best, over, turns = ("", -1.0), False, 0
        while not over:
            action = act(observation)
            if action.startswith("submit"):
                assert turns and action.split()[1] == best[0]
            observation, _, over, _, _ = env.step(action)
            name, *rest = observation.partition(" |")[0].split(" ")
            if len(rest) == 3 and float(rest[0]) > best[1]:
                best = (name, float(rest[0]))
            turns += 1
        lengths.append(turns)
    assert min(lengths) == 2 and 2.5 < np.mean(lengths) < 4  # 1 + a geometric number, of mean 2
