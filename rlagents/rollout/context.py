"""The context of one episode: which ids the policy sees before each action.

Ids are made once. New text is encoded and appended to ids already sampled; where the window is
full a fresh context is built from ids that exist: head, pinned turns, repeated turns. Each turn
knows the context it was sampled in, so training needs to infer nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from rlagents.algos.chunking import fits, repeat_from
from rlagents.config import ContextSection
from rlagents.types import IntArray


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


class Window(Protocol):
    """The context of one episode: `observe`, sample, `act`, and again."""

    def observe(self, text: str) -> Prompt | None:
        """The prompt of the next turn, or None where it can't fit into any context."""
        ...

    def act(self, action_ids: IntArray, text: str) -> None:
        """Append the sampled action of the turn just observed."""
        ...


class ContextWindow:
    """Builds contexts that only grow, and fresh ones by the chunker's rule when they are full."""

    def __init__(self, chat: ChatCodec, section: ContextSection, reserve: int) -> None:
        """`reserve` is the most tokens an action may have."""
        self._chat = chat
        self._section = section
        self._reserve = reserve
        self._head = np.asarray(chat.head_ids, np.int32)
        self._bodies: list[IntArray] = []
        self._context = -1
        self._prompt: IntArray = np.zeros(0, np.int32)
        self._opening: IntArray = np.zeros(0, np.int32)
        self._close: IntArray = np.zeros(0, np.int32)

    def observe(self, text: str) -> Prompt | None:
        """The prompt of the next turn, or None where it can't fit into any context."""
        self._opening = np.asarray(self._chat.observation_ids(text), np.int32)
        used = len(self._prompt) + len(self._close) if self._bodies else len(self._head)
        window = self._section.window
        if fits(used, len(self._opening), reserve=self._reserve, window=window):
            fresh = not self._bodies
            start = self._head if fresh else self._close
            added = np.concatenate([start, self._opening])
        else:
            rebuilt = self._rebuild()
            if rebuilt is None:
                return None
            fresh, added = True, rebuilt
        if fresh:
            self._context += 1
            self._prompt = added
        else:
            self._prompt = np.concatenate([self._prompt, added])
        return Prompt(context=self._context, added_ids=added, prompt_ids=self._prompt)

    def act(self, action_ids: IntArray, text: str) -> None:
        """Append the sampled action of the turn just observed; its text is not needed again."""
        self._close = np.asarray(self._chat.close_ids(action_ids), np.int32)
        self._bodies.append(np.concatenate([self._opening, action_ids, self._close]))
        self._prompt = np.concatenate([self._prompt, action_ids])

    def _rebuild(self) -> IntArray | None:
        section = self._section
        if section.strategy == "full":
            return None
        first = repeat_from(
            [len(body) for body in self._bodies],
            len(self._opening),
            head=len(self._head),
            reserve=self._reserve,
            pinned=section.pinned_turns,
            window=section.window,
            overlap=section.overlap,
        )
        if first is None:
            return None
        kept = [*self._bodies[: section.pinned_turns], *self._bodies[first:]]
        return np.concatenate([self._head, *kept, self._opening])


class TemplateWindow:
    """Contexts rendered by a chat template that may rewrite history, such as earlier thinking.

    Each turn is rendered as text; where the result extends the ids already sampled the context
    goes on, otherwise a fresh one begins. Costs T squared: `policy.history: keep` does not.
    """

    def __init__(self, chat: ChatCodec, section: ContextSection, reserve: int) -> None:
        """`reserve` is the most tokens an action may have."""
        self._chat = chat
        self._section = section
        self._reserve = reserve
        self._turns: list[list[tuple[str, str]]] = []
        self._observation = ""
        self._first = 0
        self._context = -1
        self._prompt: IntArray = np.zeros(0, np.int32)

    def observe(self, text: str) -> Prompt | None:
        """The prompt of the next turn, or None where it can't fit into any context."""
        self._observation = text
        ids = self._render(self._first)
        if len(ids) + self._reserve > self._section.window:
            ids = self._cut()
            if ids is None:
                return None
        known = len(self._prompt)
        extends = known and len(ids) >= known and bool((ids[:known] == self._prompt).all())
        if not extends:
            self._context += 1
        added = ids[known:] if extends else ids
        self._prompt = ids
        return Prompt(context=self._context, added_ids=added, prompt_ids=ids)

    def act(self, action_ids: IntArray, text: str) -> None:
        """Append the sampled action of the turn just observed."""
        self._turns.append([("user", self._observation), ("assistant", text)])
        self._prompt = np.concatenate([self._prompt, action_ids])

    def _render(self, first: int) -> IntArray:
        kept = self._turns[: min(self._section.pinned_turns, first)] + self._turns[first:]
        messages = [message for turn in kept for message in turn]
        return self._chat.render_ids([*messages, ("user", self._observation)])

    def _cut(self) -> IntArray | None:
        """Drop the earliest turns that are not pinned until pinned + overlap + this turn fit."""
        section = self._section
        if section.strategy == "full" or len(self._turns) < section.pinned_turns:
            return None
        count = len(self._turns)
        bare = self._render(count)
        if len(bare) + self._reserve > section.window:
            return None
        self._first, ids = count, bare
        while self._first > section.pinned_turns:
            longer = self._render(self._first - 1)
            if (
                len(longer) - len(bare) > section.overlap
                or len(longer) + self._reserve > section.window
            ):
                break
            self._first, ids = self._first - 1, longer
        return ids
