"""A game of two seats for whole runs: `tests.integration.duel:test/Duel-v0`."""

import os
import signal
from pathlib import Path
from typing import Any, ClassVar

import gymnasium
import numpy as np

from rlagents.envs.arena.game import Act, Game
from rlagents.envs.arena.seat import SeatEnv, seated
from tests.integration.envs import counted

LETTERS = "abcd"


class DuelGame(Game):
    """Both say a letter in turn, `turns` times each; who says the one that is shown has a point.

    In the end the one with more points wins 1, the other loses 1.
    """

    def __init__(self, turns: int = 2, trap: str = "", at: int = -1, flaw: str = "") -> None:
        super().__init__(seats=2, observation_limit=8)
        self.turns, self.trap, self.at, self.flaw = turns, trap, at, flaw

    def _draw(self) -> None:
        self.points, self.moves = [0, 0], 0
        self.letter = LETTERS[self.rng.integers(len(LETTERS))]

    def _answer(self, agent: str, action: str) -> str | None:
        if counted("step") == self.at and self.trap and Path(self.trap).exists():
            Path(self.trap).unlink()
            os.kill(os.getpid(), signal.SIGKILL)
        seat = self.seat(agent)
        self.points[seat] += action == self.letter
        self.moves += 1
        self.letter = LETTERS[self.rng.integers(len(LETTERS))]
        if self.moves < 2 * self.turns:
            return self.possible_agents[1 - seat]
        won = int(np.sign(self.points[0] - self.points[1]))
        self.rewards = {"player_0": float(won), "player_1": float(-won)}
        return None

    def observe(self, agent: str) -> str:
        return self.letter

    def _metrics(self, agent: str) -> dict[str, float]:
        return {"points": float(self.points[self.seat(agent)])}

    def _oracle(self, agent: str, rng: np.random.Generator) -> Act:
        return lambda observation: observation[:1]

    def _random(self, agent: str, rng: np.random.Generator) -> Act:
        return lambda observation: LETTERS[rng.integers(len(LETTERS))]

    def _broken(self, agent: str, rng: np.random.Generator) -> Act:
        def act(observation: str) -> str:
            raise OSError("the cable is out")

        return act

    scripted: ClassVar[dict[str, Any]] = {
        "oracle": _oracle,
        "random": _random,
        "expert": _random,
        "broken": _broken,
    }


class Duel(SeatEnv):
    scripted = seated(DuelGame.scripted)

    def __init__(self, seat: int = 0, opponent: str = "random", **kwargs: Any) -> None:
        super().__init__(DuelGame(**kwargs), seat=seat, opponent=opponent)


if "test/Duel-v0" not in gymnasium.registry:
    gymnasium.register(id="test/Duel-v0", entry_point=Duel)
