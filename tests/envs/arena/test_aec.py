"""PettingZoo environments that someone else wrote, played by text."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces
from hypothesis import given, settings
from hypothesis import strategies as st
from pettingzoo import AECEnv, ParallelEnv
from pettingzoo.utils import AgentSelector, parallel_to_aec, wrappers

from rlagents.envs.arena.aec import Aec, TextView, text_of
from rlagents.envs.conformance import check
from rlagents.errors import ConfigError, EnvironmentFailure
from tests.envs.arena.arrays import passes_api_test

HERE = "tests.envs.arena.test_aec"


class Pick(AECEnv[str, Any, Any]):
    """Someone else's game: two agents pick from five numbers, none twice; the higher is paid.

    Written from PettingZoo's documentation, without a line of ours: numbers, masks and arrays.
    """

    metadata = {"name": "pick_v0", "render_modes": []}  # noqa: RUF012 - PettingZoo's declaration

    def __init__(self, rounds: int = 2, lowest: int = 5) -> None:
        super().__init__()
        self.rounds, self.lowest = rounds, lowest
        self.possible_agents = ["left_0", "right_0"]
        one = spaces.Dict(
            {
                "observation": spaces.Box(-1, 1, (2, 5), np.float32),
                "action_mask": spaces.Box(0, 1, (5,), np.int8),
            }
        )
        self._spaces = dict.fromkeys(self.possible_agents, one)
        self._actions = {a: spaces.Discrete(5, start=lowest) for a in self.possible_agents}

    def observation_space(self, agent: str) -> spaces.Space:
        return self._spaces[agent]

    def action_space(self, agent: str) -> spaces.Space:
        return self._actions[agent]

    def reset(self, seed: int | None = None, options: dict[str, Any] | None = None) -> None:
        if seed is not None:
            self.generator = np.random.default_rng(seed)
        self.options = options
        self.agents = self.possible_agents[:]
        self.rewards = dict.fromkeys(self.agents, 0)
        self._cumulative_rewards = dict.fromkeys(self.agents, 0)
        self.terminations = dict.fromkeys(self.agents, False)
        self.truncations = dict.fromkeys(self.agents, False)
        self.infos = {
            a: {"metrics": {"luck": np.float32(0.5), "name": a}, "reference": f"9 for {a}"}
            for a in self.agents
        }
        self.board = np.zeros((2, 5), np.float32)
        self.board[:, int(self.generator.integers(5))] = -1  # not to be picked
        self.turns = AgentSelector(self.agents)
        self.agent_selection = self.turns.next()

    def observe(self, agent: str) -> dict[str, Any]:
        mine = self.possible_agents.index(agent)
        mask = (self.board[mine] == 0).astype(np.int8)
        return {"observation": self.board[[mine, 1 - mine]], "action_mask": mask}

    def step(self, action: Any) -> None:
        agent = self.agent_selection
        if self.terminations[agent] or self.truncations[agent]:
            self._was_dead_step(action)
            return
        assert self.observe(agent)["action_mask"][action - self.lowest], "illegal"
        self._cumulative_rewards[agent] = 0
        self._clear_rewards()
        self.board[self.possible_agents.index(agent), action - self.lowest] = 1
        self.picked = {**getattr(self, "picked", {}), agent: action}
        if self.turns.is_last():
            first, second = (self.picked[a] for a in self.possible_agents)
            self.rewards["left_0"] = int(np.sign(first - second))
            self.rewards["right_0"] = int(np.sign(second - first))
            if (self.board == 1).sum() >= 2 * self.rounds:
                self.terminations = dict.fromkeys(self.agents, True)
        self.agent_selection = self.turns.next()
        self._accumulate_rewards()
        self._deads_step_first()


class Echo(AECEnv[str, str, str]):
    """Three agents repeat what was said, in a text space without capitals, for ever."""

    metadata = {"name": "echo_v0", "render_modes": []}  # noqa: RUF012

    def __init__(self, least: int = 1) -> None:
        super().__init__()
        self.possible_agents = [f"echo_{i}" for i in range(3)]
        self.space = spaces.Text(6, min_length=least, charset="abcde")

    def observation_space(self, agent: str) -> spaces.Space:
        return spaces.Text(1000)

    def action_space(self, agent: str) -> spaces.Space:
        return self.space

    def reset(self, seed: int | None = None, options: dict[str, Any] | None = None) -> None:
        self.agents = self.possible_agents[:]
        self.rewards = dict.fromkeys(self.agents, 0.0)
        self._cumulative_rewards = dict.fromkeys(self.agents, 0.0)
        self.terminations = dict.fromkeys(self.agents, False)
        self.truncations = dict.fromkeys(self.agents, False)
        self.infos = {agent: {} for agent in self.agents}
        self.said = [f"seed{seed}"]
        self.turns = AgentSelector(self.agents)
        self.agent_selection = self.turns.next()

    def observe(self, agent: str) -> str:
        return " ".join(self.said[-3:])

    def step(self, action: Any) -> None:
        assert action in self.space
        self.said.append(action)
        self.agent_selection = self.turns.next()


class Both(ParallelEnv[str, Any, Any]):
    """All act at once."""

    metadata = {"name": "both_v0", "render_modes": []}  # noqa: RUF012
    render_mode = None

    def __init__(self) -> None:
        self.possible_agents = ["both_0", "both_1"]
        self._numbers = spaces.Discrete(3)

    def observation_space(self, agent: str) -> spaces.Space:
        return self._numbers

    def action_space(self, agent: str) -> spaces.Space:
        return self._numbers

    def reset(self, seed: int | None = None, options: Any = None) -> Any:
        self.agents = self.possible_agents[:]
        return dict.fromkeys(self.agents, 0), {a: {} for a in self.agents}

    def step(self, actions: dict[str, Any]) -> Any:
        higher = max(actions.values())
        seen = {a: actions[b] for a, b in zip(self.agents, reversed(self.agents), strict=True)}
        paid = {a: float(n == higher) for a, n in actions.items()}
        over, cut = dict.fromkeys(self.agents, True), dict.fromkeys(self.agents, False)
        infos = {a: {} for a in self.agents}
        self.agents = []
        return seen, paid, over, cut, infos


class Unnamed(Echo):
    """Its agents are not known beforehand."""

    def __init__(self) -> None:
        super().__init__()
        self.possible_agents = []


class Continuous(Echo):
    def action_space(self, agent: str) -> spaces.Space:
        return spaces.Box(0, 1, (2,))


def turned() -> AECEnv[str, Any, Any]:
    return parallel_to_aec(Both())


def strict() -> Any:
    """As PettingZoo's own environments are wrapped, and numbered: its masks begin at 0."""
    env: Any = wrappers.TerminateIllegalWrapper(Pick(rounds=3, lowest=0), illegal_reward=-1)
    return wrappers.OrderEnforcingWrapper(wrappers.AssertOutOfBoundsWrapper(env))


class Says:
    def __init__(self, *said: str) -> None:
        self.said, self.seen = list(said), []

    def act(self, observation: str) -> str:
        self.seen.append(observation)
        return self.said.pop(0)

    def close(self) -> None: ...


def pick(seat: int = 0, *said: str, **kwargs: Any) -> tuple[Any, Says]:
    env, other = Aec(make=f"{HERE}:Pick", kwargs=kwargs, seat=seat), Says(*said)
    env.seat_players({1 - seat: other})
    return env, other


def test_a_foreign_game_by_hand() -> None:
    env, other = pick(0, "9", "x")
    for seed in range(20):  # a draw in which the first number, 5, is not to be picked
        first, info = env.reset(seed=seed)
        if first.startswith("-1"):
            break
    assert first == "-1 0 0 0 0\n-1 0 0 0 0\nlegal 6 7 8 9"
    assert info.keys() == {"metrics", "reference"} and info["reference"] == "9 for left_0"
    assert info["metrics"] == {
        "luck": 0.5,
        "illegal": 0.0,
        "seat": 0.0,
        "turns": 0.0,
        "margin": 0.0,
    }
    # 7 against 9: the other wins the round.
    seen, reward, over, cut, info = env.step(" 7\n")
    assert seen == "-1 0 1 0 0\n-1 0 0 0 1\nlegal 6 8 9" and (reward, over, cut) == (
        -1,
        False,
        False,
    )
    # 7 again is not possible: the smallest legal number, 6, stands for it; `x` likewise gives 6.
    seen, reward, over, cut, info = env.step("7")
    assert (reward, over, cut) == (0.0, True, False) and info["metrics"]["illegal"] == 1.0
    assert other.seen[0].endswith("legal 6 7 8 9") and env.game.illegal["right_0"] == 1
    assert env.returns == (-1.0, 1.0)


@pytest.mark.parametrize(
    "text", ["", "5.0", "six", "99999999999999999999", "٦", "0x6", "6 6", "-6"]
)
def test_what_is_no_legal_number_is_the_smallest_one(text: str) -> None:
    env, _ = pick(0, *"5678")
    first, _ = env.reset(seed=0)
    smallest = first.splitlines()[-1].split()[1]
    assert env.step(text)[4]["metrics"]["illegal"] == 1.0
    assert env.game.env.board[0, int(smallest) - 5] == 1


def test_pettingzoos_wrappers_see_legal_actions_only() -> None:
    env = Aec(make=f"{HERE}:strict")
    env.reset(seed=0)
    over = False
    while not over:
        _, reward, over, cut, _ = env.step("0")
        assert reward != -1 or not over  # the wrapper's penalty for an illegal move
    assert cut is False


def test_texts_are_made_to_fit_and_a_game_without_end_is_truncated() -> None:
    env = Aec(make=f"{HERE}:Echo", kwargs={"least": 2}, seat=1, moves=9)
    players = {0: Says("abc", "A", "abcdefgh", "aa"), 2: Says("dd", "ee", "aa")}
    env.seat_players(players)
    assert env.reset(seed=0)[0].endswith(" abc")
    # `A` has no legal character: filled up to two, `aa`; `abcdefgh` is cut to what is there: abcde.
    assert env.step("Bad Egg")[0] == "adeg"[:2] + " dd aa" and env.game.illegal["echo_1"] == 1
    observation, _, over, cut, info = env.step("bb")
    assert observation == "bb ee abcde" and (over, cut) == (False, False)
    assert env.step("cc")[2:4] == (False, True)
    assert info["metrics"]["illegal"] == 1.0 and env.game.illegal["echo_0"] == 2


def test_parallel_environments_are_refused_until_they_are_turned_into_aec() -> None:
    with pytest.raises(ConfigError, match=r"parallel_to_aec\(environment\)"):
        Aec(make=f"{HERE}:Both")
    env = Aec(make=f"{HERE}:turned", seat=1)
    env.seat_players({0: Says("2")})
    env.reset(seed=0)
    assert env.step("2")[:4] == ("2", 1.0, True, False) and env.returns == (1.0, 1.0)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        ("", "expected 'module:function', got ''"),
        ("json", "expected 'module:function', got 'json'"),
        (3, "expected 'module:function', got 3"),
        ("no_such_module:make", "ModuleNotFoundError"),
        ("json:nothing", "AttributeError"),
        ("json:loads", "TypeError"),
        ("builtins:dict", "expected a pettingzoo.AECEnv, got dict"),
        (f"{HERE}:Unnamed", "must say its seats"),
        (f"{HERE}:Continuous", "must be Text or Discrete, those of 'echo_0' are Box"),
        # PettingZoo's own example whose agents come and go.
        ("pettingzoo.test.example_envs.generated_agents_env_v0:env", "must say its seats"),
    ],
)
def test_what_cannot_be_played_is_refused_in_one_line(make: Any, said: str) -> None:
    with pytest.raises(ConfigError, match=r"^make") as caught:
        Aec(make=make)
    assert said in str(caught.value) and "\n" not in str(caught.value)


def test_a_foreign_game_that_raises_fails_as_itself_and_its_player_by_name() -> None:
    env = Aec(make=f"{HERE}:Pick", kwargs={"rounds": 9})  # more rounds than numbers
    env.reset(seed=0)
    with pytest.raises((AssertionError, EnvironmentFailure)):
        for _ in range(9):
            env.step("5")
    with pytest.raises(ValueError, match=r"^opponent: expected one of random, got 'oracle'"):
        Aec(make=f"{HERE}:Pick", opponent="oracle")
    with pytest.raises(ValueError, match="^observation_limit: "):
        Aec(observation_limit=0)


def test_options_are_the_environments() -> None:
    env: Any = Aec(make=f"{HERE}:Pick")
    env.reset(seed=0, options={"board": 1})
    assert env.game.env.options == {"board": 1}


def test_scripted_players_of_the_environment_play_here_too() -> None:
    env = Aec(opponent="oracle", kwargs={"mover": "wins"})
    assert set(env.scripted) == {"random", "oracle", "greedy", "slip25", "slip50", "slip75"}
    observation, _ = env.reset(seed=0)
    act = env.scripted["oracle"](env, np.random.default_rng(0))
    over = False
    while not over:
        observation, reward, over, _, info = env.step(act(observation))
    assert observation == "won" and reward == 1.0 and info["metrics"]["win"] == 1.0
    # The same game as our own id, seed by seed.
    ours: Any = gymnasium.make("rlagents/Nim-v0", mover="wins")
    assert ours.reset(seed=0)[0] == env.reset(seed=0)[0]


@pytest.mark.parametrize(
    "kwargs",
    [
        {"make": f"{HERE}:Pick"},
        {"make": f"{HERE}:Pick", "seat": 1},
        {"make": f"{HERE}:strict", "seat": 1},
        {"make": f"{HERE}:Echo", "seat": 2, "moves": 40},
        {"make": f"{HERE}:turned"},
        {"kwargs": {"heaps": 2}, "opponent": "slip50", "seat": 1},
    ],
)
def test_foreign_environments_conform(kwargs: dict[str, Any]) -> None:
    report = check("rlagents/Aec-v0", kwargs)
    assert report.ok, str(report)


def test_the_view_is_an_aec_environment_itself() -> None:
    passes_api_test(TextView(Pick(), observation_limit=1000), cycles=50)


@pytest.mark.parametrize("name", ["rps_v2", "tictactoe_v3", "connect_four_v3"])
def test_pettingzoos_own_classics(name: str) -> None:
    pytest.importorskip("pygame")  # they draw with it
    report = check("rlagents/Aec-v0", {"make": f"pettingzoo.classic.{name}:env"})
    assert report.ok, str(report)


def test_observations_as_text() -> None:
    board = np.array([[[1, 0], [0, 1]], [[2, 2], [3, 3]]])
    assert text_of(board) == "1 0\n0 1\n\n2 2\n3 3"
    assert text_of({"hand": np.array([0.5, 1]), "score": 3}) == "hand 0.5 1\nscore 3"
    assert text_of((True, np.int8(4), "five", 1 / 3)) == "1\n4\nfive\n0.3333"
    view = TextView(Pick(), observation_limit=20)
    view.reset(seed=0)
    seen = view.observe("left_0")
    assert len(seen) == 20 and "\nlegal " in seen


@settings(max_examples=30, deadline=None)
@given(st.lists(st.text(), min_size=4, max_size=4), st.integers(0, 1))
def test_any_text_is_answered(actions: list[str], seat: int) -> None:
    env = Aec(make=f"{HERE}:Pick", seat=seat)
    env.reset(seed=0)
    for action in actions:
        observation, _, over, _, _ = env.step(action)
        assert observation in env.observation_space
        if over:
            break
    assert over
