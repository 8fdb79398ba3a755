"""What the system was doing: named stretches of time, one line each in `spans.jsonl`."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Protocol


class Lines(Protocol):
    """Where spans go: `sinks.JsonLines`, or anything else that takes one object a line."""

    def write(self, line: Mapping[str, Any]) -> None:
        """Append one object."""


class Spans:
    """Records spans and adds up their seconds by name. Safe to use from several threads.

    Args:
        lines: takes `{"name", "start", "duration", ...attrs}`: seconds since the epoch, seconds.
        clock: monotonic seconds.
        now: seconds since the epoch.
    """

    def __init__(
        self,
        lines: Lines | None = None,
        *,
        clock: Callable[[], float] = time.perf_counter,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._lines = lines
        self._clock = clock
        self._now = now
        self._mutex = threading.Lock()
        self._totals: dict[str, float] = {}

    @contextmanager
    def span(self, name: str, **attrs: Any) -> Iterator[dict[str, Any]]:
        """Time the block. What it puts into the yielded dict joins the line as attributes.

        A block that raises is recorded too, with the name of the exception as `error`.
        """
        start, began = self._now(), self._clock()
        try:
            yield attrs
        except BaseException as error:
            attrs["error"] = type(error).__name__
            raise
        finally:
            duration = self._clock() - began
            with self._mutex:
                self._totals[name] = self._totals.get(name, 0.0) + duration
                if self._lines is not None:
                    line = {"name": name, "start": round(start, 6), "duration": round(duration, 6)}
                    self._lines.write(attrs | line)

    def take_totals(self) -> dict[str, float]:
        """Seconds by span since the last call, as metrics: `rollout` becomes `time/rollout_s`."""
        with self._mutex:
            totals, self._totals = self._totals, {}
        return {f"time/{name}_s": seconds for name, seconds in totals.items()}
