"""One question to a model, one answer: for judges, and players behind endpoints. Torch-free."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """A conversation to be continued by one message."""

    messages: tuple[tuple[str, str], ...]
    """(role, content) with the roles `system`, `user`, `assistant`."""
    max_tokens: int
    temperature: float = 0.0
    seed: int = 0
    labels: tuple[str, ...] = ()
    """Words whose probability as the first token of the answer is wanted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """What came back."""

    text: str
    label_logprobs: Mapping[str, float] = field(default_factory=dict)
    """Natural-log probability of each label as the first token; those not known are missing."""
    prompt_tokens: int = 0
    sampled_tokens: int = 0
    cost: float = 0.0
    """0 for what was in a cache."""
    cached: bool = False


class Backend(Protocol):
    """Answers questions; called from many threads at once, returns when the answer is there."""

    @property
    def identity(self) -> str:
        """What an answer depends on beside the question: model, version of its weights."""
        ...

    def ask(self, ask: Ask) -> Reply:
        """The answer.

        Raises:
            JudgeError: when there is none, after all retries.
        """
        ...

    def close(self) -> None:
        """May be called twice."""
        ...
