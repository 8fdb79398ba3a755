from __future__ import annotations

from itertools import combinations, pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlagents.algos.ratings import rate
from rlagents.envs.arena.token_games.duel import Duel
from rlagents.envs.arena.token_games.game import DuelGame, TokenGames
from rlagents.envs.arena.token_games.players import BOUNDS
from rlagents.envs.arena.token_games.statements import GrammarReferee
from tests.envs.arena.arrays import passes_api_test


def duel(*texts: str, proposals: int = 10, first: int = 0) -> Duel:
    made = Duel(GrammarReferee(), proposals=proposals, first=first)
    for text in texts:
        made.act(text)
    return made


def test_worked_example() -> None:
    #     seat 0 proposes, 1 fails    1, draw             0, wrong witness  1, illegal
    said = ["3x+4=2%7;4", "5", "w2^a$b; ab", " a b", "5=2,3;2", "3**9x=1;1"]
    played = duel(*said, proposals=5)
    assert [r.outcome for r in played.records] == ["unsolved", "solved", "penalty", "invalid"]
    assert [r.answer for r in played.records] == ["5", " a b", None, None]
    # Seat 0: +1 (unsolved) + 0 (draw) - 1 (its penalty) + 1 (the other's) = 1
    assert (played.points(0), played.points(1)) == (1, -1)
    assert played.metrics(0) == {
        "propose_rate": 1 / 2, "penalty_rate": 1 / 2, "solve_rate": 1.0, "draw_rate": 1 / 4
    }  # fmt: skip
    assert played.metrics(1) == {
        "propose_rate": 0.0, "penalty_rate": 1 / 2, "solve_rate": 0.0, "draw_rate": 1 / 4
    }  # fmt: skip
    assert (played.over, played.seat) == (False, 0)
    played.act("nothing")
    assert played.over
    with pytest.raises(ValueError, match="the duel is over"):
        played.act("1x+0=1%2;1")


def test_no_puzzle_twice_whoever_said_it_and_however_it_is_written() -> None:
    played = duel("3x+4=2%7;4", "4", "10x+5=3%7;4")
    assert played.records[-1].outcome == "invalid"
    assert played.records[-1].problem == "used before in this duel"
    # A wrong witness uses a puzzle up, too: nobody may learn its solution from that.
    assert duel("3x+4=2%7;1", "3x+4=2%7;4").records[-1].outcome == "invalid"


def test_shares_of_nothing_are_left_out() -> None:
    assert duel().metrics(0) == {}
    assert duel("?").metrics(0) == {"propose_rate": 0.0, "penalty_rate": 1.0, "draw_rate": 0.0}
    assert duel("?").metrics(1) == {"draw_rate": 0.0}


@given(st.lists(st.text(max_size=12) | st.sampled_from(["3x+4=2%7;4", "4", "1x+0=1%2;1", "1"])))
def test_a_duel_is_zero_sum_and_its_replay_the_same(texts: list[str]) -> None:
    texts = texts[:5]
    played, again = duel(*texts, proposals=6, first=1), duel(*texts, proposals=6, first=1)
    assert played.records == again.records
    assert played.points(0) == -played.points(1)
    assert abs(played.points(0)) <= len(played.records)


def play(game: DuelGame, names: tuple[str, str], seed: int) -> list[str]:
    """All actions, in order; the rewards stand in `game.totals`."""
    game.reset(seed=seed)
    acts = {
        agent: game.scripted[name](game, agent, np.random.default_rng([seed, i]))
        for i, (agent, name) in enumerate(zip(game.possible_agents, names, strict=True))
    }
    said = []
    while game.agents and not game.duel.over:
        agent = game.agent_selection
        said.append(acts[agent](game.observe(agent)))
        game.step(said[-1])
    return said


def test_what_each_seat_sees_of_a_duel() -> None:
    game = DuelGame(rounds=3, rules=True)
    game.reset(seed=0)
    one, other = (game.agent_selection, *(a for a in game.agents if a != game.agent_selection))
    assert game.observe(one).startswith("A duel of puzzles.")
    assert game.observe(one).endswith("\n1/3 propose") and game.observe(other).endswith("1/3 wait")
    game.step("3x+4=2%7;4")
    assert game.observe(other).endswith("\n1/3 solve 3x+4=2%7")
    assert ";" not in game.observe(other).rsplit("\n")[-1]
    game.step("3")
    assert game.rewards == {one: pytest.approx(1 / 3), other: pytest.approx(-1 / 3)}
    assert game.observe(other) == "last unsolved\n2/3 propose"
    game.step("?")
    assert game.observe(one) == (
        "last invalid: expected STATEMENT;WITNESS\n3x+4=2%7 # unsolved\n3/3 propose"
    )
    game.step("3x+4=2%7;4")
    assert game.observe(one) == "last invalid: used before in this duel\nover +1"
    assert all(game.terminations.values())


def test_a_round_of_both_has_a_proposal_by_each() -> None:
    game = DuelGame(rounds=3, round_is="both")
    play(game, ("solver4", "solver4"), 0)
    assert [r.proposer for r in game.duel.records] == [game.duel.first, 1 - game.duel.first] * 3


@pytest.mark.parametrize("names", [("random", "random"), ("expert", "solver64")])
def test_a_logged_duel_plays_again_to_the_same_outcomes(names: tuple[str, str]) -> None:
    game = DuelGame()
    said = play(game, names, 3)
    again = Duel(GrammarReferee(), proposals=game.proposals, first=game.duel.first)
    for text in said:
        again.act(text)
    assert again.records == game.duel.records
    assert len({r.outcome for r in again.records}) > 1


def test_players_of_known_strength_are_ranked_exactly_by_200_duels() -> None:
    """20 duels of each pair, all won by the stronger: its lead over its neighbour is no accident.

    How large it is can't be known of someone who never lost, so ratings themselves have wide
    intervals; what is rated here is the lead, with the weaker of two at 1500.
    """
    game = DuelGame(rounds=2)
    results = []
    for i, j in combinations(range(len(BOUNDS)), 2):
        for number in range(20):
            one, other = (i, j) if number % 2 else (j, i)
            play(game, (f"solver{BOUNDS[one]}", f"solver{BOUNDS[other]}"), number)
            points = game.duel.points(0)
            results.append((one, other, 0.5 + 0.5 * np.sign(points)))
    ratings = rate(results, len(BOUNDS), rng=np.random.default_rng(0), resamples=100)
    assert len(results) == 200
    assert np.argsort([r.elo for r in ratings]).tolist() == [0, 1, 2, 3, 4]
    for weaker, stronger in pairwise(range(len(BOUNDS))):
        lead = rate(results, len(BOUNDS), rng=np.random.default_rng(0), anchor=weaker)
        assert lead[stronger].low > 1500 + 50


def test_the_stronger_wins_all_that_it_proposes_and_solves_the_rest() -> None:
    env = TokenGames(rounds=4, opponent="solver16", seat=1)
    observation, _ = env.reset(seed=5)
    act, total, over = env.scripted["solver64"](env, np.random.default_rng(0)), 0.0, False
    info: dict[str, Any] = {}
    while not over:
        observation, reward, over, _, info = env.step(act(observation))
        total += reward
    # Two of four proposals are its own: 2 * 1 / 4.
    assert total == pytest.approx(0.5)
    expected = {"propose_rate": 1.0, "penalty_rate": 0.0, "solve_rate": 1.0, "draw_rate": 0.5}
    assert expected.items() <= info["metrics"].items()


def test_it_is_a_pettingzoo_environment() -> None:
    passes_api_test(DuelGame(rounds=3), cycles=50)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**31), st.lists(st.text(max_size=20), min_size=6, max_size=6))
def test_any_text_leads_to_the_end_of_the_duel(seed: int, texts: list[str]) -> None:
    env = TokenGames(rounds=3, opponent="random")
    env.reset(seed=seed)
    total, over = 0.0, False
    for text in texts:
        _, reward, over, _, _ = env.step(text)
        total += reward
    assert over and -1 <= total <= 1


@pytest.mark.parametrize(
    ("kwargs", "said"),
    [
        ({"mode": "c"}, "mode: expected one of grammar, python"),
        ({"rounds": 0}, "rounds: expected"),
        ({"round_is": "turn"}, "round_is: expected"),
        ({"families": ["prime"]}, "families: expected one of congruence, word, subset"),
        ({"families": "word"}, "families: expected a list"),
        ({"families": []}, "families: expected a list"),
        ({"sandbox": {"wall_s": 1}}, "sandbox: only read with mode 'python'"),
        ({"seat": 2}, "seat: expected"),
        ({"opponent": "nobody"}, "opponent: expected"),
    ],
)
def test_arguments_that_make_no_sense(kwargs: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        TokenGames(**kwargs)
