"""The rules of a seat, on a small game of three: say a number, the sum of all is paid at 10."""

from __future__ import annotations

import subprocess
import sys
from typing import Any, ClassVar

import gymnasium
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlagents.envs.arena.game import Game
from rlagents.envs.arena.seat import SeatEnv, seated
from rlagents.envs.conformance import check
from rlagents.errors import EnvironmentFailure, SamplerError
from tests.envs.arena.arrays import passes_api_test


class Count(Game):
    """Three agents add digits to a sum; who says no digit is out; at 10 or more the rest is paid.

    A digit pays itself / 10 to the next agent at once. At the end each agent that is still in gets
    1. Each agent has a secret, which only it sees.
    """

    def __init__(self) -> None:
        super().__init__(seats=3, observation_limit=200)
        self.metadata["name"] = "count_v0"

    def _draw(self) -> None:
        self.secrets = {agent: int(self.rng.integers(1000)) for agent in self.agents}
        self.total, self.said = 0, dict.fromkeys(self.agents, 0)

    def _answer(self, agent: str, action: str) -> str | None:
        self.said[agent] += 1
        following = self.possible_agents[(self.seat(agent) + 1) % 3]
        if len(action) != 1 or action not in "0123456789":
            self.terminations[agent] = True
            self.rewards[agent] -= 1.0
        else:
            self.total += int(action)
            if following in self.rewards:
                self.rewards[following] += int(action) / 10
        inside = [a for a in self.agents if not self.terminations[a]]
        if self.total >= 10 or not inside or sum(self.said.values()) >= 50:
            for each in inside:
                self.rewards[each] += 1.0
            return None
        while following not in inside:
            following = self.possible_agents[(self.seat(following) + 1) % 3]
        return following

    def observe(self, agent: str) -> str:
        return f"secret {self.secrets[agent]} total {self.total}"

    def _metrics(self, agent: str) -> dict[str, float]:
        return {"said": float(self.said[agent])}

    def _random(self, agent: str, rng: np.random.Generator) -> Any:
        return lambda observation: str(rng.integers(4))

    def _two(self, agent: str, rng: np.random.Generator) -> Any:
        return lambda observation: "2"

    def _out(self, agent: str, rng: np.random.Generator) -> Any:
        return lambda observation: "out"

    def _broken(self, agent: str, rng: np.random.Generator) -> Any:
        return lambda observation: [][0]

    scripted: ClassVar = {"random": _random, "two": _two, "out": _out, "broken": _broken}


class CountEnv(SeatEnv):
    """The seat of `Count`."""

    scripted = seated({"random": Count.scripted["random"]})

    def __init__(self, seat: int = 0, opponent: str = "random") -> None:
        super().__init__(Count(), seat=seat, opponent=opponent)


class Says:
    """A player that says what it was told to, and remembers what it saw."""

    def __init__(self, *said: object) -> None:
        self.said, self.seen, self.closed = list(said), [], 0

    def act(self, observation: str) -> str:
        self.seen.append(observation)
        answer: Any = self.said.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    def close(self) -> None:
        self.closed += 1


def at(seat: int, players: dict[int, Any], **kwargs: Any) -> SeatEnv:
    return SeatEnv(Count(), seat=seat, players=players, **kwargs)


def test_others_play_before_between_and_after_and_every_payment_arrives_once() -> None:
    before, after = Says("3", "1"), Says("1", "9")
    env = at(1, {0: before, 2: after})
    observation, info = env.reset(seed=0)
    assert observation.endswith("total 3")
    assert info == {"metrics": {"said": 0.0, "seat": 1.0, "turns": 0.0, "margin": 0.3}}
    # Seat 0 said 3 before the first turn: .3 to seat 1. Then seat 2 says 1 (.1 to seat 0), seat 0
    # says 1 (.1 to seat 1): .3 + .1 arrive with the first step.
    observation, reward, terminated, truncated, info = env.step("2")
    assert observation.endswith("total 7") and reward == pytest.approx(0.4)
    assert (terminated, truncated) == (False, False) and info["metrics"]["said"] == 1.0
    assert env.returns == pytest.approx((0.1, 0.4, 0.2))
    # 7 + 1, then seat 2 says 9: the end, 1 to each, .9 to seat 0 and nothing more to seat 1.
    observation, reward, terminated, truncated, info = env.step("1")
    assert observation.endswith("total 17") and reward == pytest.approx(1.0)
    assert (terminated, truncated) == (True, False) and info["metrics"]["turns"] == 2.0
    assert env.returns == pytest.approx((2.0, 1.4, 1.3))
    assert info["metrics"]["margin"] == pytest.approx(1.4 - (2.0 + 1.3) / 2)
    assert env.step("5") == (observation, 0.0, True, False, info)
    assert [text.rpartition(" ")[2] for text in before.seen] == ["0", "6"]
    assert [text.rpartition(" ")[2] for text in after.seen] == ["5", "8"]


def test_an_agent_that_is_out_ends_its_own_episode_and_the_others_go_on() -> None:
    env = at(0, {1: Says("1"), 2: Says("1")})
    env.reset(seed=0)
    assert env.step("nonsense")[1:4] == (-1.0, True, False)
    out = at(2, {0: Says("out"), 1: Says("4", "6")})
    out.reset(seed=0)
    # Seat 0 is out and must be led off with None before seat 1 says 4 (.4); seat 2 says 0, seat 1
    # says 6 (.6 and 1 for the end).
    assert out.step("0")[1:4] == (pytest.approx(2.0), True, False)
    assert out.returns == pytest.approx((-1.0, 1.0, 2.0))


def test_a_game_that_ends_before_the_first_turn_is_paid_by_the_first_step() -> None:
    env = at(2, {0: Says("9"), 1: Says("9")})
    observation, info = env.reset(seed=0)
    assert observation.endswith("total 18") and info["metrics"]["turns"] == 0.0
    assert env.step("whatever") == (observation, pytest.approx(1.9), True, False, info)
    assert env.step("whatever") == (observation, 0.0, True, False, info)


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**31 - 1),
    seat=st.integers(0, 2),
    said=st.lists(st.sampled_from(["0", "1", "2", "3", "9", "x"]), min_size=20, max_size=20),
)
def test_rewards_are_what_pettingzoo_itself_accounts_for(seed: int, seat: int, said) -> None:
    """`last()` of the AEC loop, agent by agent, on the same actions in the same order."""
    env = at(seat, {s: Says(*said) for s in range(3) if s != seat})
    env.reset(seed=seed)
    mine, rewards = list(said), []
    over = False
    while not over:
        _, reward, over, _, _ = env.step(mine.pop(0))
        rewards.append(reward)
    game, answers = Count(), [list(said) for _ in range(3)]
    game.reset(seed=seed)
    shown: list[list[float]] = [[], [], []]
    for agent in game.agent_iter():
        _, reward, terminated, _, _ = game.last()
        number = game.seat(agent)
        shown[number].append(float(reward))
        if terminated and number == seat:
            break  # the others may still play: not this seat's matter
        game.step(None if terminated else answers[number].pop(0))
    # PettingZoo shows what came before the first action on its own; here it comes with the first.
    expected = [shown[seat][0] + shown[seat][1], *shown[seat][2:]] if len(shown[seat]) > 1 else None
    assert expected is None or rewards == pytest.approx(expected)
    assert sum(rewards) == pytest.approx(sum(shown[seat]))


def test_the_same_seed_and_actions_give_the_same_game_for_any_seat_and_opponent() -> None:
    assert all(c.passed for c in check(CountEnv).checks if c.name != "gymnasium warnings")
    for seat in range(3):
        report = check(CountEnv, {"seat": seat, "opponent": "two"})
        assert report.ok, str(report)


def test_nothing_hidden_from_a_seat_reaches_it() -> None:
    """Other secrets, same actions: the same observations and infos."""
    shown = []
    for secret in (1, 999):
        env = at(1, {0: Says("1", "1", "1"), 2: Says("1", "1")})
        env.reset(seed=3)
        assert isinstance(env.game, Count)
        env.game.secrets.update(player_0=secret, player_2=secret)
        shown.append([env.step("1"), env.step("1")])
    assert shown[0] == shown[1]


def test_a_player_that_fails_is_named_and_a_typed_error_passes() -> None:
    env = at(0, {1: Says("1"), 2: Says(ValueError("no idea"))})
    env.reset(seed=0)
    with pytest.raises(EnvironmentFailure, match="seat 2, player 'Says': ValueError: no idea"):
        env.step("1")
    env = at(0, {1: Says(7), 2: Says()})
    env.reset(seed=0)
    with pytest.raises(EnvironmentFailure, match="seat 1, player 'Says': .* string, got int"):
        env.step("1")
    env = at(0, {1: Says(SamplerError("down")), 2: Says()})
    env.reset(seed=0)
    with pytest.raises(SamplerError, match="^down$"):
        env.step("1")
    env = CountEnv(seat=1, opponent="broken")
    with pytest.raises(EnvironmentFailure, match="seat 0, scripted player 'broken': IndexError"):
        env.reset(seed=0)


def test_an_opponents_wrong_action_is_the_games_matter() -> None:
    env = CountEnv(opponent="out")
    env.reset(seed=0)
    assert env.step("2")[1:4] == (0.0, False, False)
    assert env.returns == (0.0, -0.8, -1.0)


def test_players_may_be_seated_later_and_are_closed_with_the_environment() -> None:
    env = CountEnv(seat=1)
    player = Says("4")
    env.seat_players({0: player})
    assert env.reset(seed=0)[0].endswith("total 4")
    env.close()
    env.close()
    assert player.closed == 2
    for wrong in (1, 3, -1):
        with pytest.raises(ValueError, match="^players: "):
            env.seat_players({wrong: Says()})


def test_one_player_that_cannot_be_closed_keeps_no_other_open() -> None:
    class Stuck(Says):
        def close(self) -> None:
            raise OSError("stuck")

    first, last = Says(), Says()
    env = SeatEnv(Count(), seat=0, players={1: Stuck(), 2: last})
    with pytest.raises(OSError, match="stuck"):
        env.close()
    env = SeatEnv(Count(), seat=0, players={1: first, 2: Stuck()})
    with pytest.raises(OSError, match="stuck"):
        env.close()
    assert first.closed == last.closed == 1


def test_a_game_without_end_is_truncated() -> None:
    env = at(0, {1: Says(*"0" * 9), 2: Says(*"0" * 9)}, moves=7)
    env.reset(seed=0)
    # Moves 1 to 3, 4 to 6, then 7: the bound, before the others have spoken.
    assert [env.step("0")[2:4] for _ in range(4)] == [
        (False, False),
        (False, False),
        (False, True),
        (False, True),
    ]


def test_misuse_is_named() -> None:
    env = CountEnv()
    with pytest.raises(gymnasium.error.ResetNeeded):
        env.step("1")
    with pytest.raises(ValueError, match=r"^options: CountEnv has none, got \['a'\]"):
        env.reset(options={"a": 1})
    env.reset(seed=0)
    wrong: Any = 3
    with pytest.raises(TypeError, match="expected a string, got int"):
        env.step(wrong)
    kwargs: dict[str, Any]
    for kwargs in ({"seat": 3}, {"seat": -1}, {"opponent": "nobody"}, {"moves": 0}):
        with pytest.raises(ValueError, match=f"^{next(iter(kwargs))}: expected .*, got"):
            SeatEnv(Count(), **kwargs)
    game = Count()
    game.reset(seed=0)
    with pytest.raises(TypeError, match="player_0: expected a string, got NoneType"):
        game.step(None)


def test_opponents_draw_neither_the_games_nor_each_others_numbers() -> None:
    def streams(seed: int) -> list[list[int]]:
        env = CountEnv()
        env.reset(seed=seed)
        drawn = [[int(act("")) for _ in range(20)] for _, act in (env._others or {}).values()]
        return [*drawn, [int(n) for n in np.random.default_rng(seed).integers(4, size=20)]]

    assert len({tuple(s) for s in streams(0) + streams(1)}) == 6


def test_the_game_base_passes_pettingzoos_own_test() -> None:
    passes_api_test(Count())


def test_without_pettingzoo_the_other_environments_are_listed_and_the_extra_is_named() -> None:
    code = (
        "import sys; sys.modules['pettingzoo'] = None\n"
        "import gymnasium, rlagents.envs, rlagents.envs.arena.seat\n"
        "from rlagents.errors import ConfigError\n"
        "told = {e.id: e.summary for e in rlagents.envs.catalogue()}\n"
        "assert told['rlagents/Lock-v0'].startswith('Enter'), told\n"
        "assert \"pip install 'rlagents[arena]'\" in told['rlagents/Nim-v0'], told\n"
        "try:\n    gymnasium.make('rlagents/Nim-v0')\n"
        "except ConfigError as error:\n    assert 'rlagents[arena]' in str(error)\n"
        "else:\n    raise SystemExit('no error')\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    light = "import sys, rlagents.envs; assert 'pettingzoo' not in sys.modules"
    subprocess.run([sys.executable, "-c", light], check=True)
