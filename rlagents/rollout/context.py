"""The context of one episode: which ids the policy sees before each action.

Ids are made once. New text is encoded and appended to ids already sampled; where the window is
full a fresh context is built from ids that exist: head, pinned turns, repeated turns. Each turn
knows the context it was sampled in, so training needs to infer nothing.

A window may have something to say itself (ask for a summary, answer an edit of notes, show what a
block of code printed): such turns never reach the environment, and are recorded like all others.

    environment --text--> observe -> Prompt -> sampler -> act -> Step --ACTION--> environment
                                       ^                          |
                                       +------- other kinds ------+
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from rlagents.algos.chunking import clip_text, fits, overlap_at, repeat_from
from rlagents.config import ContextSection
from rlagents.errors import ConfigError
from rlagents.types import IntArray, TurnKind


class ChatCodec(Protocol):
    """Text to ids, in fragments (`rlagents.policy.chat.Chat`)."""

    @property
    def head_ids(self) -> IntArray: ...

    def observation_ids(self, text: str) -> IntArray: ...

    def close_ids(self, action_ids: IntArray) -> IntArray: ...

    def render_ids(self, messages: list[tuple[str, str]]) -> IntArray: ...


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Prompt:
    """What the sampler gets for one turn."""

    context: int
    added_ids: IntArray
    """[O] what this turn adds to its context; all of it where the context is fresh."""
    prompt_ids: IntArray
    """[P] the whole context up to the action."""
    observation: str
    """The text that the turn opens with."""
    max_tokens: int | None = None
    """Most tokens of the answer; None is as many as an action may have."""
    branch: str = ""
    """Names a conversation beside the episode's own, whose cache must not be disturbed."""
    dropped_tokens: int = 0
    """Tokens of the history so far that a fresh context leaves out."""
    repeated: tuple[tuple[int, int], ...] = ()
    """Spans of `added_ids` that are earlier actions which a fresh context repeats (not pinned)."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Step:
    """What came of a sampled answer."""

    kind: TurnKind = TurnKind.ACTION
    text: str = ""
    """What goes to the environment, where the kind is `ACTION`."""
    prompt: Prompt | None = None
    """What to sample next, where it is not; None there: that does not fit into any context."""
    closed: tuple[str, ...] = ()
    """Branches that have ended: nothing more is sampled in them."""


class Window(Protocol):
    """The context of one episode: `observe`, sample, `act`, and again.

    A deterministic function of what it is given, so that an episode can be played again from its
    record.
    """

    def observe(self, text: str) -> Prompt | None:
        """The prompt of the next turn, or None where it can't fit into any context."""
        ...

    def act(self, action_ids: IntArray, text: str) -> Step:
        """Append the sampled answer to the prompt given last."""
        ...

    def close(self) -> None:
        """Free what it holds. May be called twice."""
        ...


def clipper(chat: ChatCodec, section: ContextSection) -> Callable[[str], str]:
    """What leaves head and tail of an observation that is longer than `max_observation`.

    Raises:
        ConfigError: where the limit has no room for the mark between them.
    """
    limit = section.max_observation
    if limit == 0:
        return lambda text: text

    def size(text: str) -> int:
        return len(chat.observation_ids(text))

    least = size("[... 999,999,999 characters left out ...]")
    if limit < least:
        raise ConfigError(
            f"context.max_observation: got {limit}, expected 0 or at least {least}, which the mark "
            "in place of what is left out takes"
        )
    return lambda text: clip_text(text, limit, size)


class ContextWindow:
    """Builds contexts that only grow, and fresh ones by the chunker's rule when they are full.

    The strategies `pinned_window` and `full`; the others build on its parts (`_continued`,
    `_rebuilt`, `_append`, `_answer`).
    """

    def __init__(self, chat: ChatCodec, section: ContextSection, reserve: int) -> None:
        """`reserve` is the most tokens an action may have.

        Raises:
            ConfigError: as `clipper` does.
        """
        self._chat = chat
        self._section = section
        self._clipped = clipper(chat, section)
        self._reserve = reserve
        self._head = np.asarray(chat.head_ids, np.int32)
        self._bodies: list[IntArray] = []
        """Turns with the environment, as a later context repeats them."""
        self._sizes: list[int] = []
        self._openings: list[int] = []
        """Where the action begins in each body."""
        self._total = 0
        """Tokens of the history: every opening, answer and close so far."""
        self._context = -1
        self._prompt: IntArray = np.zeros(0, np.int32)
        self._opening: IntArray = np.zeros(0, np.int32)
        self._close: IntArray = np.zeros(0, np.int32)

    def observe(self, text: str) -> Prompt | None:
        """The prompt of the next turn, or None where it can't fit into any context."""
        text = self._clipped(text)
        prompt = self._continued(text)
        if prompt is None and self._section.strategy != "full":
            prompt = self._rebuilt(text)
        return prompt

    def act(self, action_ids: IntArray, text: str) -> Step:
        """Append the sampled action of the turn just observed; its text is not needed again."""
        self._append(action_ids)
        return Step(text=text)

    def close(self) -> None:
        """Nothing to free."""

    # What strategies are made of.

    def _size(self, text: str) -> int:
        """Tokens of a turn's opening."""
        return len(self._chat.observation_ids(text))

    def _continued(
        self, text: str, *, reserve: int | None = None, max_tokens: int | None = None
    ) -> Prompt | None:
        """Open a turn in the present context (or the very first); None where it does not fit.

        Args:
            text: of the opening.
            reserve: tokens to be kept free behind it; default: those of an action.
            max_tokens: of the answer; default: those of an action.
        """
        opening = np.asarray(self._chat.observation_ids(text), np.int32)
        first = self._context < 0
        used = len(self._head) if first else len(self._prompt) + len(self._close)
        reserve = self._reserve if reserve is None else reserve
        if not fits(used, len(opening), reserve=reserve, window=self._section.window):
            return None
        added = np.concatenate([self._head if first else self._close, opening])
        self._context += first
        self._opening = opening
        self._prompt = np.concatenate([self._prompt, added])
        return Prompt(
            context=self._context,
            added_ids=added,
            prompt_ids=self._prompt,
            observation=text,
            max_tokens=max_tokens,
        )

    def _rebuilt(self, text: str, *, reserve: int | None = None) -> Prompt | None:
        """Open a turn in a fresh context, by the chunker's rule; None where it does not fit."""
        opening = np.asarray(self._chat.observation_ids(text), np.int32)
        first = self._repeat_from(len(opening), reserve)
        return None if first is None else self._fresh(text, opening, first)

    def _repeat_from(self, opening: int, reserve: int | None = None) -> int | None:
        """The first turn that a fresh context repeats before an opening of that many tokens."""
        section = self._section
        return repeat_from(
            self._sizes,
            opening,
            head=len(self._head),
            reserve=self._reserve if reserve is None else reserve,
            # Before all of them are made, those that are: edits in between may have gone.
            pinned=min(section.pinned_turns, len(self._sizes)),
            window=section.window,
            overlap=overlap_at(self._context + 1, section.overlap, section.truncation),
        )

    def _fresh(self, text: str, opening: IntArray, first: int) -> Prompt:
        """A fresh context: head, pinned turns, turns from number `first` on, and the opening."""
        pinned = self._bodies[: self._section.pinned_turns]
        repeated = range(max(first, len(pinned)), len(self._bodies))
        start = len(self._head) + sum(map(len, pinned))
        spans: list[tuple[int, int]] = []
        for number in repeated:
            begin = start + self._openings[number]
            start += self._sizes[number]
            spans.append((begin, start))
        kept = [*pinned, *(self._bodies[number] for number in repeated)]
        self._context += 1
        self._opening = opening
        self._prompt = np.concatenate([self._head, *kept, opening])
        return Prompt(
            context=self._context,
            added_ids=self._prompt,
            prompt_ids=self._prompt,
            observation=text,
            dropped_tokens=self._total - sum(map(len, kept)),
            repeated=tuple(spans),
        )

    def _append(self, action_ids: IntArray, opening: IntArray | None = None) -> None:
        """The answer that goes to the environment. Later contexts may repeat the turn.

        Args:
            action_ids: as sampled.
            opening: [O] what they repeat before the action; default: the opening as it was.
        """
        opening = self._opening if opening is None else opening
        self._answer(action_ids)
        body = np.concatenate([opening, action_ids, self._close])
        self._bodies.append(body)
        self._sizes.append(len(body))
        self._openings.append(len(opening))

    def _answer(self, action_ids: IntArray) -> None:
        """An answer to the window itself, which no later context repeats."""
        self._close = np.asarray(self._chat.close_ids(action_ids), np.int32)
        self._total += len(self._opening) + len(action_ids) + len(self._close)
        self._prompt = np.concatenate([self._prompt, action_ids])
