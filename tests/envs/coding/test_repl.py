from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from rlagents.envs.coding.repl import Repl
from rlagents.envs.sandbox import choice
from rlagents.errors import ConfigError

_PROBLEM = choice.cached_problem(choice.chosen("auto"))
pytestmark = pytest.mark.skipif(_PROBLEM is not None, reason=f"no sandbox: {_PROBLEM}")


@pytest.fixture
def env() -> Iterator[Repl]:
    made = Repl(horizon=2, records=50, turns=12, sandbox={"memory_mb": 128, "wall_s": 2})
    yield made
    made.close()


def play(env: Repl, policy: str, seed: int) -> float:
    observation, _ = env.reset(seed=seed)
    act, total, over = env.scripted[policy](env, np.random.default_rng(seed)), 0.0, False
    while not over:
        observation, reward, over, _, _ = env.step(act(observation))
        total += reward
    return total


def test_answers_are_what_the_text_says_by_hand(env: Repl) -> None:
    env.reset(seed=3)
    table = [(5, "blue", "attic"), (7, "blue", "yard"), (2, "white", "attic")]
    env._table = table
    assert env._lines()[1] == "item 1: 7 blue boxes in the yard"
    kinds: dict[int, Any] = {kind: [env._question(kind) for _ in range(40)] for kind in range(3)}
    assert ("How many blue boxes?", 12) in [q[:2] for q in kinds[0]]
    assert ("How many boxes in the attic?", 7) in [q[:2] for q in kinds[1]]
    for text, answer, expression in [q for asked in kinds.values() for q in asked]:
        assert eval(expression, {"t": table}) == answer, text


def test_the_session_keeps_state_and_right_answers_pay(env: Repl) -> None:
    first, _ = env.reset(seed=0)
    assert "`text` in a Python session holds 50 lines" in first and "Question 1: " in first
    assert env.step("n = len(text.splitlines())")[0] == "[no output]"
    assert env.step("n + 1")[0] == "51"
    right = env._questions[0][1]
    observation, reward, over, _, info = env.step(f"Answer: {right}")
    assert observation.startswith("Question 2: ") and (reward, over) == (0.5, False)
    observation, reward, over, _, info = env.step("answer: nothing of the kind")
    assert (observation, reward, over) == ("done", 0.0, True)
    assert info["metrics"] == {
        "turns": 4.0, "right": 1.0, "answers": 2.0, "failures": 0.0, "restarts": 0.0
    }  # fmt: skip


def test_failures_are_observations_and_a_dead_session_begins_anew(env: Repl) -> None:
    env.reset(seed=0)
    assert "ZeroDivisionError" in env.step("1/0")[0]
    assert "[ended by the limit wall_s]" in env.step("while True: pass")[0]
    assert env.step("len(text) > 100")[0] == "True"  # interrupted, not lost
    bomb = env.step("x = []\nwhile True: x.append(bytearray(10**7))")[0]
    assert "memory_mb" in bomb or "MemoryError" in bomb
    assert env.step("import os; os._exit(7)")[0].endswith("[session restarted]")
    observation, *_, info = env.step("len(text) > 100")
    assert observation == "True"
    assert info["metrics"]["failures"] >= 4 and info["metrics"]["restarts"] >= 1


def test_long_output_is_cut_in_the_middle(env: Repl) -> None:
    env.reset(seed=0)
    observation = env.step("print('a' * 5000 + 'z' * 5000)")[0]
    assert observation.startswith("a" * 1000) and observation.endswith("z" * 1000)
    assert "[... 8,000 characters ...]" in observation
    assert observation in env.observation_space


def test_scripted_policies_score_as_documented() -> None:
    env = Repl(horizon=4, records=300)
    try:
        assert [play(env, "oracle", seed) for seed in range(3)] == [1.0] * 3
        expert = [play(env, "expert", seed) for seed in range(12)]
        assert 0.7 < np.mean(expert) <= 1.0  # 0.9 expected, sd 0.043
        flawless = Repl(horizon=4, records=300, expert_error=0.0)
        assert play(flawless, "expert", 1) == 1.0
        flawless.close()
    finally:
        env.close()


@pytest.mark.parametrize(
    ("sandbox", "message"),
    [
        ({"memroy_mb": 3}, "sandbox.memroy_mb: unknown key; did you mean 'sandbox.memory_mb'"),
        ({"tier": "stict"}, "sandbox.tier: expected one of auto, .*did you mean 'strict'"),
        ({"wall_s": -1}, "sandbox.wall_s: expected above 0, at most 1,000,000 s, got -1"),
        ({"processes": "many"}, "sandbox.processes: expected `int`, got `str`"),
        (3, "sandbox: expected a section with keys such as 'tier', got 3"),
    ],
)
def test_wrong_settings_name_their_key(sandbox: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Repl(sandbox=sandbox)
