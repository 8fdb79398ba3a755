from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlagents.envs.lab.keyrooms import KeyRooms
from tests.envs.lab.known import capped_fraction, make, measured

ID = "rlagents/KeyRooms-v0"


def planted(facts: dict[str, str], doors: str, **kwargs: Any) -> KeyRooms:
    """An environment after reset whose task is set by hand."""
    env = KeyRooms(horizon=len(doors), keys=len(facts), **kwargs)
    env.reset(seed=0)
    env._codes, env._doors = facts, doors
    return env


def test_worked_example() -> None:
    """4 doors, 5 turns: a look and a wrong code cost two turns, so one door stays closed."""
    env = planted({"a": "3", "b": "7"}, "abba")
    told = [env.step(action)[:3] for action in ("3", "?", "1", "7", "7")]
    assert told == [
        ("b?", 0.25, False),
        ("b?", 0.0, False),
        ("no b?", 0.0, False),
        ("b?", 0.25, False),
        ("out of turns", 0.25, True),
    ]
    assert env._info()["metrics"] == {
        "turns": 5.0,
        "success": 0.0,
        "opened": 3.0,
        "looks": 1.0,
        "wrong": 1.0,
        "invalid": 0.0,
    }


def test_opening_all_doors_ends_the_task() -> None:
    env = planted({"a": "3"}, "aa")
    assert env.step("3")[:3] == ("a?", 0.5, False)
    observation, reward, terminated, truncated, info = env.step(" 3\n")
    assert (observation, reward, terminated, truncated) == ("all open", 0.5, True, False)
    assert info["metrics"]["success"] == 1.0


def test_penalty_is_paid_for_wrong_codes_only() -> None:
    env = planted({"a": "3"}, "a" * 4, penalty=0.125)
    rewards = [env.step(action)[1] for action in ("4", "?", "what", "3")]
    assert rewards == [-0.125, 0.0, 0.0, 0.25]


@pytest.mark.parametrize("action", ["", "33", "a", "٣", "9", "three", "\x00", "?" * 3])
def test_what_is_no_action_is_answered_bad(action: str) -> None:
    """With 9 codes, `9` is none; an Arabic digit three is no `3`."""
    env = planted({"a": "3"}, "aaa", codes=9)
    assert env.step(action)[:2] == ("bad a?", 0.0)
    assert env._info()["metrics"]["invalid"] == 1.0


def test_card_and_rooms_show_the_same_kind_of_facts() -> None:
    env = make(ID, horizon=3, keys=3)
    card, line = env.reset(seed=4)[0].split("\n")
    assert [fact[0] for fact in card.split(" ")] == ["a", "b", "c"] and line[1:] == "?"

    env = make(ID, horizon=3, keys=3, facts="rooms")
    shown = [env.reset(seed=4)[0]]
    shown += [env.step(action)[0] for action in ("?", "anything", "")]
    assert " ".join(shown[:3]) == card and shown[3] == line
    assert env.unwrapped.turns == 3 + 3  # no slack below 4 doors; the fact rooms come on top


def test_rules_are_put_in_front() -> None:
    plain = make(ID).reset(seed=1)[0]
    assert make(ID, rules=True).reset(seed=1)[0].endswith(".\n" + plain)


@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    horizon=st.integers(1, 60),
    keys=st.integers(1, 26),
    facts=st.sampled_from(["card", "rooms"]),
)
def test_the_text_alone_suffices(seed: int, horizon: int, keys: int, facts: str) -> None:
    """A player that remembers what it read, and sees nothing else, opens every door."""
    env = make(ID, horizon=horizon, keys=keys, facts=facts)
    observation, _ = env.reset(seed=seed)
    memory: dict[str, str] = {}
    total, turns, over = 0.0, 0, False
    while not over:
        *facts_read, last = observation.split()
        for fact in [*facts_read, last]:
            if fact[1:].isdigit():
                memory[fact[0]] = fact[1]
        observation, reward, over, _, _ = env.step(memory[last[0]] if last[1] == "?" else "on")
        total, turns = total + reward, turns + 1
    assert total == 1.0  # exactly, for every number of doors
    assert turns == horizon + (keys if facts == "rooms" else 0)


def test_horizon_of_over_500_turns_keeps_the_observations_short() -> None:
    env = make(ID, horizon=600, keys=26)
    observation, _ = env.reset(seed=0)
    longest, turns, over = len(observation), 0, False
    while not over:
        observation, _, over, _, _ = env.step(env.unwrapped.code)
        longest, turns = max(longest, len(observation)), turns + 1
    assert turns == 600 and longest == 26 * 3 + 2


def test_known_scores_are_their_closed_forms() -> None:
    """48 doors in 60 turns; 10 codes and the look."""
    known = KeyRooms.known_scores
    assert known["random"] == pytest.approx(capped_fraction(48, 60, 1 / 11), abs=5e-5)
    assert known["expert"] == pytest.approx(capped_fraction(48, 60, 0.4 * 0.95), abs=5e-5)


@pytest.mark.parametrize(
    ("policy", "kwargs", "p"),
    [
        ("random", {"horizon": 8, "turns": 32, "codes": 3}, 1 / 4),
        ("expert", {"horizon": 10, "turns": 12, "expert_waste": 0.3, "expert_error": 0}, 0.7),
        ("expert", {"horizon": 10, "turns": 20, "expert_waste": 0, "expert_error": 0.5}, 0.5),
        ("expert", {"horizon": 10, "turns": 16, "facts": "rooms", "expert_error": 0}, 0.4),
    ],
)
def test_closed_forms_hold_for_other_arguments(policy: str, kwargs: dict, p: float) -> None:
    mean, error = measured(ID, policy, **kwargs)
    expected = capped_fraction(kwargs["horizon"], kwargs["turns"], p)
    assert abs(mean - expected) <= 4 * error


def test_the_most_probable_action_of_the_expert_is_to_look() -> None:
    """So greedy imitation opens nothing, while an expert that never wastes scores 1."""
    env = make(ID).unwrapped
    env.reset(seed=0)
    act = env.scripted["expert"](env, np.random.default_rng(0))
    said = [act("") for _ in range(2000)]
    shares = {action: said.count(action) / 2000 for action in set(said)}
    assert max(shares, key=shares.__getitem__) == "?"
    assert shares["?"] == pytest.approx(0.6, abs=0.04)
    assert shares[env.code] == pytest.approx(0.38, abs=0.04)
    assert measured(ID, "expert", 5, expert_waste=0, expert_error=0) == (1.0, 0.0)
    assert measured(ID, "expert", 5, expert_waste=1)[0] == 0.0
