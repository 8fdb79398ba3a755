from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlagents.envs.lab.lock import Lock
from tests.envs.lab.known import binomial, capped_fraction, make, measured

ID = "rlagents/Lock-v0"


def planted(pattern: str, **kwargs: Any) -> Lock:
    env = Lock(horizon=kwargs.pop("horizon", len(pattern)), period=len(pattern), **kwargs)
    env.reset(seed=0)
    env._pattern = pattern
    return env


def play(env: Lock, actions: str) -> list[tuple[str, float, bool]]:
    return [env.step(action)[:3] for action in actions]


def test_worked_example_all_or_nothing() -> None:
    assert play(planted("bda"), "bda") == [
        ("B", 0.0, False),
        ("C", 0.0, False),
        ("open", 1.0, True),
    ]
    assert play(planted("bda"), "bb") == [("B", 0.0, False), ("no, locked", 0.0, True)]


def test_reset_goes_back_and_partial_pays_only_new_ground() -> None:
    env = planted("abca", wrong="reset", partial=True, turns=8)
    assert play(env, "abdabca") == [
        ("B", 0.25, False),
        ("C", 0.25, False),
        ("no A", 0.0, False),
        ("B", 0.0, False),
        ("C", 0.0, False),
        ("D", 0.25, False),
        ("open", 0.25, True),
    ]
    assert env._info()["metrics"] == {
        "turns": 7.0,
        "success": 1.0,
        "furthest": 4.0,
        "wrong": 1.0,
        "invalid": 0.0,
    }


def test_the_potential_is_the_share_of_the_places_passed_in_this_try() -> None:
    env = planted("abca", wrong="reset")
    potentials = [env.step(action)[4]["potential"] for action in "ab?dabca"]
    assert potentials == [0.25, 0.5, 0.5, 0, 0.25, 0.5, 0.75, 0]


def test_stay_costs_only_the_turn_and_the_budget_ends_it() -> None:
    env = planted("ab", wrong="stay", turns=3)
    assert play(env, "cad") == [
        ("no A", 0.0, False),
        ("B", 0.0, False),
        ("out of turns", 0.0, True),
    ]


@pytest.mark.parametrize("action", ["", "e", "A", "ab", "1", "ä"])
def test_what_is_no_letter_of_the_lock_costs_a_turn_and_nothing_else(action: str) -> None:
    env = planted("ab")
    assert env.step(action)[:3] == ("bad A", 0.0, False)
    assert play(env, "ab")[-1] == ("open", 1.0, True)


def test_hints() -> None:
    assert make(ID, hint="none").reset(seed=0)[0] == "A"
    code, line = make(ID).reset(seed=0)[0].split("\n")
    assert [fact[0] for fact in code.split(" ")] == list("ABCDEFGH") and line == "A"
    assert make(ID, hint="each").reset(seed=0)[0] == f"A {code[1]}"
    short = make(ID, horizon=64, period=3).reset(seed=0)[0]
    assert short == f"{code[:8]} repeated to 64\nA"
    assert make(ID, rules=True).reset(seed=0)[0].endswith(f".\n{code}\n{line}")


def test_card_and_places_of_a_planted_pattern() -> None:
    """Place and letter stand together on the card, and the place repeats with the pattern."""
    env = planted("bd", horizon=4)
    env.reset(seed=0)
    first, second = env._pattern
    assert env._last == f"A{first} B{second} repeated to 4\nA"
    said = [told[0] for told in play(env, 2 * env._pattern)]
    assert said == ["B", "A", "B", "open"]


def test_names_of_the_places_are_different() -> None:
    """The last of 10,000 is the longest name; every card is in the observation space."""
    env = make(ID, horizon=10_000, symbols=26, rules=True)
    observation, _ = env.reset(seed=0)
    card = observation.split("\n")[1].split(" ")
    assert [fact[:-1] for fact in card[24:28]] == ["Y", "Z", "1A", "1B"]
    assert card[-1][:-1] == "384P" and len({fact[:-1] for fact in card}) == 10_000
    assert observation in env.observation_space


def test_a_pattern_repeats_to_any_length() -> None:
    env = planted("abc", horizon=7)
    assert play(env, "abcabca")[-1] == ("open", 1.0, True)


@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    horizon=st.integers(1, 80),
    period=st.integers(1, 80),
    hint=st.sampled_from(["card", "each"]),
    partial=st.booleans(),
)
def test_the_text_alone_suffices(seed: int, horizon: int, period: int, hint, partial) -> None:
    """A player that reads the card, or the last character of each hint, opens the lock."""
    period = min(period, horizon)
    env = make(ID, horizon=horizon, period=period, hint=hint, partial=partial)
    observation, _ = env.reset(seed=seed)
    facts = {fact[:-1]: fact[-1] for fact in observation.split()[:period]}
    total, turns, over = 0.0, 0, False
    while not over:
        last = observation.split()[-1]
        letter = facts[last] if hint == "card" else last
        observation, reward, over, _, _ = env.step(letter)
        total, turns = total + reward, turns + 1
    assert total == 1.0 and turns == horizon


def test_search_by_trial_opens_an_unknown_lock() -> None:
    """hint none, wrong stay: at most `symbols` tries a position."""
    env = make(ID, horizon=20, hint="none", wrong="stay", turns=80)
    env.reset(seed=3)
    total, turns, tried, over = 0.0, 0, 0, False
    while not over:
        observation, reward, over, _, _ = env.step("abcd"[tried])
        tried = tried + 1 if observation.startswith("no") else 0
        total, turns = total + reward, turns + 1
    assert total == 1.0 and 20 < turns <= 80


def test_known_scores_are_their_closed_forms() -> None:
    assert Lock.known_scores == {"random": 0.25**8, "expert": 0.9**8, "oracle": 1.0}
    assert round(0.25**8, 6) == 0.000015 and round(0.9**8, 4) == 0.4305


@pytest.mark.parametrize(
    ("policy", "kwargs", "expected"),
    [
        ("random", {"horizon": 2, "symbols": 2}, 1 / 4),
        ("random", {"horizon": 3, "symbols": 2, "partial": True}, (1 / 2 + 1 / 4 + 1 / 8) / 3),
        (
            "random",
            {"horizon": 3, "symbols": 2, "wrong": "stay", "turns": 5},
            sum(binomial(5, 0.5, k) for k in (3, 4, 5)),
        ),
        (
            "random",
            {"horizon": 6, "symbols": 3, "wrong": "stay", "turns": 12, "partial": True},
            capped_fraction(6, 12, 1 / 3),
        ),
        ("expert", {"horizon": 5, "expert_error": 0.2}, 0.8**5),
        (
            "expert",
            {"horizon": 9, "wrong": "stay", "turns": 10, "expert_error": 0.3, "partial": True},
            capped_fraction(9, 10, 0.7),
        ),
    ],
)
def test_closed_forms_hold_for_other_arguments(policy: str, kwargs: dict, expected: float) -> None:
    mean, error = measured(ID, policy, 600, **kwargs)
    assert abs(mean - expected) <= 4 * error


def test_horizon_of_over_500_turns() -> None:
    assert measured(ID, "oracle", 3, horizon=600, period=4, partial=True) == (1.0, 0.0)
    env = make(ID, horizon=600, period=4)
    assert len(env.reset(seed=0)[0]) < 40


def test_expert_errs_as_often_as_told() -> None:
    env = make(ID, expert_error=0.25).unwrapped
    env.reset(seed=0)
    act = env.scripted["expert"](env, np.random.default_rng(1))
    said = [act("") for _ in range(2000)]
    assert 1 - said.count(env.letter) / 2000 == pytest.approx(0.25, abs=4 * 0.0097)
    assert set(said) == set("abcd")
