"""Scripted players of duels: they search, and how far they search is how strong they are.

All they know is what they are shown: the same text as any other player.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from itertools import islice
from typing import Protocol

import numpy as np

from rlagents.envs.arena.seat import Act
from rlagents.envs.arena.token_games.grammar import (
    DRAWS,
    SIZES,
    Congruence,
    Puzzle,
    matched,
    parse,
    search,
)

BOUNDS = (4, 16, 64, 256, 1024)
"""Candidates that `solver4`, ..., `solver1024` look at, and how hard what they propose is."""
HARDEST = 4096
"""How hard what the oracle proposes is."""
_EXPERT = 16
_GUESSED = 64
_TRIES = 100
_TASK = re.compile(r"^[0-9]+/[0-9]+ (propose|solve)(?:[ \n](.*))?\Z", re.MULTILINE | re.DOTALL)
_PROGRAM = "def mystery(x):\n    return isinstance(x, int) and ({a} * x + {b}) % {m} == {c}"
_LINE = re.compile(r"\(([0-9]{1,4}) \* x \+ ([0-9]{1,4})\) % ([1-9][0-9]{0,3}) == ([0-9]{1,4})\Z")


class Rules(Protocol):
    """What a player must know of its game."""

    mode: str
    families: tuple[str, ...]
    expert_error: float


Factory = Callable[[Rules, str, np.random.Generator], Act]


def player(
    new: Callable[[Rules, np.random.Generator], tuple[Puzzle, str]],
    answer: Callable[[Puzzle, np.random.Generator], str | None],
    error: Callable[[Rules], float] = lambda rules: 0.0,
) -> Factory:
    """A player in either role and mode.

    Args:
        new: a puzzle and its witness; another one is asked for where it was seen before.
        answer: to a puzzle; None where it has none.
        error: probability that a witness or an answer is a guess instead.
    """

    def factory(rules: Rules, agent: str, rng: np.random.Generator) -> Act:
        seen: set[str] = set()

        def propose() -> str:
            for _ in range(_TRIES):
                puzzle, witness = new(rules, rng)
                if puzzle.key not in seen:
                    break
            seen.add(puzzle.key)
            if rng.random() < error(rules):
                witness = _guess(puzzle, rng)
            return _say(rules, puzzle, witness)

        def solve(statement: str) -> str:
            puzzle = _read(rules, statement)
            if puzzle is None:
                return "0"
            seen.add(puzzle.key)
            found = answer(puzzle, rng)
            return _guess(puzzle, rng) if rng.random() < error(rules) else found or "0"

        def act(observation: str) -> str:
            task = _TASK.search(observation)
            return solve(task[2] or "") if task and task[1] == "solve" else propose()

        return act

    return factory


def searcher(bound: int | None, error: Callable[[Rules], float] = lambda rules: 0.0) -> Factory:
    """A player that looks at `bound` candidates, in order, and answers the first that holds.

    It proposes what just that bound solves and half of it does not. So of two, the one with a bound
    at least twice as large solves every puzzle of the other and has none of its own solved.

    Args:
        bound: unset: all candidates; it then proposes what takes thousands.
        error: probability that a witness or an answer is a guess instead.
    """

    def answer(puzzle: Puzzle, rng: np.random.Generator) -> str | None:
        found = search(puzzle, bound)
        return found and found[1]

    return player(
        lambda rules, rng: matched(_family(rules, rng), rng, bound or HARDEST), answer, error
    )


def _random_puzzle(rules: Rules, rng: np.random.Generator) -> tuple[Puzzle, str]:
    """A small puzzle with a guess for a witness."""
    family = _family(rules, rng)
    low, high = SIZES[family]
    puzzle = DRAWS[family](rng, int(rng.integers(low, min(high, 9) + 1)))
    return puzzle, _guess(puzzle, rng)


def _family(rules: Rules, rng: np.random.Generator) -> str:
    """One of the game's; in Python they all are congruences."""
    if rules.mode == "python":
        return "congruence"
    return rules.families[rng.integers(len(rules.families))]


def _guess(puzzle: Puzzle, rng: np.random.Generator) -> str:
    among = list(islice(puzzle.candidates(), _GUESSED))
    return among[rng.integers(len(among))]


def _say(rules: Rules, puzzle: Puzzle, witness: str) -> str:
    if rules.mode == "grammar":
        return f"{puzzle.statement};{witness}"
    assert isinstance(puzzle, Congruence)
    program = _PROGRAM.format(a=puzzle.a, b=puzzle.b, c=puzzle.c, m=puzzle.m)
    return f"{program}\nwitness: {witness}"


def _read(rules: Rules, statement: str) -> Puzzle | None:
    """The puzzle, where it is of a kind that scripts know."""
    if rules.mode == "grammar":
        return parse(statement)
    read = _LINE.search(statement)
    if read is None:
        return None
    a, b, m, c = map(int, read.groups())
    return Congruence(a=a, b=b, c=c, m=m)


SCRIPTED: Mapping[str, Factory] = {
    "random": player(_random_puzzle, _guess),
    "oracle": searcher(None),
    "expert": searcher(_EXPERT, lambda rules: rules.expert_error),
    **{f"solver{bound}": searcher(bound) for bound in BOUNDS},
}
