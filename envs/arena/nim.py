"""`rlagents/Nim-v0`: a game whose optimal play is known."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import reduce
from operator import xor
from typing import Any, ClassVar, Literal

import numpy as np

from rlagents.envs.arena.game import Act, Game
from rlagents.envs.arena.seat import SeatEnv, seated
from rlagents.envs.lab.base import choice, flag, whole

_RULES = (
    "Nim: two players in turn take one or more from a single heap; who takes the last one wins. "
    "Say the number of a heap, from 1, and how many you take: `2 3`. "
    "An illegal move loses at once.\n"
)
_MOVE = re.compile(r"([0-9]{1,3}) +([0-9]{1,3})")

Move = tuple[int, int]
"""Index of a heap, from 0, and how many are taken."""


def moves(heaps: tuple[int, ...]) -> list[Move]:
    """Every legal move, by heap and then by number."""
    return [(heap, take) for heap, size in enumerate(heaps) for take in range(1, size + 1)]


def best_move(heaps: tuple[int, ...]) -> Move:
    """The move to nim-sum 0 in the first heap that has one; else one from the largest heap.

    The player to move wins exactly where the nim-sum, the exclusive or of the heaps, is not 0
    (C. L. Bouton, Annals of Mathematics 3, 1901). In a lost position one is taken so that the game
    lasts, and the other has the most chances to err.
    """
    total = reduce(xor, heaps, 0)
    for heap, size in enumerate(heaps):
        if size ^ total < size:
            return heap, size - (size ^ total)
    return max(range(len(heaps)), key=lambda heap: heaps[heap]), 1


class NimGame(Game):
    """Two players take from heaps; who takes the last one wins, an illegal move loses at once."""

    def __init__(
        self,
        heaps: int = 3,
        largest: int = 5,
        mover: Literal["balanced", "wins", "loses", "any"] = "balanced",
        rules: bool = False,
    ) -> None:
        """Make the game: see `Nim`."""
        self.heaps = whole("heaps", heaps, 2, 20)
        self.largest = whole("largest", largest, 3, 999)
        self.mover = choice("mover", mover, ("balanced", "wins", "loses", "any"))
        self.rules = flag("rules", rules)
        super().__init__(seats=2, observation_limit=len(_RULES) + 4 * self.heaps)

    def _draw(self) -> None:
        wins = {"wins": True, "loses": False}.get(self.mover)
        if self.mover == "balanced":
            wins = bool(self.rng.integers(2))
        while True:
            drawn = self.rng.integers(1, self.largest + 1, size=self.heaps)
            self.position = tuple(int(size) for size in drawn)
            if wins is None or wins == self.winning:
                break
        self._counts = {
            agent: dict.fromkeys(("moves", "blunders", "illegal"), 0) for agent in self.agents
        }
        self.winner = ""

    @property
    def winning(self) -> bool:
        """Whether the player to move can win whatever the other does."""
        return reduce(xor, self.position, 0) != 0

    def _answer(self, agent: str, action: str) -> str | None:
        other = self.possible_agents[1 - self.seat(agent)]
        found = _MOVE.fullmatch(action)
        heap, take = (int(found[1]) - 1, int(found[2])) if found else (-1, 0)
        if not (0 <= heap < self.heaps and 1 <= take <= self.position[heap]):
            self._counts[agent]["illegal"] += 1
            return self._end(winner=other)
        had_won = self.winning
        self.position = tuple(
            size - take if at == heap else size for at, size in enumerate(self.position)
        )
        self._counts[agent]["moves"] += 1
        self._counts[agent]["blunders"] += had_won and self.winning
        return other if any(self.position) else self._end(winner=agent)

    def _end(self, winner: str) -> None:
        self.winner = winner
        for agent in self.agents:
            self.rewards[agent] += 1.0 if agent == winner else -1.0

    def observe(self, agent: str) -> str:
        if self.winner:
            return "won" if agent == self.winner else "lost"
        head = _RULES if self.rules and not self._counts[agent]["moves"] else ""
        return head + " ".join(map(str, self.position))

    def _metrics(self, agent: str) -> dict[str, float]:
        ends = {"win": self.winner == agent, "loss": self.winner not in ("", agent), "draw": False}
        return {name: float(n) for name, n in {**ends, **self._counts[agent]}.items()}

    def _info(self, agent: str) -> dict[str, Any]:
        mine = self.winning == (agent == self.agent_selection)
        return {**super()._info(agent), "potential": 1.0 if mine else -1.0}

    def _random(self, agent: str, rng: np.random.Generator) -> Act:
        return lambda observation: self._say(self._any(rng))

    def _oracle(self, agent: str, rng: np.random.Generator) -> Act:
        return lambda observation: self._say(best_move(self.position))

    def _greedy(self, agent: str, rng: np.random.Generator) -> Act:
        def act(observation: str) -> str:
            size, heap = max((size, -heap) for heap, size in enumerate(self.position))
            return self._say((-heap, size))

        return act

    def _any(self, rng: np.random.Generator) -> Move:
        legal = moves(self.position)
        return legal[rng.integers(len(legal))]

    @staticmethod
    def _say(move: Move) -> str:
        return f"{move[0] + 1} {move[1]}"

    @staticmethod
    def _slip(skill: float) -> Callable[[Any, str, np.random.Generator], Act]:
        def factory(game: NimGame, agent: str, rng: np.random.Generator) -> Act:
            def act(observation: str) -> str:
                right = rng.random() < skill
                return game._say(best_move(game.position) if right else game._any(rng))

            return act

        return factory

    scripted: ClassVar[Mapping[str, Callable[[Any, str, np.random.Generator], Act]]] = {
        "random": _random,
        "oracle": _oracle,
        "greedy": _greedy,
        "slip25": _slip(0.25),
        "slip50": _slip(0.5),
        "slip75": _slip(0.75),
    }


class Nim(SeatEnv):
    """Take stones from heaps in turn against another player; who takes the last stone wins.

    An observation is the heaps, `3 4 5`, an action the number of a heap, from 1, and how many are
    taken: `2 3` leaves `3 1 5`. Emptied heaps stay, as 0. Any other text, as any move that is not
    possible, loses at once, for every seat alike. The last observation is `won` or `lost`. Seat 0
    moves first.

    Score: 1 for a win, -1 for a loss. There is no draw.

    `info["potential"]` is 1 where this seat wins if it makes no further mistake, else -1.
    `info["metrics"]`: `win`, `loss`, `draw`, and of this seat its `moves`, `illegal` moves and
    `blunders`, moves that gave a won game away.

    Scripted: `oracle` never errs; `random` is uniform over legal moves; `slip25`, `slip50` and
    `slip75` play each move as the oracle with probability .25, .5 and .75, else as `random`;
    `greedy` takes all of the largest heap. In strength random < slip25 < slip50 < slip75 < oracle.
    Their known scores are exact, from the recursion over positions, for the default arguments.
    """

    scripted = seated(NimGame.scripted)
    known_scores: ClassVar[Mapping[str, float]] = {
        "random": 0.004425,
        "greedy": 0.112835,
        "slip25": 0.216172,
        "slip50": 0.446209,
        "slip75": 0.695491,
        "oracle": 0.966138,
    }

    def __init__(
        self,
        heaps: int = 3,
        largest: int = 5,
        mover: Literal["balanced", "wins", "loses", "any"] = "balanced",
        rules: bool = False,
        seat: int = 0,
        opponent: str = "random",
    ) -> None:
        """Make the environment.

        Args:
            heaps: number of heaps.
            largest: each heap has 1 to this many, 3 or more, drawn uniformly.
            mover: who wins under best play: `wins` and `loses` say it of the player who moves
                first, `balanced` draws one of the two at even odds, `any` takes what comes.
            rules: put an explanation in front, for policies that were not trained on the game.
            seat: this environment's own; seat 0 moves first.
            opponent: scripted player of the other seat, where no player was given.

        Raises:
            ValueError: naming the argument that is out of its range.
        """
        game = NimGame(heaps=heaps, largest=largest, mover=mover, rules=rules)
        super().__init__(game, seat=seat, opponent=opponent)
