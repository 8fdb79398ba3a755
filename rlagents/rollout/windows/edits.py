"""Windows with a store that the policy edits between its actions."""

from __future__ import annotations

from abc import abstractmethod
from typing import Protocol

from rlagents.config import ContextSection
from rlagents.rollout.context import ChatCodec, ContextWindow, Prompt, Step
from rlagents.types import IntArray, TurnKind

TOO_LONG = "error: the answer does not fit into the window"


class Store(Protocol):
    """What commands are about."""

    @property
    def rules(self) -> str:
        """The commands, for the policy."""
        ...

    def command(self, text: str) -> str | None:
        """Do what an answer asks for and say what came of it; None where it is no command."""
        ...


class EditedWindow(ContextWindow):
    """Answers commands itself, at most `memory.edits` before each action.

    Edits and replies go on in the context they were made in, and no other context repeats them;
    one that is full begins anew with the same observation. What comes after the last edit goes to
    the environment as it is.
    """

    def __init__(
        self, chat: ChatCodec, section: ContextSection, reserve: int, store: Store
    ) -> None:
        """`reserve` is the most tokens an action may have."""
        super().__init__(chat, section, reserve)
        self._store = store
        self._observed = ""
        self._edits = 0

    def observe(self, text: str) -> Prompt | None:
        """The prompt of the next turn, or None where it can't fit into any context."""
        self._observed = self._clipped(text)
        self._edits = 0
        if self._context < 0:
            return self._continued(self._opened(""))
        return self._continued(self._observed) or self._begun("")

    def act(self, action_ids: IntArray, text: str) -> Step:
        """Append the sampled answer: an edit, or an action for the environment."""
        left = self._edits < self._section.memory.edits
        reply = self._store.command(text) if left else None
        if reply is None:
            self._append(action_ids, self._chat.observation_ids(self._observed))
            return Step(text=text)
        self._edits += 1
        self._answer(action_ids)
        return Step(kind=TurnKind.MEMORY, prompt=self._continued(reply) or self._begun(reply))

    @abstractmethod
    def _shown(self) -> str:
        """What a context begins with, in front of the observation; empty or whole lines."""

    def _opened(self, reply: str) -> str:
        """A context's first message of its own."""
        rules = self._store.rules if self._section.memory.rules else ""
        return rules + self._shown() + (reply and f"{reply}\n") + self._observed

    def _begun(self, reply: str) -> Prompt | None:
        """A fresh context with the present observation."""
        for said in (reply, TOO_LONG, "") if reply else ("",):
            prompt = self._rebuilt(self._opened(said))
            if prompt is not None:
                return prompt
        return None
