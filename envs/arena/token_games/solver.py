"""`rlagents/TokenSolver-v0`: the solver's half of a duel alone, on puzzles of one family."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Literal

import numpy as np

from rlagents.envs.arena.token_games.grammar import DRAWS, LONGEST, SIZES, Puzzle, search
from rlagents.envs.lab.base import MAX_HORIZON, Act, LabEnv, choice, flag, real, whole

_RULES = {
    "congruence": "Solve modulo the number after %: 3x+4=2%7 has the answer 4.\n",
    "word": "Write the word of so many letters of abcd: ^starts $ends +contains -lacks.\n",
    "subset": "Which of the numbers have the sum in front? 12=3,5,7,9 has the answer 3,9.\n",
}


_LEAST = {"congruence": 5}
"""Below this, one of the two parts has no puzzles or next to none."""


class TokenSolver(LabEnv):
    """Solve `horizon` puzzles of one family of TokenGames, one answer each.

    An observation is a statement, `3x+4=2%7`; whatever is answered, the next puzzle follows. A
    puzzle is `size` large: the modulus, the letters of the word, or how many numbers there are.

    No puzzle is both trained on and held out. Of the puzzles, told apart by what they ask and not
    by how they are written (`Puzzle.key`), a quarter is held out, by a digest of the key: odd seeds
    draw from that quarter and even seeds from the rest, and a run trains on even seeds and
    evaluates on odd ones. Without a seed they are training puzzles.

    Score: right answers divided by `horizon`, paid when given. Known scores: oracle 1. The random
    policy says any candidate; the expert is right with probability 1 - expert_error, or by luck
    where it guesses.
    """

    known_scores: ClassVar[Mapping[str, float]] = {"oracle": 1.0}

    def __init__(
        self,
        family: Literal["congruence", "word", "subset"] = "word",
        size: int = 3,
        horizon: int = 4,
        rules: bool = False,
        expert_error: float = 0.1,
    ) -> None:
        """Make the environment.

        Args:
            family: kind of puzzle.
            size: how large a puzzle is.
            horizon: number of puzzles.
            rules: explain the puzzles on the first observation.
            expert_error: probability that the expert guesses.

        Raises:
            ValueError: naming the argument that is out of its range.
        """
        self.family = choice("family", family, tuple(DRAWS))
        self.size = whole("size", size, _LEAST.get(self.family, 1), SIZES[self.family][1])
        self.horizon = whole("horizon", horizon, 1, MAX_HORIZON)
        self.rules = flag("rules", rules)
        self.expert_error = real("expert_error", expert_error, 0, 1)
        super().__init__(turns=self.horizon, observation_limit=200 + LONGEST)
        self._held_out = False

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[str, dict[str, Any]]:
        """Draw puzzles from the seed: held-out ones for an odd one.

        Raises:
            ValueError: for any option: there are none.
        """
        self._held_out = seed is not None and seed % 2 == 1
        return super().reset(seed=seed, options=options)

    def _draw(self) -> str:
        self._puzzles = [self._puzzle() for _ in range(self.horizon)]
        self._asked = self._right = 0
        return (_RULES[self.family] if self.rules else "") + self.puzzle.statement

    def _puzzle(self) -> Puzzle:
        while True:
            puzzle = DRAWS[self.family](self.rng, self.size)
            if is_held_out(puzzle) == self._held_out:
                return puzzle

    @property
    def puzzle(self) -> Puzzle:
        """The one that is asked now, or the last one."""
        return self._puzzles[min(self._asked, self.horizon - 1)]

    def _answer(self, action: str) -> tuple[str, bool]:
        self._right += self.puzzle.holds(action)
        self._asked += 1
        return ("done", True) if self._asked == self.horizon else (self.puzzle.statement, False)

    def _score(self) -> float:
        return self._right / self.horizon

    def _metrics(self) -> dict[str, float]:
        return {"solve_rate": self._right / self._asked} if self._asked else {}

    def _solution(self) -> str:
        found = search(self.puzzle)
        assert found is not None, f"drawn without a solution: {self.puzzle.statement}"
        return found[1]

    def _guess(self, rng: np.random.Generator) -> str:
        among = list(self.puzzle.candidates())
        return among[rng.integers(len(among))]

    def _oracle(self, rng: np.random.Generator) -> Act:
        return lambda observation: self._solution()

    def _random(self, rng: np.random.Generator) -> Act:
        return lambda observation: self._guess(rng)

    def _expert(self, rng: np.random.Generator) -> Act:
        def act(observation: str) -> str:
            return self._guess(rng) if rng.random() < self.expert_error else self._solution()

        return act

    scripted: ClassVar[Mapping[str, Callable[[Any, np.random.Generator], Act]]] = {
        "random": _random,
        "oracle": _oracle,
        "expert": _expert,
    }


def is_held_out(puzzle: Puzzle) -> bool:
    """Whether a puzzle belongs to the quarter that is not trained on."""
    return hashlib.sha256(puzzle.key.encode()).digest()[0] % 4 == 0
