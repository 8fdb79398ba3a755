from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import gymnasium
import numpy as np
import pytest

from rlagents.errors import ConfigError
from rlagents.policy.scripted import scripted_policy


class Guess(gymnasium.Env[str, str]):
    answer = "7"
    scripted: ClassVar[dict[str, Callable[[Any, np.random.Generator], Callable[[str], str]]]] = {
        "oracle": lambda env, rng: lambda observation: env.answer,
        "random": lambda env, rng: lambda observation: str(rng.integers(10)),
    }


def test_a_policy_sees_its_environment_through_wrappers() -> None:
    env = gymnasium.Wrapper(Guess())
    assert scripted_policy(env, "oracle", np.random.default_rng(0))("?") == "7"
    first = scripted_policy(env, "random", np.random.default_rng(1))
    same = scripted_policy(env, "random", np.random.default_rng(1))
    assert [first("?") for _ in range(5)] == [same("?") for _ in range(5)]


def test_unknown_names_list_the_known_ones() -> None:
    rng = np.random.default_rng(0)
    with pytest.raises(ConfigError, match=r"'orcale' \(it has: oracle, random\); .*'oracle'"):
        scripted_policy(Guess(), "orcale", rng)
    with pytest.raises(ConfigError, match="it has: none"):
        scripted_policy(gymnasium.Env(), "oracle", rng)
