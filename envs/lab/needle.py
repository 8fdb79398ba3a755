"""`rlagents/Needle-v0`: a fact hidden in a text that is longer than any window."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import cache
from itertools import product
from typing import Any, ClassVar

import numpy as np

from rlagents.envs.lab.base import MAX_HORIZON, Act, LabEnv, real, whole

LARGEST = 10_000_000
"""Characters of a text."""
_WHO = ("the clerk", "a sailor", "the miller", "my aunt", "a guard", "the cook", "a pilot", "Ada")
_DID = ("counted", "sold", "lost", "painted", "borrowed", "found", "carried", "hid")
_WHAT = ("12 crates", "a red boat", "9 lamps", "the old map", "40 ropes", "a bell", "3 keys", "tea")
_WHERE = ("in the yard", "at noon", "by the mill", "last May", "on pier 7", "in town", "up north")
_CODE = re.compile(r"\d{5}")
_QUESTION = re.compile(r"Code of vault (\d+)\?\s*$")
_ASKED = re.compile(r"(\d+)\? (.*)", re.DOTALL)
_SHOWN, _PIECE = 128, 140
"""Characters that `truncated` reads at either end, and that `calls` has read a call."""


@cache
def _filler() -> tuple[str, ...]:
    return tuple(f"{' '.join(words)}\n" for words in product(_WHO, _DID, _WHAT, _WHERE))


class Needle(LabEnv):
    """Find the codes of `horizon` vaults, each told in one line of a long text.

    The first observation is a text of `characters` characters and a few more, lines such as `my
    aunt lost 9 lamps at noon` and, anywhere between them, `the code of vault 123 is 48213` for each
    vault that will be asked about; then, as the last line, the first question, `Code of vault
    123?`. The answer is the code, five digits; each answer, right or wrong, is followed by the next
    question. Anything else is answered `bad` and the question again, and costs its turn.

    Score: right codes divided by `horizon`, paid when given. The text is shown once: what it says
    can be kept only outside of the window (`context.strategy: recursive`).

    Known scores: oracle 1, random 1 / 90,000. `recursive` writes code for the REPL that searches
    `context`; `calls` lets the policy read it, a piece a call, and needs characters / 140 calls.
    Both score 1, and answer at once where they see the line. `expert` is `recursive` with a wrong
    last digit with probability `expert_error`. `truncated` answers from what it is shown, at most
    the first and the last 128 characters, and guesses otherwise: about 256 / characters.
    """

    known_scores: ClassVar[Mapping[str, float]] = {
        "random": 1 / 90_000,
        "oracle": 1.0,
        "expert": 0.9,
        "recursive": 1.0,
        "calls": 1.0,
        "truncated": 256 / 200_000,
    }
    windowed: ClassVar[tuple[str, ...]] = ("expert", "recursive", "calls", "truncated")

    def __init__(
        self,
        horizon: int = 1,
        characters: int = 200_000,
        turns: int | None = None,
        expert_error: float = 0.1,
    ) -> None:
        """Make the environment.

        Args:
            horizon: number of questions.
            characters: length of the text, rounded up to whole lines, beside the codes.
            turns: turn budget; unset: twice the horizon.
            expert_error: probability that the expert's answer is wrong.

        Raises:
            ValueError: naming the argument that is out of its range.
        """
        self.horizon = whole("horizon", horizon, 1, MAX_HORIZON)
        self.characters = whole("characters", characters, 100, LARGEST)
        self.expert_error = real("expert_error", expert_error, 0, 1)
        budget = 2 * self.horizon if turns is None else turns
        super().__init__(
            turns=whole("turns", budget, self.horizon, 100 * MAX_HORIZON),
            observation_limit=self.characters + 100 + 50 * self.horizon,
        )

    def _draw(self) -> str:
        lines = _filler()
        shortest = min(map(len, lines))
        drawn = self.rng.integers(len(lines), size=self.characters // shortest + 1).tolist()
        text, size = [], 0
        for number in drawn:
            if size >= self.characters:
                break
            text.append(lines[number])
            size += len(lines[number])
        names = 100 + self.rng.choice(max(900, 2 * self.horizon), self.horizon, replace=False)
        self._vaults: list[int] = names.tolist()
        self._codes = [str(code) for code in self.rng.integers(10_000, 100_000, size=self.horizon)]
        places = np.sort(self.rng.integers(len(text) + 1, size=self.horizon)).tolist()
        order = self.rng.permutation(self.horizon).tolist()
        for place, asked in reversed(list(zip(places, order, strict=True))):
            text.insert(place, f"the code of vault {self._vaults[asked]} is {self._codes[asked]}\n")
        self._asked = self._right = 0
        self._counts = dict.fromkeys(("wrong", "invalid"), 0)
        return "".join(text) + self._line()

    def _line(self) -> str:
        return f"Code of vault {self._vaults[self._asked]}?"

    def _answer(self, action: str) -> tuple[str, bool]:
        if not _CODE.fullmatch(action):
            self._counts["invalid"] += 1
            return f"bad\n{self._line()}", False
        right = action == self._codes[self._asked]
        self._right += right
        self._counts["wrong"] += not right
        self._asked += 1
        return ("done", True) if self._asked == self.horizon else (self._line(), False)

    def _score(self) -> float:
        return self._right / self.horizon

    def _potential(self) -> float:
        return min(self.horizon - self._asked, self.turns - self._turn) / self.horizon

    def _metrics(self) -> dict[str, float]:
        return {
            "right": float(self._right),
            **{name: float(n) for name, n in self._counts.items()},
        }

    def _oracle(self, rng: np.random.Generator) -> Act:
        return lambda observation: self._codes[self._asked]

    def _random(self, rng: np.random.Generator) -> Act:
        return lambda observation: _guess(rng)

    def _expert(self, rng: np.random.Generator) -> Act:
        return _player(_search, rng, self.expert_error)

    def _recursive(self, rng: np.random.Generator) -> Act:
        return _player(_search, rng)

    def _calls(self, rng: np.random.Generator) -> Act:
        return _player(_read, rng)

    def _truncated(self, rng: np.random.Generator) -> Act:
        def act(observation: str) -> str:
            question = _QUESTION.search(observation)
            shown = f"{observation[:_SHOWN]}\n{observation[-_SHOWN:]}"
            return (_code_in(shown, question[1]) if question else None) or _guess(rng)

        return act

    scripted: ClassVar[Mapping[str, Callable[[Any, np.random.Generator], Act]]] = {
        "random": _random,
        "oracle": _oracle,
        "expert": _expert,
        "recursive": _recursive,
        "calls": _calls,
        "truncated": _truncated,
    }


def _guess(rng: np.random.Generator) -> str:
    return str(rng.integers(10_000, 100_000))


def _code_in(text: str, vault: str) -> str | None:
    found = re.search(rf"vault {vault} is (\d{{5}})", text)
    return found[1] if found else None


def _search(vault: str) -> list[str]:
    """Blocks of code that find the line."""
    return [f">>>print(context.split('vault {vault} is ')[1][:5])"]


def _read(vault: str) -> list[str]:
    """Blocks of code that have every piece read; the pieces overlap by more than a code's line."""
    return [
        f">>>c=context;p=[c[i:i+{_PIECE + 30}]for i in range(0,len(c),{_PIECE})]",
        f">>>r=llm_query_batched(['{vault}? '+x for x in p])",
        ">>>print(*[x for x in r if x!='no'][:1])",
    ]


def _player(
    blocks_for: Callable[[str], list[str]], rng: np.random.Generator, error: float = 0.0
) -> Act:
    """Answers from what it has been shown, else from what blocks of code print in the end.

    Args:
        blocks_for: vault -> blocks.
        error: probability that the last digit of an answer is wrong.
    """
    longest, blocks = "", []

    def act(observation: str) -> str:
        nonlocal longest, blocks
        if asked := _ASKED.fullmatch(observation):
            return _code_in(asked[2], asked[1]) or "no"
        code = observation.strip()
        if question := _QUESTION.search(observation):
            longest = max(longest, observation, key=len)
            found = _code_in(observation, question[1]) or _code_in(longest, question[1])
            code, blocks = (found, []) if found else ("", blocks_for(question[1]))
        if blocks:
            return blocks.pop(0)
        if rng.random() < error and _CODE.fullmatch(code):
            return code[:-1] + str((int(code[-1]) + int(rng.integers(1, 10))) % 10)
        return code

    return act
