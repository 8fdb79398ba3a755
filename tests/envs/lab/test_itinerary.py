"""Plans and their quality, worked out by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from rlagents.envs.lab.itinerary import Itinerary


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
    env = planted(TWO_DAYS, horizon=2)
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
    env = Itinerary(horizon=3, stops=2)
    card, day = env.reset(seed=1)[0].split("\n")
    assert day == "1"
    assert sorted(item[0] for item in card.split()) == list("112233")
    assert sorted(item[1] for item in card.split()) == list("abcdef")
    near = {item[1] for item in card.split() if item[0] == "1"}
    act = Itinerary.scripted["oracle"](env, np.random.default_rng(0))
    assert set(act("1")) == near
    assert play(env, act("1"), "", "")[1] == ["2", "3", "out of turns"]


def test_the_potential_is_the_quality_of_the_days_that_are_planned() -> None:
    env = planted(TWO_DAYS, horizon=2)
    info = env.step("ab")[4]
    assert info["potential"] == pytest.approx(0.4 + 0.4 / 2 + 0.2 / 2)
    assert info["metrics"] == {"turns": 1.0, "near": 1.0, "seen": 0.5, "pace": 0.5, "invalid": 0.0}
    assert env.step("c!")[4]["metrics"]["invalid"] == 1.0


def test_a_long_trip_goes_through_the_districts_again() -> None:
    env = planted(TWO_DAYS, horizon=4, stops=13)
    assert env.districts == 2
    assert play(planted(TWO_DAYS, horizon=4, stops=13), "", "", "", "")[1][:3] == ["2", "1", "2"]
    env.reset(seed=0)
    act = Itinerary.scripted["oracle"](env, np.random.default_rng(0))
    first = act("1")
    assert len(first) == 13
    env.step(first)
    second = act("2")
    assert set(first) | set(second) == set(env.sights)
    assert play(env, second, first, second)[0] == 1.0


def test_rules_explain_the_game() -> None:
    assert Itinerary(rules=True).reset(seed=0)[0].startswith("Plan a trip. ")
