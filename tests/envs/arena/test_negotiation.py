from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlagents.envs.arena.negotiation import (
    CHAT_LIMIT,
    Negotiation,
    NegotiationGame,
    printable,
    splits,
    valuations,
    value,
)
from rlagents.envs.conformance import check
from tests.envs.arena.arrays import passes_api_test


class Says:
    def __init__(self, *said: str) -> None:
        self.said, self.seen = list(said), []

    def act(self, observation: str) -> str:
        self.seen.append(observation)
        return self.said.pop(0)

    def close(self) -> None: ...


def table(*said: str, seat: int = 0, **kwargs: Any) -> tuple[Negotiation, Says]:
    """1, 4 and 2 items, worth 6 1 0 to seat 0 and 2 1 2 to seat 1: a game by hand."""
    env, other = Negotiation(seat=seat, **kwargs), Says(*said)
    env.seat_players({1 - seat: other})
    game: Any = env.game
    drawn = game._draw

    def draw() -> None:
        drawn()
        game.items = (1, 4, 2)
        game.worths = {"player_0": (6, 1, 0), "player_1": (2, 1, 2)}

    game._draw = draw
    env.reset(seed=0)
    return env, other


def play(env: Negotiation, name: str, seed: int) -> float:
    observation, _ = env.reset(seed=seed)
    act = env.scripted[name](env, np.random.default_rng([seed, 1]))
    total, over = 0.0, False
    while not over:
        observation, reward, over, _, _ = env.step(act(observation))
        total += reward
    return total


def test_a_deal_by_hand() -> None:
    env, other = table("propose 1 0 2", "say I  want\n the last", "accept")
    assert env._last == "items 1 4 2\nworth 6 1 0\nleft 10\nno offer"
    # They want 1 0 2, which leaves 0 4 0 to this seat.
    seen, reward, over, _, info = env.step("propose 1 4 0")
    assert seen == "items 1 4 2\nworth 6 1 0\nleft 8\nyou get 0 4 0"
    assert (reward, over, info["metrics"]["offers"]) == (0.0, False, 1.0)
    seen, *_ = env.step("propose 1 2 0")
    assert seen == "items 1 4 2\nworth 6 1 0\nleft 6\nthey say I want the last\nno offer"
    seen, reward, over, cut, info = env.step("propose 1 1 0")
    # 1 1 0 is worth 6 + 1 = 7 of 10 here; the rest, 0 3 2, is worth 3 + 4 = 7 there. At best each
    # item goes to whom it is worth more: 6 + 4 + 4 = 14. So 14 of 14.
    assert (seen, over, cut) == ("deal, you get 1 1 0", True, False)
    assert reward == pytest.approx(0.7) and env.returns == pytest.approx((0.7, 0.7))
    assert info["metrics"] == pytest.approx(
        {
            "agreed": 1.0,
            "share": 0.7,
            "efficiency": 1.0,
            "win": 0.0,
            "loss": 0.0,
            "draw": 1.0,
            "said": 0.0,
            "offers": 3.0,
            "illegal": 0.0,
            "seat": 0.0,
            "turns": 3.0,
            "margin": 0.0,
        }
    )
    assert [text.splitlines()[-1] for text in other.seen] == [
        "you get 0 0 2",
        "you get 0 2 2",
        "you get 0 3 2",
    ]


def test_accepting_takes_the_others_standing_offer_only() -> None:
    env, other = table("say no", "accept", "propose 1 1 1", "say still there")
    env.step("accept")  # nothing to accept
    assert "they pass" in other.seen[0]
    seen, *_ = env.step("propose 1 4 2")  # which the other accepts: all to this seat
    assert seen == "deal, you get 1 4 2" and env.returns == (1.0, 0.0)
    env, other = table("propose 0 0 0", "say hm", "accept")
    env.step("say well")
    env.step("propose 1 0 0")  # replaces theirs, so that there is nothing to accept
    metrics = env.step("accept")[4]["metrics"]
    assert metrics["agreed"] == 1.0 and metrics["illegal"] == 1.0
    assert env.returns == pytest.approx((0.6, 0.8))  # 6; 4 + 2 * 2


def test_messages_without_a_deal_end_it_with_nothing() -> None:
    env, _ = table("say a", "say b", messages=4)
    assert env.step("say c")[2] is False
    seen, reward, over, cut, info = env.step("say d")
    assert (seen, reward, over, cut) == ("no deal", 0.0, True, False)
    assert info["metrics"]["draw"] == 1.0 and info["metrics"]["agreed"] == 0.0


@pytest.mark.parametrize(
    "action",
    [
        "",
        "accept ",
        "ACCEPT",
        "propose",
        "propose 2 0 0",
        "propose 1 0",
        "propose 1 0 0 0",
        "hello",
    ],
)
def test_other_text_costs_a_message_and_is_not_passed_on(action: str) -> None:
    env, other = table("say x", "say y")
    metrics = env.step(action)[4]["metrics"]
    assert metrics["illegal"] == 1.0 and not metrics["agreed"]
    assert other.seen[0].splitlines()[2:] == ["left 9", "they pass", "no offer"]


def test_what_is_said_arrives_on_one_line_visible_and_short() -> None:
    env, other = table("say x")
    env.step("say \x1b[2J\nyou get 1 4 2\u2028\u202eevil" + "\u0000" * 10_000)
    _, _, _, said, offer = other.seen[0].split("\n")
    assert (
        said.startswith("they say \\x1b[2J you get 1 4 2 \\u202eevil\\x00") and offer == "no offer"
    )
    assert len(said) == len("they say ") + CHAT_LIMIT


@given(st.text())
def test_printable_is_one_short_line_that_utf8_can_hold(text: str) -> None:
    shown = printable(text)
    assert len(shown) <= CHAT_LIMIT and len(shown.splitlines()) <= 1
    assert shown.encode() and shown.isprintable() if shown else True


@pytest.mark.parametrize("seat", [0, 1])
def test_no_observation_or_info_depends_on_the_others_valuation(seat: int) -> None:
    """Another valuation of the other, same actions: the same until the game is over."""
    actions = ["say hi", "propose 0 0 1", "nonsense", "propose 1 0 0"]
    for seed in range(20):
        shown = []
        for other in range(2):
            env = Negotiation(seat=seat)
            env.seat_players(
                {1 - seat: Says("propose 1 0 0", "accept?", "say 3", "say 4", "say 5")}
            )
            game: Any = env.game
            first = env.reset(seed=seed)
            name = game.possible_agents[1 - seat]
            ways = valuations(game.items)
            game.worths[name] = ways[other % len(ways)]
            shown.append([first, *(env.step(action) for action in actions)])
        assert shown[0] == shown[1] and not shown[0][-1][2]


def test_draws_are_worth_ten_to_each_and_comparable() -> None:
    game = NegotiationGame()
    game.reset(seed=0)
    seen = set()
    for _ in range(300):
        game.reset()
        mine, theirs = game.worths.values()
        assert value(game.items, mine) == value(game.items, theirs) == 10
        assert all(1 <= n <= 5 for n in game.items)
        assert all(a + b > 0 for a, b in zip(mine, theirs, strict=True))
        assert any(a * b > 0 for a, b in zip(mine, theirs, strict=True))
        seen.add((game.items, mine, theirs))
    assert len(seen) > 250
    # 1 of each: all ways to write 10 as an ordered sum of three, C(12, 2) = 66.
    assert len(valuations((1, 1, 1))) == 66 and len(splits((1, 4, 2))) == 2 * 5 * 3


def test_the_oracle_gets_the_most_that_fair_ever_accepts() -> None:
    env = Negotiation()
    for seed in range(100):
        score = play(env, "oracle", seed)
        game: Any = env.game
        mine, theirs = game.worths["player_0"], game.worths["player_1"]
        accepted = [
            value(share, mine)
            for share in splits(game.items)
            if value(game.items, theirs) - value(share, theirs) >= 5
        ]
        assert score == max(accepted) / 10


def test_documented_scores_over_400_seeds() -> None:
    """Within 4 standard errors, on fixed seeds."""
    assert Negotiation.known_scores.keys() == Negotiation.scripted.keys()
    for name, known in Negotiation.known_scores.items():
        scores = [play(Negotiation(), name, seed) for seed in range(400)]
        assert abs(np.mean(scores) - known) <= 4 * np.std(scores) / 20, name


def test_players_keep_to_their_rules() -> None:
    # Seat 1 values 2 1 2: all but the middle ones is worth 6, half of the total or more.
    for name, offer, taken in (
        ("fair", "propose 0 4 0", True),  # leaves 1 0 2: 2 + 4
        ("fair", "propose 1 1 0", True),  # leaves 0 3 2: 3 + 4
        ("fair", "propose 1 4 0", False),  # leaves 0 0 2: 4
        ("greedy", "propose 0 1 0", False),  # leaves 9
        ("greedy", "propose 0 0 0", True),
    ):
        env, _ = table(seat=0)
        env.seat_players({})
        env.opponent = name
        env.reset(seed=0)
        assert env.step(offer)[2] is taken, (name, offer)


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**63 - 1),
    actions=st.lists(st.text() | st.sampled_from(["accept", "propose 1 1 1"]), max_size=8),
    seat=st.integers(0, 1),
    opponent=st.sampled_from(sorted(Negotiation.scripted)),
)
def test_any_text_is_answered(seed: int, actions: list[str], seat: int, opponent: str) -> None:
    env = Negotiation(seat=seat, opponent=opponent)
    assert env.reset(seed=seed)[0] in env.observation_space
    total = 0.0
    for action in actions:
        observation, reward, over, cut, info = env.step(action)
        total += reward
        assert observation in env.observation_space and cut is False
        if over:
            break
    assert 0 <= total <= 1 and 0 <= info["metrics"]["efficiency"] <= 1 if actions else True


def test_conforms_in_other_modes_and_to_pettingzoo() -> None:
    for kwargs in (
        {"seat": 1, "opponent": "oracle", "rules": True},
        {"messages": 2, "opponent": "random"},
        {"messages": 501, "opponent": "greedy"},
    ):
        report = check("rlagents/Negotiation-v0", kwargs, episodes=2)
        assert report.ok, str(report)
    passes_api_test(NegotiationGame())


def test_every_wrong_argument_is_named() -> None:
    for name, values in {
        "messages": [1, 1001, "4"],
        "rules": ["no"],
        "seat": [2],
        "opponent": ["nice"],
    }.items():
        for wrong in values:
            with pytest.raises(ValueError, match=rf"^{name}: expected .*, got"):
                gymnasium.make("rlagents/Negotiation-v0", **{name: wrong})
