"""Whom to meet: chances worked out by hand, and which versions stay."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlagents.algos.matchmaking import chances, kept

NONE = np.zeros(3, np.float32)


def test_uniform_and_recent() -> None:
    assert chances("uniform", NONE, NONE) == pytest.approx([1 / 3, 1 / 3, 1 / 3])
    assert chances("recent", NONE, NONE) == pytest.approx([1 / 6, 2 / 6, 3 / 6])


def test_prioritised_by_hand() -> None:
    # (w + 1) / (g + 2): 1/2 unmet, (8 + 1) / (8 + 2) = 0.9 beaten, (0 + 1) / (8 + 2) = 0.1 lost to.
    # (1 - share)^2: 0.25, 0.01 -> the floor 0.05, 0.81; together 1.11.
    wins, games = np.array([0, 8, 0], np.float32), np.array([0, 8, 8], np.float32)
    assert chances("prioritised", wins, games) == pytest.approx(
        [0.25 / 1.11, 0.05 / 1.11, 0.81 / 1.11]
    )


@pytest.mark.parametrize(
    ("wins", "games", "message"),
    [
        (np.zeros(0, np.float32), np.zeros(0, np.float32), "K >= 1"),
        (np.zeros(2, np.float32), np.zeros(3, np.float32), "K >= 1"),
        (np.array([2.0], np.float32), np.array([1.0], np.float32), "between 0 and games"),
    ],
)
def test_what_makes_no_sense_is_refused(wins: np.ndarray, games: np.ndarray, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        chances("uniform", wins, games)


def test_the_one_with_the_smallest_gap_leaves() -> None:
    # Gaps that 1, 2, 4, 8 leave behind: 2 - 0, 4 - 1, 8 - 2, 16 - 4.
    assert kept((0, 1, 2, 4, 8, 16), 5) == (0, 2, 3, 4, 5)
    assert kept((0, 1, 2), 3) == (0, 1, 2)
    with pytest.raises(ValueError, match="2 or more"):
        kept((0, 1), 1)


@given(st.lists(st.integers(0, 10_000), unique=True, max_size=30), st.integers(2, 12))
def test_first_and_last_always_stay(numbers: list[int], limit: int) -> None:
    steps = tuple(sorted(numbers))
    left = kept(steps, limit)
    assert len(left) == min(limit, len(steps))
    assert list(left) == sorted(set(left))
    if steps:
        assert (left[0], left[-1]) == (0, len(steps) - 1)
