"""How a history longer than the window becomes contexts: pinned prefix, overlap, whole turns.

Source: the splitting of KLong (arXiv 2602.17547) read as a sliding window. The paper's progressive
truncation and overlap size are not public, and it does not say whether overlapped actions count
twice; here each action is trained exactly once, in the context it was (or would be) sampled in.

Sizes are in tokens. A turn's *opening* is its observation up to where the action starts; its
*body* is opening, action and what closes the action. A context holds

    head | bodies of the pinned first turns | bodies of repeated turns | turns of its own

and before each turn the question is the same, online and offline: does its opening, with `reserve`
tokens for the action, still fit? If not, `repeat_from` says how a fresh context begins.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Chunk:
    """One context: after head and pinned turns it repeats [repeat, start), owns [start, stop)."""

    repeat: int
    start: int
    stop: int


def fits(used: int, opening: int, *, reserve: int, window: int) -> bool:
    """Whether a turn still fits: `used + opening + reserve <= window`."""
    return used + opening + reserve <= window


def repeat_from(
    bodies: Sequence[int],
    opening: int,
    *,
    head: int,
    reserve: int,
    pinned: int,
    window: int,
    overlap: int,
) -> int | None:
    """First turn that a fresh context repeats, before the turn that is about to come.

    The latest whole turns that add up to at most `overlap` tokens are repeated, fewer where the
    window has no room for them.

    Args:
        bodies: [N] sizes of all turns so far.
        opening: size of the coming turn's opening.
        head: tokens before the first turn.
        reserve: tokens kept free for the coming action.
        pinned: number of first turns that start every context.
        window: most tokens of a context.
        overlap: most tokens repeated.

    Returns:
        An index in [pinned, N]; N repeats nothing. None where even that does not fit: the pinned
        prefix leaves no room (P >= W), or the turn is larger than a window.
    """
    if len(bodies) < pinned:
        return None
    room = window - head - sum(bodies[:pinned]) - opening - reserve
    if room < 0:
        return None
    first, repeated = len(bodies), 0
    while first > pinned and repeated + bodies[first - 1] <= min(overlap, room):
        first -= 1
        repeated += bodies[first]
    return first


def chunk(
    openings: Sequence[int],
    bodies: Sequence[int],
    *,
    head: int,
    reserve: int,
    pinned: int,
    window: int,
    overlap: int,
) -> list[Chunk]:
    """Cut a whole history.

    For turns of one token and a reserve of one this has a closed form: with P = head + pinned,
    W = window - P and T turns after the pinned ones, K = 1 + ceil(max(0, T - W) / (W - O)).

    Args:
        openings: [N] size of each turn up to its action.
        bodies: [N] size of each whole turn, at least its opening.

    Raises:
        ValueError: when a turn can't fit, naming it, or sizes do not match.
    """
    if len(openings) != len(bodies):
        raise ValueError(f"openings [{len(openings)}] and bodies [{len(bodies)}] must match")
    chunks: list[Chunk] = []
    repeat = start = 0
    used = head
    for turn, opening in enumerate(openings):
        if not fits(used, opening, reserve=reserve, window=window):
            first = repeat_from(
                bodies[:turn],
                opening,
                head=head,
                reserve=reserve,
                pinned=pinned,
                window=window,
                overlap=overlap,
            )
            if first is None:
                raise ValueError(
                    f"turn {turn} ({opening} tokens and {reserve} for its action) does not fit "
                    f"into the window of {window} behind {pinned} pinned turns"
                )
            chunks.append(Chunk(repeat, start, turn))
            repeat, start = first, turn
            used = head + sum(bodies[:pinned]) + sum(bodies[first:turn])
        used += bodies[turn]
    if openings:
        chunks.append(Chunk(repeat, start, len(openings)))
    return chunks
