"""Tournaments: who meets whom, and what the margins of the matches make of it. Pure.

A topology is a generator. It yields the pairs of a round, is sent their margins, and returns the
standing; so all judge calls of a round can run at once, whoever judges.

    course = round_robin(8, rng)
    pairs = next(course)                 # [M, 2]
    while True:
        try:
            pairs = course.send(margins_of(pairs))
        except StopIteration as end:
            standing = end.value

`play` is that loop. Letters: N members, M matches of a round.

Rules of every topology: a group of one has no round, score 0 and rank 1, and a group of none is a
ValueError. A margin that is not finite is no verdict and enters no score. A member without any
verdict has no score and no rank (NaN). Where everything is a tie all scores are equal, exactly.
Random choices come from the generator alone; who is which number decides nothing.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from rlagents.types import FloatArray, IntArray

ROUNDING = 1e-6
"""Of the spread of fitted values; theirs is below 1e-7."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Match:
    """One comparison of two members."""

    first: int
    second: int
    margin: float
    """Positive: the first is better; 0 is a tie; NaN: no verdict."""
    round: int
    """From 0."""
    part: str = ""
    """Of the bracket: `seeding`, `winners`, `losers`, `final`; empty where there is none."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Standing:
    """What a tournament comes to."""

    scores: FloatArray
    """[N] the more the better; NaN for a member none of whose matches has a verdict."""
    ranks: FloatArray
    """[N] from 1, the best; members with equal scores share the mean of their places."""
    matches: tuple[Match, ...]
    """All of them, in the order of the rounds: the bracket."""

    @property
    def comparisons(self) -> int:
        """Matches that were asked for."""
        return len(self.matches)


Course = Generator[IntArray, FloatArray, Standing]
"""Yields pairs [M, 2], is sent margins [M]; those of `active.TAKES_TOTALS` also margins and totals
[M, 2], where a total is what the judge gave both together."""
Topology = Callable[[int, np.random.Generator], Course]
"""(number of members, randomness) -> a course."""


def play(course: Course, judge: Callable[[IntArray], FloatArray]) -> Standing:
    """Plays a course to its end; `judge` takes pairs [M, 2] and gives margins [M]."""
    try:
        pairs = next(course)
        while True:
            pairs = course.send(judge(pairs))
    except StopIteration as end:
        return end.value


def round_robin(size: int, rng: np.random.Generator) -> Course:
    """Everyone against everyone, at once: N(N-1)/2 matches.

    Score: wins and half the ties, over the verdicts one has.
    """
    del rng
    check_size(size)
    matches: list[Match] = []
    if size > 1:
        pairs = [(first, second) for first in range(size) for second in range(first + 1, size)]
        matches = yield from held(pairs, 0)
    return standing_of(win_shares(matches, size), matches)


def anchor(size: int, rng: np.random.Generator, *, member: int | None = None) -> Course:
    """Everyone against one member, at once: N-1 matches. ArenaRL, arXiv 2601.06487.

    Score: the margin against the anchor, whose own score is 0. The released code ranks raw marks
    out of different calls, so that what a call is too generous by decides; a margin has none of it.

    Args:
        member: the anchor; None draws it.

    Raises:
        ValueError: where there is no such member.
    """
    check_size(size)
    if member is not None and not 0 <= member < size:
        raise ValueError(f"anchor: expected a member from 0 to {size - 1}, got {member}")
    chosen = int(rng.integers(size)) if member is None else member
    matches: list[Match] = []
    if size > 1:
        others = [other for other in range(size) if other != chosen]
        matches = yield from held([(other, chosen) for other in others], 0)
    margins = mean_margins(matches, size)
    if decided(matches):
        margins[chosen] = 0
    return standing_of(margins, matches)


def check_size(size: int) -> None:
    """ValueError for fewer than one member."""
    if size < 1:
        raise ValueError(f"a tournament: expected 1 member or more, got {size}")


def held(
    pairs: Sequence[tuple[int, int]], number: int, parts: str | Sequence[str] = ""
) -> Generator[IntArray, FloatArray, list[Match]]:
    """Asks for one round (`yield from` it) and returns its matches.

    Args:
        pairs: M pairs of members.
        number: of the round.
        parts: of the bracket, of all matches or of each.

    Raises:
        ValueError: where other than M margins come back.
    """
    margins = np.asarray((yield np.array(pairs, np.int32)), np.float32)
    if margins.shape != (len(pairs),):
        raise ValueError(f"margins: expected shape {(len(pairs),)}, got {margins.shape}")
    names = [parts] * len(pairs) if isinstance(parts, str) else parts
    return [
        Match(
            first=first,
            second=second,
            margin=margin if math.isfinite(margin) else math.nan,
            round=number,
            part=part,
        )
        for (first, second), margin, part in zip(pairs, margins.tolist(), names, strict=True)
    ]


def decided(matches: Iterable[Match]) -> list[Match]:
    """The matches with a verdict, ties included."""
    return [match for match in matches if not math.isnan(match.margin)]


def points(margin: float) -> float:
    """Of the first: 1 for a win, half of one for a tie."""
    return 0.5 * (1 + (margin > 0) - (margin < 0))


def member_means(
    matches: Iterable[Match], size: int, values: Callable[[Match], tuple[float, float]]
) -> NDArray[np.float64]:
    """[N] mean of what a member got out of its matches with a verdict; NaN without one.

    Exactly rounded sums: members with the same values are equal, in whatever order they got them.

    Args:
        values: of a match, for its first and its second.
    """
    got: list[list[float]] = [[] for _ in range(size)]
    for match in decided(matches):
        first, second = values(match)
        got[match.first].append(first)
        got[match.second].append(second)
    return np.array([math.fsum(mine) / len(mine) if mine else math.nan for mine in got])


def win_shares(matches: Iterable[Match], size: int) -> NDArray[np.float64]:
    """[N] wins and half the ties over the verdicts; NaN without one."""
    return member_means(matches, size, lambda m: (points(m.margin), points(-m.margin)))


def mean_margins(matches: Iterable[Match], size: int) -> NDArray[np.float64]:
    """[N] mean of one's margins; NaN without a verdict."""
    return member_means(matches, size, lambda m: (m.margin, -m.margin))


def ranks_of(values: NDArray[np.floating]) -> FloatArray:
    """[N] places from 1, the greatest value; equal ones share their mean place; NaN stays NaN."""
    ranks = np.full(len(values), np.nan, np.float32)
    known = values[~np.isnan(values)]
    _, block, sizes = np.unique(-known, return_inverse=True, return_counts=True)
    last = np.cumsum(sizes)
    ranks[~np.isnan(values)] = (last - (sizes - 1) / 2)[block.ravel()]
    return ranks


def quantiles(ranks: FloatArray) -> FloatArray:
    """[N] 1 - (rank - 1)/(n - 1) over the n members with a rank: 1 the best, 0 the last.

    Of one rank alone it is 0; NaN stays NaN.
    """
    count = int(np.count_nonzero(~np.isnan(ranks)))
    if count < 2:
        return ranks - ranks
    return (1 - (ranks - 1) / np.float32(count - 1)).astype(np.float32)


def standing_of(scores: NDArray[np.floating], matches: Sequence[Match]) -> Standing:
    """The standing by scores [N], which are kept for members with a verdict only."""
    kept = np.full(len(scores), np.nan, np.float32)
    seen = _seen(matches)
    kept[seen] = scores[seen]
    if len(scores) == 1:
        kept[0] = 0
    return Standing(scores=kept, ranks=ranks_of(kept), matches=tuple(matches))


def standing_by_keys(keys: Sequence[tuple[float, ...]], matches: Sequence[Match]) -> Standing:
    """The standing by keys [N], the greater the better; scores are `quantiles` of the ranks.

    The keys of members without a verdict are not looked at.
    """
    seen = _seen(matches)
    order = {key: place for place, key in enumerate(sorted({keys[member] for member in seen}))}
    places = np.zeros(len(keys))
    places[seen] = [order[keys[member]] for member in seen]
    standing = standing_of(places, matches)
    return replace(standing, scores=quantiles(standing.ranks))


def with_verdicts(standing: Standing, least: float) -> Standing:
    """The standing of the members with a verdict in a share `least` of their matches or more.

    The others have no score and no rank: who could make a judge fall silent whenever it is about to
    lose would else be judged by its wins. Their matches stay: they say something of the others.
    """
    size = len(standing.scores)
    asked, known = np.zeros((2, size))
    for match in standing.matches:
        for member in (match.first, match.second):
            asked[member] += 1
            known[member] += not math.isnan(match.margin)
    scores = np.where(known < least * asked, np.float32(np.nan), standing.scores)
    return replace(standing, scores=scores, ranks=ranks_of(scores))


def evened(values: NDArray[np.floating], *, error: float = 0.0) -> NDArray[np.float64]:
    """Values [N] of which those are equal that rounding parts: each has the mean of its like.

    Sorted, two neighbours are alike when they differ by at most `ROUNDING` of the whole spread, or
    by `error`. Ranks, and a division by the group's deviation, would blow such differences up. NaN
    stays NaN.
    """
    even = np.array(values, np.float64)
    known = np.flatnonzero(~np.isnan(even))
    if len(known) < 2:
        return even
    order = known[np.argsort(even[known])]
    steps = np.diff(even[order])
    apart = steps > max(ROUNDING * steps.sum(), error)
    for like in np.split(order, np.flatnonzero(apart) + 1):
        even[like] = math.fsum(even[like]) / len(like)
    return even


def _seen(matches: Iterable[Match]) -> list[int]:
    """The members with a verdict."""
    return sorted({member for match in decided(matches) for member in (match.first, match.second)})
