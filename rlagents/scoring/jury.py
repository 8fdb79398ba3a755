"""The judges of a run, each asked beside the others: one that is slow or silent stops no other."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Sequence
from typing import Any, Generic, Protocol, TypeVar

from rlagents.config import JudgeSection
from rlagents.errors import ConfigError, JudgeError
from rlagents.scoring.calls import Calls
from rlagents.scoring.panel import joint_figures


class Judge(Protocol):
    """What judges that compare and judges that rate have in common."""

    def take_figures(self) -> dict[str, float]: ...

    def close(self) -> None: ...


J = TypeVar("J", bound=Judge)
Batch = Sequence[Callable[[], Any]]
"""Calls of one judge."""


class Jury(Generic[J]):
    """One judge or more. Each has its own settings, its own calls at once and its own time-out."""

    def __init__(self, judges: Sequence[tuple[J, JudgeSection]]) -> None:
        """Make the threads of each.

        Args:
            judges: with how each is asked: transcripts, repeats, `concurrency`, `call_timeout_s`.

        Raises:
            ConfigError: when judges say that their greatest marks differ: the mean of a mark out of
                10 and of a probability means nothing.
        """
        if not judges:
            raise ValueError("expected one or more judges, got none")
        self.judges = tuple(judge for judge, _ in judges)
        self.sections = tuple(section for _, section in judges)
        scales = {getattr(judge, "greatest", None) for judge in self.judges} - {None}
        if len(scales) > 1:
            raise ConfigError(
                "scoring.panel: expected judges that mark on one scale, got form rubric (0 to 10) "
                "beside refeval or refmatch (0 to 1)"
            )
        self._calls = tuple(
            Calls(concurrency=section.concurrency, timeout_s=section.call_timeout_s)
            for section in self.sections
        )

    def ask(self, batches: Sequence[Batch], deadline: float = math.inf) -> list[list[Any]]:
        """What the calls of each judge came to, all judges at once; blocks until all are done.

        Args:
            batches: of each judge.
            deadline: of `time.monotonic`; what has no answer by then is a JudgeError.
        """
        outcomes: list[list[Any]] = [[JudgeError("not asked")] * len(batch) for batch in batches]

        def ask(i: int) -> None:
            outcomes[i] = self._calls[i].run(batches[i], deadline)

        others = [
            threading.Thread(target=ask, args=(i,), name=f"judge {i}", daemon=True)
            for i in range(1, len(batches))
        ]
        for thread in others:
            thread.start()
        ask(0)
        for thread in others:
            thread.join()
        return outcomes

    def take_figures(self) -> dict[str, float]:
        """Metrics of the judges since the last call (`panel.joint_figures`)."""
        return joint_figures([judge.take_figures() for judge in self.judges])

    def close(self) -> None:
        """Ask nothing any more, and close the judges. May be called twice."""
        for calls in self._calls:
            calls.close()
        for judge in self.judges:
            judge.close()
