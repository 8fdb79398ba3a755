"""`policy.history: template`: contexts as a chat template renders them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from rlagents.algos.chunking import overlap_at
from rlagents.config import ContextSection
from rlagents.rollout.context import ChatCodec, Prompt, Step, clipper
from rlagents.types import IntArray


class TemplateWindow:
    """Contexts rendered by a chat template that may rewrite history, such as earlier thinking.

    Each turn is rendered as text; where the result extends the ids already sampled the context
    goes on, otherwise a fresh one begins. Costs T squared: `policy.history: keep` does not.
    """

    def __init__(self, chat: ChatCodec, section: ContextSection, reserve: int) -> None:
        """`reserve` is the most tokens an action may have.

        Raises:
            ConfigError: as `clipper` does.
        """
        self._chat = chat
        self._clipped = clipper(chat, section)
        self._section = section
        self._reserve = reserve
        self._turns: list[list[tuple[str, str]]] = []
        self._observation = ""
        self._first = 0
        self._context = -1
        self._prompt: IntArray = np.zeros(0, np.int32)

    def observe(self, text: str) -> Prompt | None:
        """The prompt of the next turn, or None where it can't fit into any context."""
        text = self._observation = self._clipped(text)
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
        cut = not extends and self._first > self._section.pinned_turns
        return Prompt(
            context=self._context,
            added_ids=added,
            prompt_ids=ids,
            observation=text,
            dropped_tokens=len(self._render(0)) - len(ids) if cut else 0,
        )

    def act(self, action_ids: IntArray, text: str) -> Step:
        """Append the sampled action of the turn just observed."""
        self._turns.append([("user", self._observation), ("assistant", text)])
        self._prompt = np.concatenate([self._prompt, action_ids])
        return Step(text=text)

    def close(self) -> None:
        """Nothing to free."""

    def _render(self, first: int) -> IntArray:
        kept: Sequence[list[tuple[str, str]]] = (
            self._turns[: min(self._section.pinned_turns, first)] + self._turns[first:]
        )
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
        overlap = overlap_at(self._context + 1, section.overlap, section.truncation)
        self._first, ids = count, bare
        while self._first > section.pinned_turns:
            longer = self._render(self._first - 1)
            if len(longer) - len(bare) > overlap or len(longer) + self._reserve > section.window:
                break
            self._first, ids = self._first - 1, longer
        return ids
