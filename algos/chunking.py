"""How a history longer than the window becomes contexts: pinned, overlapping, whole turns.

No framework that we know of trains on such contexts, and the one paper that describes them leaves
their rules open, so this is the definition that everything else here refers to.

    history   observation, action, observation, action, ...; sizes in tokens
    opening   of a turn: its observation and what surrounds it, up to where the action begins
    body      of a turn: opening, action, and what closes the action
    context   head | bodies of the pinned first turns | bodies of repeated turns | turns of its own

1. *Whole turns.* A context is cut between turns only.
2. *Cut when full.* Before each turn one question decides, online and offline: does its opening,
   with `reserve` tokens for the action, still fit into the window (`fits`)? If not, a fresh context
   begins with this turn.
3. *Pinned prefix.* Every fresh context begins with the head and the first `pinned` turns.
4. *Overlap.* It then repeats the latest whole turns that add up to at most `overlap` tokens, fewer
   where the window has no room for them (`repeat_from`), and none that is pinned.
5. *Once.* Every turn is owned by exactly one context, the one it was, or would be, sampled in, and
   its action is trained there and nowhere else. What a context repeats is read, not trained.
   Training it again is an option of supervised training alone: a sampled action has the
   log-probability of its own context, and in no other does a ratio mean anything.

Rollouts and the splitting of demonstrations ask the same functions, so that a policy is trained on
contexts cut as those it will play in. Where one window holds the whole history there is one context
that owns all of it, and its loss is that of the whole sequence.

Source: the trajectory splitting of KLong (arXiv 2602.17547). Its text gives a pinned early part,
windows that overlap, and "progressive truncation" of what lies between; it gives neither the
overlap's size nor the rule of truncation, and does not say whether overlapped actions count twice.
We read it as a sliding window. `progressive` is our reading of the truncation: the n-th cut repeats
overlap / n. Rule 5 is ours.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

Truncation = Literal["sliding", "progressive"]
"""How much a fresh context repeats: see `overlap_at`."""


@dataclass(frozen=True, slots=True)
class Chunk:
    """One context: after head and pinned turns it repeats [repeat, start), owns [start, stop)."""

    repeat: int
    start: int
    stop: int


def overlap_at(context: int, overlap: int, truncation: Truncation = "sliding") -> int:
    """Tokens that context number `context` (0, 1, ...) may repeat of the one before, at most.

    `sliding`: `overlap` at every cut. `progressive`: overlap // context, less and less of what is
    behind, our reading of KLong's progressive truncation, whose rule is not public.
    """
    if context == 0:
        return 0
    return overlap if truncation == "sliding" else overlap // context


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
    truncation: Truncation = "sliding",
) -> list[Chunk]:
    """Cut a whole history. For turns of one token `segment_count` says into how many.

    Args:
        openings: [N] size of each turn up to its action.
        bodies: [N] size of each whole turn, at least its opening.
        head: tokens before the first turn; `reserve` and the others as in `repeat_from`.
        truncation: how much later contexts repeat (`overlap_at`).

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
                overlap=overlap_at(len(chunks) + 1, overlap, truncation),
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


def segment_count(
    rest: int, *, prefix: int, window: int, overlap: int, truncation: Truncation = "sliding"
) -> int:
    """How many contexts a history of one-token turns becomes.

    With W = window - prefix tokens beside the prefix, context n = 1, 2, ... repeats
    O_n = `overlap_at(n)` and owns W - O_n; the first owns W. `sliding`, where all O_n = O:

        K = 1 + ceil(max(0, rest - W) / (W - O))

    `progressive`: the least K with W + sum_{n=1}^{K-1} (W - O_n) >= rest; O_n is 0 from n = O + 1,
    so that at most O terms are added up. For longer turns this is about right: up to one turn of a
    window's room is left unused at each cut.

    Args:
        rest: tokens after the prefix.
        prefix: head and pinned turns.
        window: most tokens of a context.
        overlap: most tokens repeated.

    Raises:
        ValueError: for a prefix that fills the window, an overlap that leaves no room for anything
            new, or a negative size.
    """
    if rest < 0 or prefix < 0 or overlap < 0:
        raise ValueError(
            f"rest, prefix and overlap: expected 0 or more, got {rest}, {prefix} and {overlap}"
        )
    room = window - prefix
    if room < 1:
        raise ValueError(f"prefix: expected less than the window ({window}), got {prefix}")
    if overlap >= room:
        raise ValueError(f"overlap: expected less than window - prefix ({room}), got {overlap}")
    count, left = 1, rest - room
    if truncation == "progressive":
        while left > 0 and count <= overlap:
            left -= room - overlap_at(count, overlap, truncation)
            count += 1
        overlap = 0
    return count + max(0, -(-left // (room - overlap)))


def clip_text(text: str, limit: int, size: Callable[[str], int]) -> str:
    """The text where it fits, else its head and tail around a mark that says what is missing.

        abcdef...uvwxyz  ->  abc[... 1,234 characters left out ...]xyz

    As many characters as a bisection finds are kept, half of them (rounded up) at the head. It
    begins around the text's own ratio of characters to size, so that besides the text itself few
    long strings are measured. The result always fits, for any `size`; it is the longest where
    `size` grows with the characters kept, as the count of tokens nearly does.

    Args:
        limit: most that `size` may say of the result.
        size: of a text, such as its number of tokens; called O(log(characters)) times.

    Raises:
        ValueError: when not even the mark alone fits.
    """
    if (whole := size(text)) <= limit:
        return text

    def too_long(count: int) -> bool:
        return size(_clipped(text, count)) > limit

    kept, too_many = 0, len(text)
    if too_long(kept):
        raise ValueError(f"limit: expected room for {_clipped(text, 0)!r} at least, got {limit}")
    tried = max(len(text) * limit // whole, 1)
    step = 1 + tried // 8
    while kept < tried < too_many:  # gallop from the guess, until both sides are known
        if too_long(tried):
            too_many = tried
            tried = tried - step if kept == 0 else kept
        else:
            kept = tried
            tried = tried + step if too_many == len(text) else too_many
        step *= 2
    while too_many - kept > 1:
        middle = (kept + too_many) // 2
        if too_long(middle):
            too_many = middle
        else:
            kept = middle
    return _clipped(text, kept)


def _clipped(text: str, kept: int) -> str:
    head, tail = (kept + 1) // 2, kept // 2
    left_out = f"[... {len(text) - kept:,} characters left out ...]"
    return text[:head] + left_out + text[len(text) - tail :]
