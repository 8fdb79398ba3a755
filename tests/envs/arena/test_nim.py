from __future__ import annotations

from collections import defaultdict
from functools import cache, reduce
from itertools import product
from operator import xor
from typing import Any

import gymnasium
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlagents.envs.arena.nim import Nim, NimGame, best_move, moves
from rlagents.envs.conformance import check
from tests.envs.arena.arrays import passes_api_test

Heaps = tuple[int, ...]
SKILL = {"random": 0.0, "slip25": 0.25, "slip50": 0.5, "slip75": 0.75, "oracle": 1.0}


def after(heaps: Heaps, heap: int, take: int) -> Heaps:
    return tuple(size - take * (at == heap) for at, size in enumerate(heaps))


def policy(name: str, heaps: Heaps) -> dict[tuple[int, int], float]:
    """Probability of each move, from the documentation of the players alone."""
    if name == "greedy":
        return {(heaps.index(max(heaps)), max(heaps)): 1.0}
    legal = moves(heaps)
    chances = defaultdict(float, dict.fromkeys(legal, (1 - SKILL[name]) / len(legal)))
    chances[best_move(heaps)] += SKILL[name]
    return chances


def exact(first: str, second: str) -> tuple[float, float]:
    """Expected score of `first` from seat 0 and from seat 1, with the default arguments."""
    players = (first, second)

    @cache
    def wins(heaps: Heaps, turn: int) -> float:
        if not any(heaps):
            return float(turn == 1)  # the other took the last
        chances = policy(players[turn], heaps).items()
        return sum(p * wins(after(heaps, *move), 1 - turn) for move, p in chances)

    scores = []
    for turn in (0, 1):
        kinds: dict[bool, list[float]] = {True: [], False: []}
        for heaps in product(range(1, 6), repeat=3):
            kinds[reduce(xor, heaps) != 0].append(2 * wins(heaps, turn) - 1)
        scores.append(float(np.mean([np.mean(kind) for kind in kinds.values()])))
    return scores[0], scores[1]


def play(env: Nim, name: str, seed: int) -> float:
    observation, _ = env.reset(seed=seed)
    act = env.scripted[name](env, np.random.default_rng([seed, 1]))
    total, over = 0.0, False
    while not over:
        observation, reward, over, _, _ = env.step(act(observation))
        total += reward
    return total


@pytest.mark.parametrize(
    ("heaps", "move"),
    [
        ((3, 4, 5), (0, 2)),  # 3^4^5 = 2: heap 3 -> 3^2 = 1, so two are taken: 1^4^5 = 0
        ((1, 2, 4), (2, 1)),  # 7: 1 -> 6 no, 2 -> 5 no, 4 -> 3
        ((5, 0, 5), (0, 1)),  # lost: one from the largest
        ((0, 0, 3), (2, 3)),
    ],
)
def test_best_move_by_hand(heaps: Heaps, move: tuple[int, int]) -> None:
    assert best_move(heaps) == move


@given(st.lists(st.integers(0, 20), min_size=1, max_size=6).filter(any).map(tuple))
def test_best_move_leaves_nim_sum_0_wherever_some_move_does(heaps: Heaps) -> None:
    best = best_move(heaps)
    assert best in moves(heaps)
    leads = any(reduce(xor, after(heaps, *move)) == 0 for move in moves(heaps))
    assert (reduce(xor, after(heaps, *best)) == 0) == leads == (reduce(xor, heaps) != 0)


def test_known_scores_are_exact_and_players_are_of_known_order() -> None:
    for name, known in Nim.known_scores.items():
        assert exact(name, "random")[0] == pytest.approx(known, abs=1e-6)
    assert Nim.known_scores.keys() == Nim.scripted.keys()
    ladder = list(SKILL)
    for i, weak in enumerate(ladder):
        for strong in ladder[i + 1 :]:
            # From either seat the stronger one scores at least .2 (the ladder's closest pair).
            assert min(exact(strong, weak)) > 0.2, (strong, weak)


@pytest.mark.parametrize("name", sorted(Nim.scripted))
def test_played_scores_agree_with_the_exact_ones(name: str) -> None:
    """Within 4 standard errors over 400 fixed seeds, also from the other seat."""
    for seat in (0, 1):
        env = Nim(seat=seat, opponent="slip50")
        scores = [play(env, name, seed) for seed in range(400)]
        error = np.std(scores) / 20
        assert abs(np.mean(scores) - exact(name, "slip50")[seat]) <= 4 * error


@pytest.mark.parametrize(("mover", "score"), [("wins", 1.0), ("loses", -1.0)])
def test_between_oracles_the_drawn_position_decides(mover: Any, score: float) -> None:
    env = Nim(mover=mover, opponent="oracle")
    assert {play(env, "oracle", seed) for seed in range(50)} == {score}
    behind = Nim(mover=mover, opponent="oracle", seat=1, heaps=2, largest=9)
    assert {play(behind, "oracle", seed) for seed in range(50)} == {-score}


def test_a_game_by_hand() -> None:
    env = Nim(rules=True, opponent="oracle", mover="any")
    env.reset(seed=0)
    game: Any = env.game
    game.position = (3, 4, 5)
    # 2 from heap 1 leaves 1 4 5, nim-sum 0: the oracle takes 1 of the largest, heap 3.
    observation, reward, over, _, info = env.step(" 1  2 ")
    assert (observation, reward, over) == ("1 4 4", 0.0, False)
    assert info["potential"] == 1.0 and info["metrics"]["blunders"] == 0.0
    # 1 4 4 is won by taking heap 1; 2 of heap 2 throws it away, and the oracle restores 0:
    # 1^2^4 = 7, heap 3 -> 3.
    observation, reward, over, _, info = env.step("2 2")
    assert (observation, reward, over) == ("1 2 3", 0.0, False)
    assert info["potential"] == -1.0 and info["metrics"]["blunders"] == 1.0
    observation, reward, over, cut, info = env.step("2 3")
    assert (observation, reward, over, cut) == ("lost", -1.0, True, False)
    assert info["potential"] == 0.0
    assert info["metrics"] == {
        "win": 0.0,
        "loss": 1.0,
        "draw": 0.0,
        "moves": 2.0,
        "blunders": 1.0,
        "illegal": 1.0,
        "seat": 0.0,
        "turns": 3.0,
        "margin": -2.0,
    }


def test_the_rules_are_told_once() -> None:
    env = Nim(rules=True, opponent="oracle", mover="loses", seat=1)
    first = env.reset(seed=0)[0]
    assert first.startswith("Nim: ") and first.splitlines()[1].count(" ") == 2
    assert env.step(env.scripted["oracle"](env, np.random.default_rng(0))(""))[0].count("\n") == 0


@pytest.mark.parametrize(
    "action",
    [
        "",
        "1",
        "0 1",
        "4 1",
        "1 0",
        "1 6",
        "-1 1",
        "1 1 1",
        "1,1",
        "1\n1",
        "one two",
        "\uff11 1",
        "9" * 99,
    ],
)
def test_every_other_text_loses_at_once_for_any_seat(action: str) -> None:
    class Wrong:
        def act(self, observation: str) -> str:
            return action

        def close(self) -> None: ...

    env = Nim()
    env.reset(seed=1)
    assert env.step(action)[:4] == ("lost", -1.0, True, False)
    env.seat_players({1: Wrong()})
    env.reset(seed=1)
    observation, reward, over, _, info = env.step("1 1")
    assert (observation, reward, over) == ("won", 1.0, True)
    assert info["metrics"]["illegal"] == 0.0 and info["metrics"]["win"] == 1.0


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**63 - 1), seat=st.integers(0, 1), name=st.sampled_from(list(SKILL)))
def test_a_game_ends_within_its_stones_and_is_zero_sum(seed: int, seat: int, name: str) -> None:
    env = Nim(seat=seat, opponent=name, heaps=4, largest=7)
    score = play(env, "random", seed)
    assert score in (-1.0, 1.0) and sum(env.returns) == 0.0
    counts = env.game._counts.values()
    assert sum(c["moves"] for c in counts) <= 28 and not any(c["illegal"] for c in counts)


def test_conforms_in_other_modes_and_to_pettingzoo() -> None:
    for kwargs in (
        {"seat": 1, "opponent": "oracle", "rules": True},
        {"heaps": 20, "largest": 999, "mover": "wins"},
        {"heaps": 2, "mover": "any", "opponent": "greedy"},
    ):
        report = check("rlagents/Nim-v0", kwargs, episodes=2)
        assert report.ok, str(report)
    passes_api_test(NimGame())


WRONG = {
    "heaps": [1, 21, "3"],
    "largest": [2, 1000, 2.5],
    "mover": ["first", True],
    "rules": [1],
    "seat": [2, -1, None],
    "opponent": ["slip10", 3],
}


def test_every_wrong_argument_is_named() -> None:
    for name, values in WRONG.items():
        for value in values:
            with pytest.raises(ValueError, match=rf"^{name}: expected .*, got"):
                gymnasium.make("rlagents/Nim-v0", **{name: value})
