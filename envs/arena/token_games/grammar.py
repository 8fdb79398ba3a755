"""Puzzles of three small grammars: a statement is a short line, an answer a short word.

| family | statement | asks for | answer |
|---|---|---|---|
| congruence | `3x+4=2%7` | x with 3x + 4 = 2 modulo 7 | `4`, below 10,000 |
| word | `w3^a$b+cb-d` | 3 letters of a to d: a first, b last, cb in it, no d | `acb` |
| subset | `12=3,5,7,9` | numbers among these, each once, with the sum 12 | `3,9` |

Everything is read by regular expressions with bounds and checked by whole numbers of at most four
digits: nothing that a player writes is evaluated, and every puzzle has at most 9,999 candidates, in
an order that is the same for everybody. So the strength of a player who searches is the number of
candidates that it looks at.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import compress, islice, product
from typing import Protocol

import numpy as np

LETTERS = "abcd"
LONGEST_WORD = 6
MOST_NUMBERS = 12
LONGEST = 64
"""Characters of a statement or an answer."""

_CONGRUENCE = re.compile(r"([0-9]{1,4})x\+([0-9]{1,4})=([0-9]{1,4})%([1-9][0-9]{0,3})")
_WORD = re.compile(r"w([1-6])((?:[\^$+-][a-d]{1,3}){1,6})")
_CLAUSE = re.compile(r"([\^$+-])([a-d]+)")
_SUBSET = re.compile(r"([1-9][0-9]{0,3})=([1-9][0-9]{0,2}(?:,[1-9][0-9]{0,2}){0,11})")
_NUMBER = re.compile(r"[0-9]{1,4}")
_NUMBERS = re.compile(r"[0-9]{1,3}(?:,[0-9]{1,3}){0,11}")
_HOLDS: Mapping[str, Callable[[str, str], bool]] = {
    "^": str.startswith,
    "$": str.endswith,
    "+": str.__contains__,
    "-": lambda word, part: part not in word,
}


class Puzzle(Protocol):
    """What a statement says."""

    @property
    def statement(self) -> str:
        """The line that it is read from."""
        ...

    @property
    def key(self) -> str:
        """Equal for statements that ask the same in other words."""
        ...

    def holds(self, answer: str) -> bool:
        """Whether this answers it; False for what is no answer at all."""
        ...

    def candidates(self) -> Iterator[str]:
        """Possible answers, in the order in which a search takes them; at most 9,999."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Congruence:
    """Which x makes a*x + b = c modulo m?"""

    a: int
    b: int
    c: int
    m: int

    @property
    def statement(self) -> str:
        """`3x+4=2%7`."""
        return f"{self.a}x+{self.b}={self.c}%{self.m}"

    @property
    def key(self) -> str:
        """All but x on the right side: `3x=5%7`."""
        return f"{self.a % self.m}x={(self.c - self.b) % self.m}%{self.m}"

    def holds(self, answer: str) -> bool:
        """Whether a*x + b - c is a multiple of m."""
        read = _NUMBER.fullmatch(answer)
        return read is not None and (self.a * int(answer) + self.b - self.c) % self.m == 0

    def candidates(self) -> Iterator[str]:
        """0, 1, ..., m - 1."""
        return map(str, range(self.m))


@dataclass(frozen=True, slots=True, kw_only=True)
class Word:
    """Which word of this length keeps every clause?"""

    length: int
    clauses: tuple[tuple[str, str], ...]
    """Sign and letters: `^` starts with them, `$` ends with them, `+` has them, `-` has not."""

    @property
    def statement(self) -> str:
        """`w3^a$cb`."""
        return f"w{self.length}" + "".join(map("".join, self.clauses))

    @property
    def key(self) -> str:
        """Each clause once, sorted."""
        return f"w{self.length}" + "".join(map("".join, sorted(set(self.clauses))))

    def holds(self, answer: str) -> bool:
        """Whether it is such a word."""
        word = len(answer) == self.length and not answer.strip(LETTERS)
        return word and all(_HOLDS[sign](answer, part) for sign, part in self.clauses)

    def candidates(self) -> Iterator[str]:
        """All words of the length, as in a dictionary."""
        return map("".join, product(LETTERS, repeat=self.length))


@dataclass(frozen=True, slots=True, kw_only=True)
class Subset:
    """Which of the numbers have this sum?"""

    total: int
    numbers: tuple[int, ...]

    @property
    def statement(self) -> str:
        """`12=3,5,7,9`."""
        return f"{self.total}={','.join(map(str, self.numbers))}"

    @property
    def key(self) -> str:
        """With the numbers sorted."""
        return f"{self.total}={','.join(map(str, sorted(self.numbers)))}"

    def holds(self, answer: str) -> bool:
        """Whether they are among the numbers and have the sum."""
        if not _NUMBERS.fullmatch(answer):
            return False
        chosen = [int(number) for number in answer.split(",")]
        return sum(chosen) == self.total and Counter(chosen) <= Counter(self.numbers)

    def candidates(self) -> Iterator[str]:
        """Subsets in the order of binary numbers, the first number being the lowest digit."""
        for mask in range(1, 2 ** len(self.numbers)):
            bits = (mask >> place & 1 for place in range(len(self.numbers)))
            yield ",".join(map(str, compress(self.numbers, bits)))


def parse(statement: str) -> Puzzle | None:
    """The puzzle that a line states; None when it is no statement of any family."""
    if len(statement) > LONGEST:
        return None
    if read := _CONGRUENCE.fullmatch(statement):
        a, b, c, m = map(int, read.groups())
        return Congruence(a=a, b=b, c=c, m=m)
    if read := _WORD.fullmatch(statement):
        clauses = tuple((sign, part) for sign, part in _CLAUSE.findall(read[2]))
        return Word(length=int(read[1]), clauses=clauses)
    if read := _SUBSET.fullmatch(statement):
        return Subset(total=int(read[1]), numbers=tuple(map(int, read[2].split(","))))
    return None


def search(puzzle: Puzzle, bound: int | None = None) -> tuple[int, str] | None:
    """The first answer of the first `bound` candidates (unset: of all), and its place from 0."""
    for place, candidate in enumerate(islice(puzzle.candidates(), bound)):
        if puzzle.holds(candidate):
            return place, candidate
    return None


def congruence(rng: np.random.Generator, size: int) -> Congruence:
    """With modulus `size`, from 2 to 9,999, and a solution."""
    a = int(rng.integers(1, size))
    b, x = (int(n) for n in rng.integers(size, size=2))
    return Congruence(a=a, b=b, c=(a * x + b) % size, m=size)


def word(rng: np.random.Generator, size: int) -> Word:
    """Of length `size`, from 1 to 6: one to three clauses that a random word keeps."""
    hidden = "".join(LETTERS[i] for i in rng.integers(len(LETTERS), size=size))
    clauses = []
    for sign in rng.permutation(list(_HOLDS))[: rng.integers(1, 4)]:
        long = int(rng.integers(1, min(size, 3) + 1))
        start = {"^": 0, "$": size - long}.get(str(sign), int(rng.integers(size - long + 1)))
        part = hidden[start : start + long]
        if sign == "-":
            absent = [letter for letter in LETTERS if letter not in hidden]
            if not absent:
                continue
            part = absent[rng.integers(len(absent))]
        clauses.append((str(sign), part))
    return Word(length=size, clauses=tuple(clauses) or (("^", hidden[0]),))


def subset(rng: np.random.Generator, size: int) -> Subset:
    """Of `size` numbers, from 1 to 12, each from 1 to 99, some of which have the sum."""
    numbers = rng.integers(1, 100, size=size)
    mask = int(rng.integers(1, 2**size))
    total = sum(int(n) for place, n in enumerate(numbers) if mask >> place & 1)
    return Subset(total=total, numbers=tuple(int(n) for n in numbers))


DRAWS: Mapping[str, Callable[[np.random.Generator, int], Puzzle]] = {
    "congruence": congruence,
    "word": word,
    "subset": subset,
}
SIZES: Mapping[str, tuple[int, int]] = {
    "congruence": (2, 9_999),
    "word": (1, LONGEST_WORD),
    "subset": (1, MOST_NUMBERS),
}
"""Least and largest size of a family: modulus, letters, numbers."""


def matched(family: str, rng: np.random.Generator, bound: int) -> tuple[Puzzle, str]:
    """A puzzle that `bound` candidates solve and half as many do not, with its first answer.

    Args:
        family: of `DRAWS`.
        rng: the choice among such puzzles.
        bound: 4 to 4096.
    """
    while True:
        if family == "congruence":
            size = int(rng.integers(bound + 1, 2 * bound + 1))
        elif family == "word":  # with 4**size candidates
            size = (bound - 1).bit_length() + 1 >> 1
        else:  # with 2**size - 1
            size = bound.bit_length()
        puzzle = DRAWS[family](rng, min(size, SIZES[family][1]))
        found = search(puzzle, bound)
        if found is not None and found[0] >= bound // 2:
            return puzzle, found[1]
