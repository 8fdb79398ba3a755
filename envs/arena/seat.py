"""One seat of a game as a Gymnasium environment: the other seats are played by others.

    class Nim(SeatEnv):
        scripted = seated(NimGame.scripted)

        def __init__(self, heaps: int = 3, seat: int = 0, opponent: str = "random") -> None:
            super().__init__(NimGame(heaps=heaps), seat=seat, opponent=opponent)

Nothing here imports PettingZoo: games do (`game.Game`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

import gymnasium
import numpy as np

from rlagents.envs.lab.base import choice, whole
from rlagents.errors import EnvironmentFailure, boundary

if TYPE_CHECKING:
    from pettingzoo import AECEnv

Act = Callable[[str], str]
"""A scripted policy in one episode: observation -> action."""

MAX_MOVES = 10_000
_STREAM = 0x5EA7


class Player(Protocol):
    """Plays a seat: a model, a script, an endpoint."""

    def act(self, observation: str) -> str:
        """The answer to what its seat sees at its turn."""
        ...

    def close(self) -> None:
        """Free what it holds. May be called twice."""
        ...


def seated(
    scripted: Mapping[str, Callable[[Any, str, np.random.Generator], Act]],
) -> dict[str, Callable[[Any, np.random.Generator], Act]]:
    """Scripted players of a game as scripted policies of a `SeatEnv`'s own seat."""

    def of(factory: Callable[..., Act]) -> Callable[[SeatEnv, np.random.Generator], Act]:
        return lambda env, rng: factory(env.game, env.agent, rng)

    return {name: of(factory) for name, factory in scripted.items()}


class SeatEnv(gymnasium.Env[str, str]):
    """A game seen from one seat.

    `reset` starts the game and plays the others until it is this seat's turn; `step` gives the
    action to the game and plays the others until it is this seat's turn again, or its end. The
    reward is what this seat was paid since its last observation, whoever moved. Where the game ends
    before this seat's first turn, `reset` shows the end, and the first step, whatever it says,
    pays it and terminates.

    `info["metrics"]` are the game's for this seat, with `seat`, `turns` (its own) and `margin`,
    what it was paid less the mean of what the others were.

    What a wrong action costs is the game's rule, the same for every seat. A player that raises ends
    the episode with an error that names it: that is not a win for anyone.
    """

    metadata: dict[str, Any] = {"render_modes": []}  # noqa: RUF012 - Gymnasium's declaration
    scripted: Mapping[str, Callable[[Any, np.random.Generator], Act]] = {}
    """Scripted policies of this seat: name -> factory(environment, rng) -> act."""
    known_scores: ClassVar[Mapping[str, float]] = {}
    """Expected score of each scripted policy with the default arguments."""
    takes_options: ClassVar[bool] = False
    """Whether the game reads the options of `reset`."""

    def __init__(
        self,
        game: AECEnv[Any, str, str | None],
        *,
        seat: int = 0,
        opponent: str = "random",
        players: Mapping[int, Player] | None = None,
        moves: int = MAX_MOVES,
    ) -> None:
        """Make the environment.

        Args:
            game: text in and text out; `scripted` players, as `game.Game` declares them.
            seat: whose turns are the environment's, from 0.
            opponent: name of the game's scripted player that has the seats nobody was given.
            players: players of other seats.
            moves: actions of all seats together, after which the episode is truncated.

        Raises:
            ValueError: naming the argument that is out of its range.
        """
        self.game: Any = game
        self.seats = len(game.possible_agents)
        self.seat = whole("seat", seat, 0, self.seats - 1)
        self.agent = game.possible_agents[self.seat]
        self._scripts: Mapping[str, Any] = getattr(game, "scripted", {})
        self.opponent = choice("opponent", opponent, tuple(self._scripts))
        self.moves = whole("moves", moves, 1, 100 * MAX_MOVES)
        self.observation_space = self.game.observation_space(self.agent)
        self.action_space = self.game.action_space(self.agent)
        self._players: dict[int, Player] = {}
        self.seat_players(players or {})
        self._others: dict[Any, tuple[str, Act]] | None = None
        self._returns: dict[Any, float] = {}
        self._turn = self._moved = 0
        self._paid = 0.0
        self._over = self._cut = False
        self._last = ""
        self._info: dict[str, Any] = {}

    def seat_players(self, players: Mapping[int, Player]) -> None:
        """Give other seats to players, from the next `reset` on; the rest goes to `opponent`.

        Those who had them before are not closed. `close` closes the players it has then.

        Raises:
            ValueError: for this environment's own seat, or one that the game does not have.
        """
        for seat in players:
            if whole("players", seat, 0, self.seats - 1) == self.seat:
                raise ValueError(f"players: seat {seat} is this environment's own")
        self._players = dict(players)

    @property
    def returns(self) -> tuple[float, ...]:
        """[seats] what each seat was paid in this episode so far."""
        return tuple(self._returns.get(agent, 0.0) for agent in self.game.possible_agents)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[str, dict[str, Any]]:
        """Start a game drawn from the seed and play the others until it is this seat's turn.

        Raises:
            ValueError: for any option, unless the game takes them.
            EnvironmentFailure: when another player fails, naming seat and player.
        """
        super().reset(seed=seed)
        if options and not self.takes_options:
            raise ValueError(f"options: {type(self).__name__} has none, got {sorted(options)}")
        # Streams of their own: a policy whose generator is made from the task's seed must not draw
        # the numbers that the game or another player is made of.
        drawn = int(self.np_random.integers(2**31))
        self.game.reset(seed=drawn, options=options)
        self._returns = dict.fromkeys(self.game.possible_agents, 0.0)
        self._turn = self._moved = 0
        self._paid = 0.0
        self._others = dict(self._seated(drawn))
        self._wait()
        return self._last, self._info

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        """Answer one action. After the end of the episode nothing changes any more.

        Raises:
            TypeError: for an action that is not a string.
            gymnasium.error.ResetNeeded: before the first reset.
            EnvironmentFailure: when another player fails, naming seat and player.
        """
        if not isinstance(action, str):
            raise TypeError(f"action: expected a string, got {type(action).__name__}")
        if self._others is None:
            raise gymnasium.error.ResetNeeded("call reset before step")
        if not (self._over or self._cut):
            self._turn += 1
            self._move(action)
            self._wait()
        # The difference from what was already paid, so that rounding never accumulates.
        reward = self._returns[self.agent] - self._paid
        self._paid += reward
        return self._last, reward, self._over, self._cut, self._info

    def close(self) -> None:
        """Close the players of the other seats and the game."""
        with ExitStack() as stack:  # closes the rest where one fails to
            stack.callback(self.game.close)
            for player in self._players.values():
                stack.callback(player.close)

    def _seated(self, drawn: int) -> Iterator[tuple[Any, tuple[str, Act]]]:
        """Each other agent, with the name of its player and what it answers."""
        for seat, agent in enumerate(self.game.possible_agents):
            if seat == self.seat:
                continue
            player = self._players.get(seat)
            if player is not None:
                name = getattr(player, "name", type(player).__name__)
                yield agent, (f"seat {seat}, player {name!r}", player.act)
            else:
                where = f"seat {seat}, scripted player {self.opponent!r}"
                rng = np.random.default_rng([_STREAM, drawn, seat])
                with boundary(EnvironmentFailure, where):
                    act = self._scripts[self.opponent](self.game, agent, rng)
                yield agent, (where, act)

    def _wait(self) -> None:
        """Play the others until it is this seat's turn or its end; take down what it sees then."""
        game, me = self.game, self.agent
        while me in game.agents and game.agent_selection != me and self._moved < self.moves:
            agent = game.agent_selection
            if game.terminations[agent] or game.truncations[agent]:
                game.step(None)  # how the AEC API has an agent leave that is done
                continue
            assert self._others is not None
            where, act = self._others[agent]
            seen = game.observe(agent)
            with boundary(EnvironmentFailure, where):
                action = act(seen)
                if not isinstance(action, str):
                    raise TypeError(f"expected a string, got {type(action).__name__}")
            self._move(action)
        self._over = bool(game.terminations.get(me, True))
        cut = bool(game.truncations.get(me, False)) or self._moved >= self.moves
        self._cut = cut and not self._over
        self._last = game.observe(me)
        self._info = self._told(game.infos.get(me, {}))

    def _move(self, action: str) -> None:
        self.game.step(action)
        self._moved += 1
        # `rewards` holds what this move paid to each agent; `last()` of an agent adds up the same
        # numbers, but is lost with an agent that leaves before it is selected again.
        for agent, paid in self.game.rewards.items():
            self._returns[agent] += float(paid)

    def _told(self, told: Mapping[str, Any]) -> dict[str, Any]:
        metrics = {name: float(value) for name, value in told.get("metrics", {}).items()}
        others = [value for seat, value in enumerate(self.returns) if seat != self.seat]
        margin = self.returns[self.seat] - sum(others) / max(len(others), 1)
        metrics |= {"seat": float(self.seat), "turns": float(self._turn), "margin": float(margin)}
        info: dict[str, Any] = {"metrics": metrics}
        if "potential" in told:
            # Nothing is still to come after the end, whatever the state looks like.
            info["potential"] = 0.0 if self._over else float(told["potential"])
        if "reference" in told:
            info["reference"] = told["reference"]
        return info
