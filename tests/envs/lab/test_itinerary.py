"""Plans and their quality, worked out by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from rlagents.envs.lab.itinerary import Itinerary
from tests.envs.lab.known import measured


def planted(districts: dict[str, int], **kwargs: Any) -> Itinerary:
    """An environment with known places; the card on the first observation is another one."""
    env = Itinerary(**kwargs)
    env.reset(seed=0)
    env._district = dict(districts)  # pyright: ignore[reportPrivateUsage]
    return env


def play(env: Itinerary, *lines: str) -> tuple[float, list[str]]:
    """Sum of the rewards, and what was answered."""
    total, answers = 0.0, []
    for line in lines:
        observation, reward, done, _, _ = env.step(line)
        total += reward
        answers.append(observation)
        assert done == (len(answers) == env.days)
        assert reward == 0.0 or done
    return total, answers


TWO_DAYS = {"a": 1, "b": 1, "c": 2, "d": 2}


@pytest.mark.parametrize(
    ("lines", "near", "seen", "pace"),
    [
        (("ab", "cd"), 1, 1, 1),
        (("ba", "dc"), 1, 1, 1),  # the order inside a day is free
        (("cd", "ab"), 0, 1, 1),
        (("ac", "cd"), 3 / 4, 3 / 4, 1),
        (("aa", "cd"), 1, 3 / 4, 1),  # a repeat is near and shows nothing new
        (("a", "cd"), 1, 3 / 4, 3 / 4),  # pace of the days: 1/2 and 1
        (("abab", "cd"), 1, 1, 1 / 2),  # 0 and 1
        (("a?", "cd"), 3 / 4, 3 / 4, 1),  # a visit of nothing
        (("", ""), 0, 0, 0),
        (("abcdabcd", "cd"), 6 / 8, 1, 1 / 2),  # cut to abcdab: 4 near of 6, then 2 of 2
    ],
)
def test_quality_is_made_of_three_shares(
    lines: tuple[str, ...], near: float, seen: float, pace: float
) -> None:
    env = planted(TWO_DAYS, days=2)
    total, _ = play(env, *lines)
    assert total == pytest.approx(0.4 * near + 0.4 * seen + 0.2 * pace)


def test_no_observation_says_how_good_a_plan_is() -> None:
    good, bad = Itinerary(), Itinerary()
    assert good.reset(seed=3)[0] == bad.reset(seed=3)[0]
    act = Itinerary.scripted["oracle"](good, np.random.default_rng(0))
    lines = []
    for _ in range(4):
        lines.append(act(""))
        assert good.step(lines[-1])[0] == bad.step("zz")[0]


def test_the_card_names_each_sight_once_with_its_district_and_then_the_day() -> None:
    env = Itinerary(days=3, stops=2)
    card, day = env.reset(seed=1)[0].split("\n")
    assert day == "1"
    assert sorted(item[0] for item in card.split()) == list("112233")
    assert sorted(item[1] for item in card.split()) == list("abcdef")
    near = {item[1] for item in card.split() if item[0] == "1"}
    act = Itinerary.scripted["oracle"](env, np.random.default_rng(0))
    assert set(act("1")) == near
    assert play(env, act("1"), "", "")[1] == ["2", "3", "the end"]


@pytest.mark.parametrize(("policy", "known"), Itinerary.known_scores.items())
def test_known_scores(policy: str, known: float) -> None:
    mean, error = measured("rlagents/Itinerary-v0", policy, 500)
    assert mean == pytest.approx(known, abs=4 * error + 1e-9)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"days": 0}, "days: expected a number from 1 to 9, got 0"),
        ({"days": 9, "stops": 3}, "stops: expected a number from 1 to 2, got 3"),
        ({"expert_care": 2}, "expert_care: expected a number from 0 to 1, got 2"),
        ({"rules": "no"}, "rules: expected true or false, got 'no'"),
    ],
)
def test_arguments_out_of_range(kwargs: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Itinerary(**kwargs)


def test_rules_explain_the_game() -> None:
    assert Itinerary(rules=True).reset(seed=0)[0].startswith("Plan a trip. ")
