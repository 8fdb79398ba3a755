from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from rlagents.envs.arena.token_games.grammar import DRAWS, parse
from rlagents.envs.arena.token_games.solver import TokenSolver, is_held_out
from tests.envs.lab.known import measured

ID = "rlagents/TokenSolver-v0"
SMALL = [("congruence", 7), ("word", 3), ("subset", 4)]


def test_worked_example() -> None:
    env = TokenSolver(family="congruence", size=7, horizon=3)
    env.reset(seed=0)
    statements = ["3x+4=2%7", "1x+0=6%7", "2x+0=1%7"]
    env._puzzles = [puzzle for s in statements if (puzzle := parse(s))]
    assert env.step("4")[:3] == ("1x+0=6%7", pytest.approx(1 / 3), False)
    assert env.step("six")[:3] == ("2x+0=1%7", 0.0, False)
    observation, reward, over, _, info = env.step(" 4 ")
    assert (observation, reward, over) == ("done", pytest.approx(1 / 3), True)
    assert info["metrics"] == {"turns": 3.0, "solve_rate": pytest.approx(2 / 3)}


@pytest.mark.parametrize(
    ("family", "size"), [*SMALL, ("congruence", 5), ("word", 1), ("subset", 1)]
)
def test_no_puzzle_is_both_trained_on_and_held_out(family: Any, size: int) -> None:
    env = TokenSolver(family=family, size=size, horizon=50)
    keys: dict[int, set[str]] = {0: set(), 1: set()}
    for seed in range(20):
        env.reset(seed=seed)
        keys[seed % 2] |= {puzzle.key for puzzle in env._puzzles}
    assert keys[0] and keys[1] and not keys[0] & keys[1]
    env.reset()
    assert not any(map(is_held_out, env._puzzles))


@pytest.mark.parametrize(("family", "size"), SMALL)
def test_about_a_quarter_is_held_out(family: str, size: int) -> None:
    rng = np.random.default_rng(0)
    drawn = {puzzle.key: puzzle for puzzle in (DRAWS[family](rng, size) for _ in range(3000))}
    assert 0.15 < np.mean([is_held_out(puzzle) for puzzle in drawn.values()]) < 0.35


@pytest.mark.parametrize(("family", "size"), SMALL)
def test_scripted_policies(family: str, size: int) -> None:
    kwargs = {"family": family, "size": size}
    scores = {
        name: measured(ID, name, episodes=150, **kwargs) for name in ("random", "expert", "oracle")
    }
    assert scores["oracle"] == (1.0, 0.0)
    # Right with probability 0.9, and by luck in a share of the rest: 0.9 + 0.1 * random.
    expected = 0.9 + 0.1 * scores["random"][0]
    assert abs(scores["expert"][0] - expected) < 4 * scores["expert"][1] + 0.01


def test_rules_are_told_once() -> None:
    env = TokenSolver(rules=True)
    first, _ = env.reset(seed=2)
    assert first.startswith("Write the word") and first.endswith(env.puzzle.statement)
    assert env.step("")[0] == env.puzzle.statement


@pytest.mark.parametrize(
    ("kwargs", "said"),
    [
        ({"family": "prime"}, "family: expected one of"),
        ({"family": "congruence", "size": 4}, "size: expected a number from 5 to 9999"),
        ({"size": 7}, "size: expected a number from 1 to 6"),
        ({"horizon": 0}, "horizon: expected"),
        ({"expert_error": 2}, "expert_error: expected"),
    ],
)
def test_arguments_that_make_no_sense(kwargs: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        TokenSolver(**kwargs)
