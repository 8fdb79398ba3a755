"""`strategy: compact`: where the window is full, the policy sums up what it will still need."""

from __future__ import annotations

from bisect import bisect_left

import numpy as np

from rlagents.config import ContextSection
from rlagents.errors import ConfigError
from rlagents.rollout.context import ChatCodec, ContextWindow, Prompt, Step
from rlagents.types import IntArray, TurnKind


class CompactWindow(ContextWindow):
    """Contexts that end with a summary by the policy, and begin with it.

        head | pinned | turns ... | request SUMMARY
        head | pinned | repeated  | summary, observation | action | ... | request SUMMARY

    A turn is opened only where its action, the request and a summary will fit as well, so that the
    policy can always be asked. The summary is sampled in the old context, has log-probabilities
    there and is trained there. In the new one it is text in front of the observation, encoded again
    as everything from outside is: what it spells never becomes a special token, and it is cut at
    `compact.tokens`, or where the observation needs the room. Later contexts repeat turns without
    the summaries that once stood in front of them.

    An observation that would not fit behind an empty summary ends the episode, unasked.
    """

    def __init__(self, chat: ChatCodec, section: ContextSection, reserve: int) -> None:
        """`reserve` is the most tokens an action may have.

        Raises:
            ConfigError: where the window has no room for an observation beside all that.
        """
        super().__init__(chat, section, reserve)
        compact = section.compact
        self._most = compact.tokens or reserve
        close = len(chat.close_ids(np.zeros(0, np.int32)))
        self._needed = reserve + close + self._size(compact.prompt) + self._most
        self._observed = ""
        self._asked = False
        least = len(self._head) + self._size("") + self._needed
        if least >= section.window:
            raise ConfigError(
                f"context.window: got {section.window}, expected more than {least} with "
                "context.strategy: compact: head, action, request and summary take as many"
            )

    def observe(self, text: str) -> Prompt | None:
        """The prompt of the next turn, which may be the request for a summary."""
        text = self._observed = self._clipped(text)
        prompt = self._continued(text, reserve=self._needed)
        if prompt is not None or not self._bodies or not self._behind(""):
            return prompt
        self._asked = True
        request = self._section.compact.prompt
        return self._continued(request, reserve=self._most, max_tokens=self._most)

    def act(self, action_ids: IntArray, text: str) -> Step:
        """Append the sampled action, or begin anew with the summary."""
        if not self._asked:
            self._append(action_ids, self._chat.observation_ids(self._observed))
            return Step(text=text)
        self._asked = False
        self._answer(action_ids)
        opening = self._opened(self._bounded(text))
        return Step(kind=TurnKind.SUMMARY, prompt=self._rebuilt(opening, reserve=self._needed))

    def _opened(self, summary: str) -> str:
        """A fresh context's first message."""
        if not summary:
            return self._observed
        return f"{self._section.compact.label}{summary}\n{self._observed}"

    def _behind(self, summary: str) -> bool:
        """Whether the observation fits into a fresh context behind that summary."""
        size = self._size(self._opened(summary))
        return self._repeat_from(size, self._needed) is not None

    def _bounded(self, summary: str) -> str:
        """The longest beginning of a summary that has `compact.tokens` and fits."""

        def too_long(length: int) -> bool:
            part = summary[:length]
            return self._size(part) - self._size("") > self._most or not self._behind(part)

        if not too_long(len(summary)):
            return summary
        return summary[: max(bisect_left(range(len(summary)), True, key=too_long) - 1, 0)]
