"""`rlagents/Lock-v0`: a combination lock whose length is the horizon."""

from __future__ import annotations

import string
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Literal

import numpy as np

from rlagents.envs.lab.base import MAX_HORIZON, Act, LabEnv, choice, flag, real, whole

_RULES = (
    "Open the lock: at each place say the one small letter that is right there. "
    "The capital letter names the place you are at.\n"
)


def _place(index: int) -> str:
    """Name of a place in the pattern: A, B, ..., Z, 1A, 1B, ..."""
    return f"{index // 26 or ''}{string.ascii_uppercase[index % 26]}"


class Lock(LabEnv):
    """Enter a combination of `horizon` letters, one a turn; by default all or nothing.

    The combination is a pattern of `period` letters, repeated up to length `horizon`, so that a
    lock of any length can be solved by a short memory. The places of the pattern are called A,
    B, ..., Z, 1A, 1B, ..., and an observation is the name of the place, `C`. `hint="card"` shows
    the pattern once, on the first observation (`Ab Bd Ca Dc`: at A the letter is b);
    `hint="each"` shows each letter when it is due (`C a`), the easiest stage of a curriculum;
    `hint="none"` leaves it to be found by trial. What the right letter depends on is the last
    character before the action, as in KeyRooms, for patterns of up to 26 letters.

    A wrong letter is answered `no C`. It ends the episode (`wrong="end"`, answered `no, locked`),
    takes the lock back to its start (`"reset"`, `no A`) or costs only its turn (`"stay"`). Text
    that is no letter of the lock is answered `bad C` and costs its turn.

    Score: 1 when the lock opens, else 0. With `partial` it is the furthest position that was
    solved divided by `horizon`, paid as it is reached.

    `info["potential"]` is the position in the combination divided by `horizon`, which makes all or
    nothing a reward at each place.

    Known scores, with p = 1 / symbols: oracle 1 exactly. The random policy says uniform letters.
    With `wrong="end"` it scores p**H, and sum(p**k for k = 1..H) / H with `partial`; with "stay"
    and T turns P[Bin(T, p) >= H], and E[min(H, Bin(T, p))] / H with `partial`. The expert knows
    the combination and errs with probability `expert_error` a turn: the same formulas with
    p = 1 - expert_error. By default random 0.000015, expert 0.4305.
    """

    known_scores: ClassVar[Mapping[str, float]] = {
        "random": 0.25**8,
        "expert": 0.9**8,
        "oracle": 1.0,
    }

    def __init__(
        self,
        horizon: int = 8,
        symbols: int = 4,
        period: int | None = None,
        hint: Literal["card", "each", "none"] = "card",
        wrong: Literal["end", "reset", "stay"] = "end",
        partial: bool = False,
        turns: int | None = None,
        rules: bool = False,
        expert_error: float = 0.1,
    ) -> None:
        """Make the environment.

        Args:
            horizon: length of the combination, which is how many turns a flawless player takes.
            symbols: number of different letters.
            period: length of the pattern that repeats; unset: `horizon`, nothing repeats.
            hint: where the combination is shown.
            wrong: what a wrong letter does.
            partial: pay for progress and not only for the open lock.
            turns: turn budget; unset: twice the horizon.
            rules: put an explanation in front, for policies that were not trained on the game.
            expert_error: probability that the expert's letter is wrong.

        Raises:
            ValueError: naming the argument that is out of its range.
        """
        self.horizon = whole("horizon", horizon, 1, MAX_HORIZON)
        self.symbols = whole("symbols", symbols, 2, len(string.ascii_lowercase))
        self.period = self.horizon if period is None else whole("period", period, 1, self.horizon)
        self.hint = choice("hint", hint, ("card", "each", "none"))
        self.wrong = choice("wrong", wrong, ("end", "reset", "stay"))
        self.partial = flag("partial", partial)
        budget = 2 * self.horizon if turns is None else turns
        self.rules = flag("rules", rules)
        self.expert_error = real("expert_error", expert_error, 0, 1)
        super().__init__(
            turns=whole("turns", budget, self.horizon, 100 * MAX_HORIZON),
            observation_limit=256 + len("384Zz ") * self.period,
        )

    def _draw(self) -> str:
        pattern = self.rng.integers(self.symbols, size=self.period)
        self._pattern = "".join(string.ascii_lowercase[i] for i in pattern)
        self._position = self._furthest = 0
        self._counts = dict.fromkeys(("wrong", "invalid"), 0)
        head = _RULES if self.rules else ""
        if self.hint == "card":
            repeats = f" repeated to {self.horizon}" if self.period < self.horizon else ""
            facts = (_place(i) + letter for i, letter in enumerate(self._pattern))
            head += f"{' '.join(facts)}{repeats}\n"
        return head + self._line()

    def _line(self) -> str:
        shown = f" {self.letter}" if self.hint == "each" else ""
        return _place(self._position % self.period) + shown

    @property
    def letter(self) -> str:
        """The right letter at this position."""
        return self._pattern[self._position % self.period]

    def _answer(self, action: str) -> tuple[str, bool]:
        if len(action) != 1 or action not in string.ascii_lowercase[: self.symbols]:
            self._counts["invalid"] += 1
            return f"bad {self._line()}", False
        if action == self.letter:
            self._position += 1
            self._furthest = max(self._furthest, self._position)
            if self._position == self.horizon:
                return "open", True
            return self._line(), False
        self._counts["wrong"] += 1
        if self.wrong == "end":
            return "no, locked", True
        if self.wrong == "reset":
            self._position = 0
        return f"no {self._line()}", False

    def _score(self) -> float:
        if self.partial:
            return self._furthest / self.horizon
        return float(self._furthest == self.horizon)

    def _potential(self) -> float:
        return self._position / self.horizon

    def _metrics(self) -> dict[str, float]:
        return {
            "success": float(self._furthest == self.horizon),
            "furthest": float(self._furthest),
            **{name: float(n) for name, n in self._counts.items()},
        }

    def _oracle(self, rng: np.random.Generator) -> Act:
        return lambda observation: self.letter

    def _random(self, rng: np.random.Generator) -> Act:
        return lambda observation: string.ascii_lowercase[rng.integers(self.symbols)]

    def _expert(self, rng: np.random.Generator) -> Act:
        def act(observation: str) -> str:
            if rng.random() >= self.expert_error:
                return self.letter
            right = string.ascii_lowercase.index(self.letter)
            return string.ascii_lowercase[
                (right + int(rng.integers(1, self.symbols))) % self.symbols
            ]

        return act

    scripted: ClassVar[Mapping[str, Callable[[Any, np.random.Generator], Act]]] = {
        "random": _random,
        "oracle": _oracle,
        "expert": _expert,
    }
