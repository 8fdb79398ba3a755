"""The Swiss system: each round everyone meets someone who did about as well so far. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import count

import numpy as np
from numpy.typing import NDArray

from rlagents.algos.tournaments import (
    Course,
    Match,
    check_size,
    decided,
    held,
    mean_margins,
    member_means,
    points,
    standing_by_keys,
    win_shares,
)

SEARCH = 2_000
"""Steps of the search for pairs without a rematch, after which it lets one be. There are such pairs
while each of n who play has n/2 or more of them left to meet (Dirac 1952): with the rounds of the
default for N = 8 and above 9."""


def swiss(size: int, rng: np.random.Generator, *, rounds: int = 0) -> Course:
    """floor(N/2) matches a round, between neighbours in points who have not met.

    Order: points over verdicts (a win 1, a tie 1/2); then the performance, which is the mean over
    one's matches of margin plus the opponent's mean margin: Buchholz's idea, in margins. (Kendall's
    tau at N = 16, quality of deviation 1: .90 with exact margins, .69 with noise of deviation 1 on
    each; by Buchholz points .87 and .64.) Score: the quantile of the rank.

    Pairs: by points, the lot among equals, each with the nearest not met; a rematch only where the
    search finds nothing else, and nobody rests once more before all have. In an odd group the last
    of those rests: a point for the pairing, nothing for the standing. Undefeated members have not
    met, so they meet each other, and after ceil(log2 N) rounds of a judge who is never wrong one
    of them is left, the best.

    The released code of ArenaRL shuffles the members in place and then looks them up by number,
    so points go to others than who won them.

    Args:
        rounds: 0 is `swiss_rounds`; more than all can meet in brings rematches.

    Raises:
        ValueError: for a negative number of rounds.
    """
    check_size(size)
    if rounds < 0:
        raise ValueError(f"rounds: expected 0 or more, got {rounds}")
    earned, played, rests = np.zeros((3, size))
    met = np.zeros((size, size), np.int64)
    matches: list[Match] = []
    for number in range(swiss_rounds(size, rounds)):
        shares = np.where(played > 0, earned / np.maximum(played, 1), 0.5)
        order = sorted(rng.permutation(size).tolist(), key=lambda member: -shares[member])
        pairs, idle = _pairs_and_rest(order, rests, met)
        fresh = yield from held(pairs, number)
        for match in decided(fresh):
            earned[match.first] += points(match.margin)
            earned[match.second] += points(-match.margin)
            played[[match.first, match.second]] += 1
        for first, second in pairs:
            met[[first, second], [second, first]] += 1
        for counts in (earned, played, rests):
            counts[idle] += 1
        matches += fresh
    margins = mean_margins(matches, size)
    performances = member_means(
        matches, size, lambda m: (m.margin + margins[m.second], margins[m.first] - m.margin)
    )
    keys = zip(win_shares(matches, size).tolist(), performances.tolist(), strict=True)
    return standing_by_keys(list(keys), matches)


def swiss_rounds(size: int, rounds: int = 0) -> int:
    """The number wanted; for 0 it is ceil(log2 N) + 1, and no more than all need to meet once."""
    if size < 2:
        return 0
    return rounds or min((size - 1).bit_length() + 1, size - 1 + size % 2)


def _pairs_and_rest(
    order: Sequence[int], rests: NDArray[np.floating], met: NDArray[np.int64]
) -> tuple[list[tuple[int, int]], list[int]]:
    """The pairs of a round, and who rests.

    Args:
        order: members, the best first.
        rests: [N] how often each has rested: nobody once more before all others have.
        met: [N, N] how often two have met: as few rematches of the same two as can be.
    """
    idlers: list[list[int]] = [[]]
    if len(order) % 2:
        idlers = [[member] for member in reversed(order) if rests[member] == rests.min()]
    for limit in count():
        for idle in idlers:
            playing = [member for member in order if member not in idle]
            found = _paired(playing, met, limit, iter(range(SEARCH)))
            if found is not None:
                return found, idle
    raise AssertionError("unreachable: some limit allows every pair")


def _paired(
    order: Sequence[int], met: NDArray[np.int64], limit: int, steps: Iterator[int]
) -> list[tuple[int, int]] | None:
    """Each with the nearest it has met least, at most `limit` times; None: no such pairs found."""
    if not order:
        return []
    if next(steps, None) is None:
        return None
    first, *rest = order
    for second in sorted(rest, key=lambda member: met[first, member]):
        if met[first, second] > limit:
            break
        others = [member for member in rest if member != second]
        found = _paired(others, met, limit, steps)
        if found is not None:
            return [(first, second), *found]
    return None
