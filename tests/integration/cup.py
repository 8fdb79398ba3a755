"""A game for tournaments: it is interrupted, and names and errors of players are attacks.

`tests.integration.cup:test/Cup-v0`.
"""

import os
import signal
from typing import Any, ClassVar

import gymnasium
import numpy as np

from rlagents.envs.arena.game import Act
from rlagents.envs.arena.seat import SeatEnv, seated
from tests.integration.duel import DuelGame
from tests.integration.envs import counted
from tests.telemetry.hostile import HOSTILE


class CupGame(DuelGame):
    """A duel; as game number `stop` of this process begins somebody presses Ctrl-C."""

    def __init__(self, turns: int = 2, stop: int = -1) -> None:
        super().__init__(turns=turns)
        self.stop = stop

    def _draw(self) -> None:
        if counted("reset") == self.stop:
            os.kill(os.getpid(), signal.SIGINT)
        super()._draw()

    def _hostile(self, agent: str, rng: np.random.Generator) -> Act:
        def act(observation: str) -> str:
            raise ValueError(HOSTILE)

        return act

    scripted: ClassVar[dict[str, Any]] = {
        **DuelGame.scripted,
        "hostile": _hostile,
        "\x1b[2J[bold]$x_": DuelGame.scripted["random"],
    }


class Cup(SeatEnv):
    scripted = seated(CupGame.scripted)

    def __init__(self, seat: int = 0, opponent: str = "random", **kwargs: Any) -> None:
        super().__init__(CupGame(**kwargs), seat=seat, opponent=opponent)


if "test/Cup-v0" not in gymnasium.registry:
    gymnasium.register(id="test/Cup-v0", entry_point=Cup)
