"""What a judge is asked and what it says. One call shows trajectories in one order."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from rlagents.types import EpisodeKey


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """What all members of a group attempted."""

    task: str
    """The environment's first observation: the card."""
    reference: str = ""
    """A good answer, where the environment has one."""
    task_id: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A member as the judge sees it. All text is untrusted: an agent wrote it."""

    key: EpisodeKey
    transcript: str
    """Turn by turn, within the budget (`rlagents.scoring.transcript`), not yet escaped."""
    answer: str
    """The last action."""
    hidden: float = 0.0
    """The environment's return; only simulated judges read it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """Marks of one call, in units of the judge's (0 to 10; label probabilities 0 to 1)."""

    first: float
    second: float


class PairJudge(Protocol):
    """Compares. Called from many threads at once."""

    def compare(
        self, question: Question, first: Candidate, second: Candidate, repeat: int = 0
    ) -> Verdict:
        """Marks of both, shown in this order; `repeat` numbers further meetings of the same two.

        Raises:
            JudgeError: no verdict: the call failed, or its answer made no sense.
        """
        ...

    def take_figures(self) -> dict[str, float]:
        """Metrics `judge/...` since the last call."""
        ...

    def close(self) -> None: ...


class PointJudge(Protocol):
    """Rates one by one. Called from many threads at once."""

    def rate(self, question: Question, candidate: Candidate, repeat: int) -> float:
        """A mark; `repeat` numbers further calls for the same candidate.

        Raises:
            JudgeError: as above.
        """
        ...

    def take_figures(self) -> dict[str, float]: ...

    def close(self) -> None: ...
