from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlagents.envs.lab.keyrooms import KeyRooms
from tests.envs.lab.known import (
    capped_fraction,
    double_checking_closed_form,
    double_checking_fraction,
    make,
    measured,
)

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
        ("b", 0.25, False),
        ("b", 0.0, False),
        ("no b", 0.0, False),
        ("b", 0.25, False),
        ("out of turns", 0.25, True),
    ]
    assert env._info()["metrics"] == {
        "turns": 5.0,
        "success": 0.0,
        "opened": 3.0,
        "looks": 1.0,
        "wrong": 1.0,
        "invalid": 0.0,
        "late": 0.5,
    }


def test_opening_all_doors_ends_the_task() -> None:
    env = planted({"a": "3"}, "aa")
    assert env.step("3")[:3] == ("a", 0.5, False)
    observation, reward, terminated, truncated, info = env.step(" 3\n")
    assert (observation, reward, terminated, truncated) == ("all open", 0.5, True, False)
    assert info["metrics"]["success"] == 1.0


def test_the_potential_is_what_a_flawless_walk_still_earns() -> None:
    """4 doors, 5 turns: the first look is free, the wrong code costs a door."""
    env = planted({"a": "3", "b": "7"}, "abba")
    potentials = [env._info()["potential"]]
    rewards = []
    for action in ("3", "?", "1", "7", "7"):
        _, reward, _, _, info = env.step(action)
        rewards.append(reward)
        potentials.append(info["potential"])
    # min(doors left, turns left) / 4: (4, 5), (3, 4), (3, 3), (3, 2), (2, 1), and the end.
    assert potentials == [1, 0.75, 0.75, 0.5, 0.25, 0]
    shaped = [
        r + after - before
        for r, (before, after) in zip(rewards, itertools.pairwise(potentials), strict=True)
    ]
    assert shaped == [0, 0, -0.25, 0, 0]


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    facts=st.sampled_from(["card", "rooms"]),
    slack=st.integers(0, 4),
    data=st.data(),
)
def test_shaped_rewards_are_zero_for_the_oracle_and_never_above(
    seed: int, facts: str, slack: int, data: Any
) -> None:
    """The potential is the value of the best policy: no action gains on it."""
    env = make(ID, horizon=6, turns=6 + slack, keys=3, facts=facts).unwrapped
    _, info = env.reset(seed=seed)
    over = False
    while not over:
        action = data.draw(st.sampled_from([env.code, "?", "0", "x"]))
        right, before = action == env.code, info["potential"]
        _, reward, over, _, info = env.step(action)
        shaped = reward + info["potential"] - before
        assert shaped == pytest.approx(0, abs=1e-12) if right else shaped < 1e-12


def test_penalty_is_paid_for_wrong_codes_only() -> None:
    env = planted({"a": "3"}, "a" * 4, penalty=0.125)
    rewards = [env.step(action)[1] for action in ("4", "?", "what", "3")]
    assert rewards == [-0.125, 0.0, 0.0, 0.25]


@pytest.mark.parametrize("action", ["", "33", "a", "٣", "9", "three", "\x00", "?" * 3])
def test_what_is_no_action_is_answered_bad(action: str) -> None:
    """With 9 codes, `9` is none; an Arabic digit three is no `3`."""
    env = planted({"a": "3"}, "aaa", codes=9)
    assert env.step(action)[:2] == ("bad a", 0.0)
    assert env._info()["metrics"]["invalid"] == 1.0


def test_card_and_rooms_show_the_same_kind_of_facts() -> None:
    env = make(ID, horizon=3, keys=3)
    card, line = env.reset(seed=4)[0].split("\n")
    assert [fact[0] for fact in card.split(" ")] == ["a", "b", "c"] and line in ("a", "b", "c")

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
        observation, reward, over, _, _ = env.step(memory[last] if len(last) == 1 else "on")
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
    assert turns == 600 and longest == 26 * 3 + 1


def test_every_line_of_a_door_ends_with_its_letter() -> None:
    """Nothing comes between the letter and the action that it asks for."""
    env = planted({"a": "3", "b": "7"}, "abba", turns=12)
    assert env._last.endswith("\na") or env._last.endswith("\nb")
    said = [env.step(action)[0] for action in ("?", "5", "what", "3", "?", "5", "what", "7")]
    assert said == ["a", "no a", "bad a", "b", "b", "no b", "bad b", "b"]


def test_known_scores_are_their_closed_forms() -> None:
    """48 doors in 60 turns; 10 codes and the look."""
    known = KeyRooms.known_scores
    assert known["random"] == pytest.approx(capped_fraction(48, 60, 1 / 11), abs=5e-5)
    expert = double_checking_fraction(48, 60, 0.75, 0.05)
    assert known["expert"] == pytest.approx(expert, abs=5e-5)


def test_the_dynamic_programme_by_hand() -> None:
    """2 doors, 2 turns, a look half of the time: both open with 1/4, else one of them."""
    assert double_checking_fraction(2, 2, 0.5, 0.0) == (2 / 4 + 3 / 4) / 2
    # Looks always: 5 turns open 2 of 4 doors. Errs half of the time: no door with 1/4, else one.
    assert double_checking_fraction(4, 5, 1.0, 0.0) == 2 / 4
    assert double_checking_fraction(2, 3, 1.0, 0.5) == (1 / 4 * 0 + 3 / 4 * 1) / 2


@settings(max_examples=40, deadline=None)
@given(
    doors=st.integers(1, 8),
    slack=st.integers(0, 16),
    waste=st.floats(0, 1),
    error=st.floats(0, 1),
)
def test_the_documented_sum_is_the_dynamic_programme(
    doors: int, slack: int, waste: float, error: float
) -> None:
    arguments = (doors, doors + slack, waste, error)
    expected = double_checking_fraction(*arguments)
    assert double_checking_closed_form(*arguments) == pytest.approx(expected, abs=1e-9)
    bare = double_checking_fraction(doors, doors + slack, 0.0, error)
    assert bare == pytest.approx(capped_fraction(doors, doors + slack, 1 - error), abs=1e-9)


@pytest.mark.parametrize("facts", ["card", "rooms"])
def test_closed_form_of_the_random_policy_holds_for_other_arguments(facts: str) -> None:
    mean, error = measured(ID, "random", horizon=8, turns=32, codes=3, facts=facts)
    assert abs(mean - capped_fraction(8, 32, 1 / 4)) <= 4 * error


@pytest.mark.parametrize("facts", ["card", "rooms"])
@pytest.mark.parametrize(
    ("horizon", "turns", "waste", "wrong"),
    [
        (1, 1, 0.75, 0.0),
        (2, 3, 0.5, 0.25),
        (10, 12, 0.3, 0.0),
        (10, 20, 0.0, 0.5),
        (10, 16, 0.75, 0.05),
        (12, 24, 0.9, 0.1),
    ],
)
def test_score_of_the_expert_holds_for_other_arguments(
    facts: str, horizon: int, turns: int, waste: float, wrong: float
) -> None:
    """The fact rooms come on top of the turns, and are no doors to doubt."""
    mean, error = measured(
        ID,
        "expert",
        400,
        horizon=horizon,
        turns=turns,
        facts=facts,
        expert_waste=waste,
        expert_error=wrong,
    )
    assert abs(mean - double_checking_fraction(horizon, turns, waste, wrong)) <= 4 * error


@pytest.mark.parametrize("facts", ["card", "rooms"])
def test_the_most_probable_actions_of_the_expert(facts: str) -> None:
    """At a new door to look; after a look, or a wrong code, to say the right one."""
    env = make(ID, facts=facts).unwrapped
    said: dict[str, list[str]] = {"first": [], "new": [], "looked": [], "wrong": []}
    for seed in range(200):
        observation, _ = env.reset(seed=seed)
        act = env.scripted["expert"](env, np.random.default_rng(seed))
        for _ in range(env._rooms):
            observation, *_ = env.step(act(observation))
        at, over = "first", False
        while not over:
            action, code = act(observation), env.code
            said[at].append("right" if action == code else "look" if action == "?" else "wrong")
            observation, _, over, _, _ = env.step(action)
            at = {"look": "looked", "right": "new", "wrong": "wrong"}[said[at][-1]]
    for at, look in (("first", 0.75), ("new", 0.75), ("looked", 0.0), ("wrong", 0.0)):
        n = len(said[at])
        shares = {word: said[at].count(word) / n for word in ("look", "right", "wrong")}
        assert max(shares, key=shares.__getitem__) == ("look" if look else "right")
        for word, p in (("look", look), ("right", (1 - look) * 0.95)):
            assert abs(shares[word] - p) <= 4 * (p * (1 - p) / n) ** 0.5


@pytest.mark.parametrize("facts", ["card", "rooms"])
def test_greedy_imitation_of_the_expert_runs_at_half_speed(facts: str) -> None:
    """Look, open, look, open: 60 turns open 30 of 48 doors; without a look the score is 1."""
    env = make(ID, facts=facts)
    env.reset(seed=0)
    opened, turn, over = 0.0, 0, False
    while not over:
        doubt = turn % 2 == env.unwrapped._rooms % 2
        _, reward, over, _, _ = env.step("?" if doubt else env.unwrapped.code)
        opened, turn = opened + reward, turn + 1
    assert opened == 30 / 48
    always = measured(ID, "expert", 5, facts=facts, expert_waste=1, expert_error=0)
    assert always == (pytest.approx(30 / 48), 0.0)
    assert measured(ID, "expert", 5, facts=facts, expert_waste=0, expert_error=0) == (1.0, 0.0)


def test_a_loop_goes_through_the_letters_and_random_order_does_not() -> None:
    def letters(order: str) -> str:
        env = make(ID, horizon=20, turns=20, keys=4, order=order).unwrapped
        env.reset(seed=3)
        return env._doors

    loop = letters("loop")
    start = "abcd".index(loop[0])
    assert loop == "".join("abcd"[(start + i) % 4] for i in range(20))
    steps = {(ord(b) - ord(a)) % 4 for a, b in itertools.pairwise(letters("random"))}
    assert len(steps) > 1


def test_facts_in_passing_by_hand() -> None:
    """7 doors, a fact every third line, its door two doors later; one code is wrong."""
    env = make(ID, horizon=7, turns=7, keys=2, passing=3, gap=2, tries=1).unwrapped
    observation, _ = env.reset(seed=1)
    seen = [observation.split("\n")[1]]
    codes = [env.code]
    for door in range(7):
        right, env_codes = env.code, env.codes
        wrong = str((int(right) + 1) % env_codes)
        observation, *_ = env.step(wrong if door == 5 else right)
        seen.append(observation)
        codes.append(env.code)
    card = env._codes
    first, second = env._passing[2], env._passing[5]
    # Facts at lines 0 and 3 (that of line 6 would come after the end), doors 2 and 5.
    assert [line[:-2] for line in (seen[0], seen[3])] == [f"A{first}", f"B{second}"]
    assert seen[2] == "A" and seen[5] == "B" and seen[7] == "no door left"
    assert [len(line) for line in seen[:7]] == [4, 1, 1, 4, 1, 1, 1]
    assert codes[2] == first and codes[5] == second
    assert all(codes[i] == card[seen[i][-1]] for i in (0, 1, 3, 4, 6))
    metrics = env._info()["metrics"]
    # The second half is doors 3 to 6, of which 5 is in passing and stayed shut.
    assert (metrics["late"], metrics["late_card"], metrics["late_passing"]) == (3 / 4, 1, 0)
    assert (metrics["opened"], metrics["success"]) == (6, 0)


@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    horizon=st.integers(1, 200),
    passing=st.integers(1, 9),
    gap=st.integers(1, 25),
    facts=st.sampled_from(["card", "rooms"]),
)
def test_what_was_read_last_opens_every_door(
    seed: int, horizon: int, passing: int, gap: int, facts: str
) -> None:
    """Letters come back, with other codes: the latest fact is right, however old."""
    env = make(ID, horizon=horizon, turns=horizon, passing=passing, gap=gap, facts=facts)
    observation, _ = env.reset(seed=seed)
    memory: dict[str, str] = {}
    told, total, over = dict[str, int](), 0.0, False
    turn = 0
    while not over:
        for word in observation.split():
            if word[1:].isdigit():
                # No letter is told again before 26 others were.
                assert word[0].islower() or turn - told.get(word[0], -(10**6)) >= 26 * passing
                memory[word[0]], told[word[0]] = word[1], turn
        last = observation.split()[-1]
        observation, reward, over, _, _ = env.step(memory[last] if len(last) == 1 else "on")
        total, turn = total + reward, turn + 1
    assert total == 1.0


def test_a_door_that_stays_shut_is_passed_without_a_word() -> None:
    env = planted({"a": "3", "b": "7"}, "abab", tries=2, turns=9)
    said = [env.step(action)[0] for action in ("?", "4", "x", "7", "7", "3", "1", "1")]
    #       look, wrong, second try: on to b, open, wrong, wrong: on, ...
    assert said == ["a", "no a", "b", "a", "no a", "b", "no b", "no door left"]
    assert env._info()["metrics"]["opened"] == 2.0


def test_a_door_costs_its_share_of_the_potential_when_it_stays_shut() -> None:
    env = planted({"a": "3"}, "aaaa", tries=1, turns=4)
    potentials = [env._info()["potential"]]
    potentials += [env.step(action)[4]["potential"] for action in ("3", "4", "3")]
    assert potentials == [1, 0.75, 0.5, 0.25]


def test_random_answers_with_one_try_each() -> None:
    """1 of 11 answers is a look, which costs a turn and no door; 9 more of 10 shut one."""
    mean, error = measured(ID, "random", horizon=10, turns=40, tries=1)
    # 40 turns are enough for ten doors but for once in a billion.
    assert abs(mean - 1 / 10) <= 4 * error


def test_the_scribe_writes_down_what_it_has_seen() -> None:
    env = KeyRooms(horizon=2, keys=2, facts="rooms", expert_waste=0, expert_error=0)
    env.reset(seed=0)
    env._codes, env._doors, env._last = {"a": "3", "b": "7"}, "ab", "a3"
    scribe = KeyRooms.scripted["scribe"](env, np.random.default_rng(0))
    assert "scribe" in KeyRooms.windowed
    assert scribe("a3") == "?"
    env.step("?")
    assert scribe("sum up!") == "a3"  # what the game says now is not in the context yet
    assert scribe("a3\n" + env._last) == "?"
    env.step("?")
    assert scribe("sum up!") == "a3b7"
    assert scribe("a3b7\na") == "3"
    env.step("3")
    assert scribe("sum up!") == "a3b7"


def test_what_the_scribe_forgets_stays_forgotten() -> None:
    doors = "abcdefgh"
    env = planted(dict.fromkeys(doors, "3"), doors, expert_forget=0.3)
    env.step("3")
    written: list[tuple[int, int]] = []
    for seed in range(500):
        scribe = KeyRooms.scripted["scribe"](env, np.random.default_rng(seed))
        first, second = (
            {t[i : i + 2] for i in range(0, len(t), 2)} for t in (scribe("!"), scribe("!"))
        )
        assert second <= first
        written.append((len(first), len(second)))
    means = np.array(written).mean(0)
    # Bin(8, 0.7) and Bin(8, 0.49): standard errors 1.30 and 1.41 over sqrt(500).
    assert np.all(np.abs(means - [5.6, 3.92]) <= 4 * np.array([1.3, 1.41]) / 500**0.5)


def test_tasks_without_these_options_are_as_before() -> None:
    plain = make(ID, horizon=9).unwrapped
    passing = make(ID, horizon=9, passing=3).unwrapped
    observation, _ = plain.reset(seed=5)
    other, _ = passing.reset(seed=5)
    assert observation.split("\n")[0] == other.split("\n")[0]
    assert "late_card" not in plain._info()["metrics"]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"passing": -1}, "passing: expected a number from 0"),
        ({"passing": 2, "gap": 52}, "gap: expected a number from 1 to 51, got 52"),
        ({"gap": 0}, "gap: expected a number from 1"),
        ({"tries": -1}, "tries: expected a number from 0"),
    ],
)
def test_options_that_make_no_sense(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        KeyRooms(**wrong)
