"""Episodes of very different lengths, with the trap of `envs.Trap`: for partial rollouts.

`tests.integration.spread:test/Spread-v0`
"""

import math
from typing import Any

import gymnasium

from tests.integration.envs import Trap


class Spread(Trap):
    """Say the letter that is shown, as often as the task wants: `low` to `high` times.

    The number is drawn log-uniformly from the task's seed.
    """

    def __init__(self, low: int = 1, high: int = 20, armed: str = "/nowhere", **trap: Any) -> None:
        super().__init__(armed=armed, **{"at": -1, **trap})
        self.low, self.high = low, high

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[str, dict[str, Any]]:
        super().reset(seed=seed)
        drawn = self.np_random.uniform(math.log(self.low), math.log(self.high + 1))
        self.turns = int(math.exp(drawn))
        return self.show(), {}


gymnasium.register("test/Spread-v0", Spread)
