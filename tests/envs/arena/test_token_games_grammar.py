from __future__ import annotations

from itertools import islice

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlagents.envs.arena.token_games.grammar import DRAWS, SIZES, matched, parse, search


@pytest.mark.parametrize(
    ("statement", "right", "wrong"),
    [
        ("3x+4=2%7", ["4", "11", "0004"], ["3", "", "x", "-3", "4.0", "\u0664", "00004", "1e9"]),
        ("0x+1=1%2", ["0", "1"], ["10000"]),
        ("w3^a$b+cb-d", ["acb"], ["abb", "acbb", "ACB", "adb", "a b", ""]),
        ("12=3,5,7,9", ["3,9", "5,7", "9,3"], ["12", "3,3,3,3", "6,6", "3,9,", "3, 9", "3;9"]),
        ("6=3,3", ["3,3"], ["6", "3"]),
    ],
)
def test_what_holds(statement: str, right: list[str], wrong: list[str]) -> None:
    # 3 * 4 + 4 = 16 = 2 * 7 + 2, 3 * 11 + 4 = 37 = 5 * 7 + 2
    puzzle = parse(statement)
    assert puzzle is not None and puzzle.statement == statement
    assert [puzzle.holds(answer) for answer in right] == [True] * len(right)
    assert [puzzle.holds(answer) for answer in wrong] == [False] * len(wrong)


@pytest.mark.parametrize(
    "statement",
    [
        *("", "3x+4=2%0", "x+4=2%7", "3x+4=2%10000", "3x+4=2%7\n", "\u0663x+4=2%7", "3**3x+4=2%7"),
        *("w0^a", "w7^a", "w3", "w3^e", "w3^", "w3^abcd"),
        *("0=3,5", "5=", "5=0", "12=" + ",".join("1" * 13), "a" * 10_000, "__import__('os')"),
    ],
)
def test_what_is_no_statement(statement: str) -> None:
    assert parse(statement) is None


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("3x+4=2%7", "10x+5=3%7", True),  # both 3x = 5 modulo 7
        ("3x+4=2%7", "3x+4=3%7", False),
        ("w3^a$b", "w3$b^a^a", True),
        ("12=3,5,7", "12=7,5,3", True),
        ("12=3,5,7", "12=3,5,7,7", False),
    ],
)
def test_equal_keys_ask_the_same(one: str, other: str, same: bool) -> None:
    first, second = parse(one), parse(other)
    assert first is not None and second is not None
    assert (first.key == second.key) is same


@given(family=st.sampled_from(sorted(DRAWS)), seed=st.integers(0, 2**32), share=st.floats(0, 1))
def test_what_is_drawn_can_be_stated_and_solved(family: str, seed: int, share: float) -> None:
    low, high = SIZES[family]
    size = low + round(share * (min(high, 9) - low))
    puzzle = DRAWS[family](np.random.default_rng(seed), size)
    assert parse(puzzle.statement) == puzzle
    found = search(puzzle)
    assert found is not None and puzzle.holds(found[1])
    assert len(list(islice(puzzle.candidates(), 10_000))) <= 9_999


@pytest.mark.parametrize("family", sorted(DRAWS))
@pytest.mark.parametrize("bound", [4, 16, 64, 256, 1024, 4096])
def test_a_matched_puzzle_is_just_within_reach(family: str, bound: int) -> None:
    for seed in range(3):
        puzzle, witness = matched(family, np.random.default_rng(seed), bound)
        assert parse(puzzle.statement) == puzzle and puzzle.holds(witness)
        assert search(puzzle, bound) is not None
        assert search(puzzle, bound // 2) is None


@given(st.text(max_size=80))
def test_any_text_is_read_without_an_exception(text: str) -> None:
    puzzle = parse(text)
    assert puzzle is None or puzzle.holds(text) in (True, False)
    known = parse("3x+4=2%7")
    assert known is not None and known.holds(text) in (True, False)
