"""PettingZoo's own test of the AEC API, for games of text.

It reads `observation.dtype`, which a string has not, so it sees each observation as padded bytes.
Turns, rewards, ends, infos and actions are the game's own.
"""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
from gymnasium import spaces
from pettingzoo import AECEnv
from pettingzoo.test import api_test
from pettingzoo.utils import BaseWrapper

LENGTH = 4_096


class Bytes(BaseWrapper[Any, Any, Any]):
    """Observations as arrays of bytes."""

    def __init__(self, env: AECEnv[Any, Any, Any]) -> None:
        super().__init__(env)
        self.bytes = spaces.Box(0, 255, (LENGTH,), np.uint8)

    def observation_space(self, agent: Any) -> spaces.Box:
        return self.bytes

    def observe(self, agent: Any) -> Any:
        text = self.env.observe(agent)
        assert isinstance(text, str) and len(text.encode()) <= LENGTH
        return np.frombuffer(text.encode().ljust(LENGTH), np.uint8)


def passes_api_test(game: AECEnv[Any, Any, Any], cycles: int = 200) -> None:
    """Run it; its warnings are about what it would rather see than text."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        api_test(Bytes(game), num_cycles=cycles)
