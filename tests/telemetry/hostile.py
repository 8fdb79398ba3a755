"""An environment and policies whose every text is an attack on whoever reads it.

Import it through `env.id`: `tests.telemetry.hostile:test/Hostile-v0`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import gymnasium
import numpy as np

from rlagents.envs.spaces import UnicodeText

TERMINAL = "\x1b[2J\x1b]0;title\x07\x1b]52;c;aGVsbG8=\x07\x1b]8;;http://evil.example\x1b\\x"
"""Clear the screen, name the window, fill the clipboard, make a link."""
C1 = "\x9b31m\x9d52;c;aGVsbG8=\x9c\x08\x08\x08\rfake line\x0b\x0c\x85"
"""The same in one character each, and steps back over what was printed."""
DIRECTION = "\u202egpj.exe\u2066\u200b\u2028"
MARKUP = (
    "[bold red]x[/] [link=http://evil.example]y[/link] <script>alert(1)</script> ![](http://e/p)"
)
HOSTILE = f"{TERMINAL} {C1} {DIRECTION} {MARKUP}\nsecond line"


class Hostile(gymnasium.Env[str, str]):
    """Two turns of `HOSTILE`; with `fails`, every other episode ends in an error that says it."""

    metadata: ClassVar[dict[str, Any]] = {"render_modes": []}

    def __init__(self, fails: float = 0.0) -> None:
        self.fails = fails
        self.action_space = self.observation_space = UnicodeText(1000)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[str, dict[str, Any]]:
        super().reset(seed=seed)
        self.turn = 0
        self.failing = self.np_random.random() < self.fails
        return HOSTILE, {}

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        if self.failing:
            raise ValueError(HOSTILE)
        self.turn += 1
        return HOSTILE, 0.5, self.turn == 2, False, {}

    def _hostile(self, rng: np.random.Generator) -> Callable[[str], str]:
        return lambda observation: HOSTILE

    scripted: ClassVar[dict[str, Any]] = {"random": _hostile, "oracle": _hostile}


gymnasium.register("test/Hostile-v0", Hostile)
