"""Elimination brackets. Pure; rounds, matches and standings as in `tournaments`.

Who goes on: the winner. Without one (a tie, or no verdict) the greater *worth*, which is the margin
of the seeding phase or, where there is none, the mean margin so far; where that is equal too, the
lot. Whom only the lot put out shares the place of the one who went on, so that a group where
everything is a tie has one place.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from rlagents.algos.tournaments import (
    Course,
    Match,
    Standing,
    anchor,
    check_size,
    held,
    mean_margins,
    standing_by_keys,
)


def seeded_single_elimination(size: int, rng: np.random.Generator) -> Course:
    """An anchor phase seeds a knock-out bracket: (N-1) + (N-1) matches. ArenaRL, arXiv 2601.06487.

    The margin against an anchor, which is drawn, is a member's seed (unknown: the mean of the known
    ones). The top seeds have the byes and meet as late as they can. Order: the round of the exit,
    inside one the mean of all one's margins. Score: the quantile of the rank.

    Deviations from the released code: margins, not marks out of different calls, seed and rank; the
    byes stay in the bracket; an undecided match goes to the better seed, not to the slot.
    """
    check_size(size)
    seeding = yield from anchor(size, rng)
    matches = [replace(match, part="seeding") for match in seeding.matches]
    seeds = _filled(seeding.scores)
    exits = _Exits(worths=seeds)
    lot = rng.permutation(size)
    bracket = _drawn(sorted(range(size), key=lambda member: (-seeds[member], lot[member])))
    for number in range(1, len(bracket).bit_length()):
        played = yield from held(_meetings(bracket), number, "winners")
        bracket = _without(bracket, [exits.out(match) for match in played])
        matches += played
    return exits.standing(matches)


def double_elimination(size: int, rng: np.random.Generator) -> Course:
    """Out after two defeats, in random pairs: 2N-2 matches.

    All but one lose once in the winners' bracket (N-1 matches), all of those but one again in the
    losers' bracket (N-2), and that one meets the undefeated one once, in the grand final: whoever
    wins it is the champion.

    The winners' bracket is drawn by lot, its byes too. Each round also pairs, by lot, all who have
    one defeat by then; one left over is of those who have rested least. An undecided final leaves
    the undefeated one first. Order: the round of the exit, inside one the mean margin. Score: the
    quantile of the rank.
    """
    check_size(size)
    matches: list[Match] = []
    exits = _Exits(worths=np.zeros(size))
    upper = _drawn(rng.permutation(size).tolist())
    lower: list[int] = []
    rests = [0] * size
    number = 0
    while len(upper) > 1 or len(lower) > 1:
        above, below = _meetings(upper), _pairs_by_lot(lower, rests, rng)
        parts = ["winners"] * len(above) + ["losers"] * len(below)
        played = yield from held(above + below, number, parts)
        fallen = [exits.loser(match) for match in played[: len(above)]]
        gone = [exits.out(match) for match in played[len(above) :]]
        upper = _without(upper, fallen)
        lower = [member for member in lower if member not in gone] + fallen
        matches += played
        exits.worths = _filled(mean_margins(matches, size))
        number += 1
    for champion, challenger in zip(upper, lower, strict=False):  # nobody to meet in a group of one
        assert champion is not None
        final = yield from held([(champion, challenger)], number, "final")
        exits.out(final[0], holder=champion)
        matches += final
    return exits.standing(matches)


def bracket_order(slots: int) -> list[int]:
    """Seeds from 0 in the order of a bracket of `slots`, a power of two; neighbours meet first.

    Eight: 0 7 3 4 1 6 2 5. The best 2, 4, 8 .. seeds can't meet before so many are left.
    """
    order = [0]
    while len(order) < slots:
        order = [seed for old in order for seed in (old, 2 * len(order) - 1 - old)]
    return order


@dataclass(slots=True, kw_only=True)
class _Exits:
    """When each member went out, and who shares whose place."""

    worths: NDArray[np.floating]
    """[N] what decides where a match does not."""
    rounds: dict[int, int] = field(default_factory=dict)
    """Member -> round it went out in; who stays to the end is not here."""
    shares: dict[int, int] = field(default_factory=dict)
    """Member -> who went on in its stead by lot."""

    def loser(self, match: Match, holder: int | None = None) -> int:
        """Who does not go on; in doubt the holder does, the greater worth, the first (by lot)."""
        first, second = match.first, match.second
        if match.margin > 0:
            return second
        if match.margin < 0:
            return first
        if holder is not None:
            return first + second - holder
        return first if self.worths[second] > self.worths[first] else second

    def out(self, match: Match, holder: int | None = None) -> int:
        """Puts the loser out, and returns it."""
        loser = self.loser(match, holder)
        winner = match.first + match.second - loser
        self.rounds[loser] = match.round
        undecided = not abs(match.margin) > 0
        if undecided and self.worths[loser] == self.worths[winner]:
            self.shares[loser] = winner
        return loser

    def standing(self, matches: Sequence[Match]) -> Standing:
        """By the round of the exit, the later the better; in one round by the mean margin."""
        size = len(self.worths)
        inside = mean_margins(matches, size)
        keys: list[tuple[float, float]] = []
        for member in range(size):
            holder = member
            while holder in self.shares:
                holder = self.shares[holder]
            keys.append((self.rounds.get(holder, math.inf), float(inside[holder])))
        return standing_by_keys(keys, matches)


def _drawn(ranked: Sequence[int]) -> list[int | None]:
    """A bracket of members, the best first; None is a bye, and the best have them."""
    order = bracket_order(1 << (len(ranked) - 1).bit_length())
    return [ranked[seed] if seed < len(ranked) else None for seed in order]


def _meetings(bracket: Sequence[int | None]) -> list[tuple[int, int]]:
    """The matches of the next round of a bracket."""
    neighbours = zip(bracket[::2], bracket[1::2], strict=False)
    return [(a, b) for a, b in neighbours if a is not None and b is not None]


def _without(bracket: Sequence[int | None], losers: Sequence[int]) -> list[int | None]:
    """The bracket after a round: of every two neighbours the one who goes on."""
    if len(bracket) == 1:
        return list(bracket)
    stay = [None if member in losers else member for member in bracket]
    return [b if a is None else a for a, b in zip(stay[::2], stay[1::2], strict=True)]


def _pairs_by_lot(
    members: Sequence[int], rests: list[int], rng: np.random.Generator
) -> list[tuple[int, int]]:
    """Random pairs; one left over has rested least, and `rests` counts it."""
    drawn = [members[place] for place in rng.permutation(len(members))]
    if len(drawn) % 2:
        idle = min(drawn, key=lambda member: rests[member])
        rests[idle] += 1
        drawn.remove(idle)
    return list(zip(drawn[::2], drawn[1::2], strict=True))


def _filled(values: NDArray[np.floating]) -> NDArray[np.floating]:
    """The mean of the known ones for those that are not; 0 where none is."""
    known = values[~np.isnan(values)].tolist()
    return np.where(np.isnan(values), math.fsum(known) / max(1, len(known)), values)
