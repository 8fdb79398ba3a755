from __future__ import annotations

import re

import numpy as np
import pytest

from rlagents.envs.lab.needle import Needle
from tests.envs.lab.known import measured

ID = "rlagents/Needle-v0"


def test_a_worked_episode() -> None:
    env = Needle(horizon=3, characters=2_000)
    observation, info = env.reset(seed=0)
    text, question = observation.rsplit("\n", 1)
    told = dict(re.findall(r"the code of vault (\d+) is (\d{5})\n", text + "\n"))
    assert len(told) == 3 and info["potential"] == 1.0
    rewards = []
    for answer in ("nothing", "vault", "right", "wrong", "right"):
        vault = re.findall(r"Code of vault (\d+)\?$", question)[0]
        code = {"right": told[vault], "wrong": str(99999 - int(told[vault])).zfill(5)}
        question, reward, over, _, info = env.step(code.get(answer, answer))
        rewards.append(reward)
        if answer == "nothing":
            assert question == f"bad\nCode of vault {vault}?"
    assert rewards == pytest.approx([0, 0, 1 / 3, 0, 1 / 3])
    assert (question, over) == ("done", True)
    expected = {"turns": 5.0, "right": 2.0, "wrong": 1.0, "invalid": 2.0}
    assert info["metrics"] == expected and info["potential"] == 0.0


@pytest.mark.parametrize(("characters", "horizon"), [(100, 1), (100, 40), (200_000, 1)])
def test_the_text_is_as_long_as_asked_and_tells_each_code_once(
    characters: int, horizon: int
) -> None:
    env = Needle(characters=characters, horizon=horizon)
    for seed in range(5):
        observation, _ = env.reset(seed=seed)
        assert observation in env.observation_space
        lines = observation.splitlines(keepends=True)[:-1]
        needles = [line for line in lines if "vault" in line]
        filler = sum(map(len, lines)) - sum(map(len, needles))
        assert characters <= filler < characters + 50
        assert len(set(needles)) == horizon == len(set(env._vaults))


def test_needles_lie_anywhere() -> None:
    env = Needle(characters=2_000)
    places = []
    for seed in range(300):
        observation, _ = env.reset(seed=seed)
        places.append(observation.index("the code of") / len(observation))
    assert np.histogram(places, bins=4, range=(0, 1))[0].min() > 45  # 75 each, sd 7.5


def test_scripted_policies_answer_what_they_see_and_write_code_for_what_they_do_not() -> None:
    shown = "context: str, len 9\nthe c[... 9 characters left out ...]x\nCode of vault 123?"
    env = Needle()
    rng = np.random.default_rng(0)
    act = env.scripted["recursive"](env, rng)
    assert act(shown) == ">>>print(context.split('vault 123 is ')[1][:5])"
    assert act("48213") == "48213"
    assert act("12 crates\nvault 123 is 48214\nCode of vault 123?") == "48214"
    calls = env.scripted["calls"](env, rng)
    assert calls(shown).startswith(">>>c=context")
    assert calls("[no output]") == ">>>r=llm_query_batched(['123? '+x for x in p])"
    assert calls("123? ... vault 123 is 48215\n") == "48215"
    assert calls("123? ... vault 124 is 48215\n") == "no"
    assert calls("[no output]").startswith(">>>print(")
    assert calls("48215") == "48215"
    wrong = Needle(expert_error=1.0)
    expert = wrong.scripted["expert"](wrong, rng)
    assert expert("vault 1 is 48213\nCode of vault 1?")[:4] == "4821"
    assert expert("vault 1 is 48213\nCode of vault 1?") != "48213"


def test_pieces_overlap_by_more_than_what_is_looked_for() -> None:
    env = Needle(characters=400)
    act = env.scripted["calls"](env, np.random.default_rng(0))
    (blocks,) = [act("x\nCode of vault 123?").removeprefix(">>>")]
    for at in range(380):
        space = {"context": " " * at + "vault 123 is 48213" + " " * 400}
        exec(blocks, space)
        assert any("vault 123 is 48213" in piece for piece in space["p"])


def test_without_a_window_those_that_read_find_all_and_the_truncated_almost_nothing() -> None:
    for policy in ("recursive", "calls"):
        assert measured(ID, policy, episodes=20, horizon=5)[0] == 1.0
    assert measured(ID, "truncated", episodes=100, characters=50_000)[0] <= 0.03
