"""Ctrl-C that leaves a run resumable: noted at once, obeyed at the next safe point."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from types import FrameType
from typing import Self

from rlagents.errors import RlagentsError


class Interrupted(RlagentsError, KeyboardInterrupt):
    """The user pressed Ctrl-C, or the process got SIGTERM."""

    boundary = "user"
    run_dir: str | None = None
    """The run that can be resumed, where there is one."""


class Interrupt:
    """A context that turns the first SIGINT or SIGTERM into a flag. A second one is immediate."""

    def __init__(self) -> None:
        self._asked = False
        self._previous: dict[int, object] = {}

    def check(self) -> None:
        """Raise where it is safe to stop.

        Raises:
            Interrupted: once a signal has come.
        """
        if self._asked:
            raise Interrupted("interrupted")

    def arm(self) -> None:
        """Take the signals, again where somebody has taken them since: Ray does as it starts."""
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                previous = signal.signal(number, self._handle)
                self._previous.setdefault(number, previous)

    def __enter__(self) -> Self:
        self.arm()
        return self

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)  # type: ignore[arg-type]
        self._previous.clear()

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self._asked:
            raise KeyboardInterrupt
        self._asked = True
        # Not print: the signal may have come in the middle of one.
        with contextlib.suppress(OSError):
            os.write(2, b"\nstopping at the next safe point; Ctrl-C again stops at once\n")
