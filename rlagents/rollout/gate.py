"""Where an episode waits between two turns while it is paused."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager


class Gate:
    """Lets one episode through, turn by turn; closed, it stops it before the next turn."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._closed = False
        self._inside = False

    @contextmanager
    def through(self) -> Iterator[None]:
        """Sample a turn in this block.

        Consumes, produces: nothing. Waits for: the gate to be open, however long that takes; who
        closes it opens it. Stops when: it is.
        """
        with self._changed:
            self._changed.wait_for(lambda: not self._closed)
            self._inside = True
        try:
            yield
        finally:
            with self._changed:
                self._inside = False
                self._changed.notify_all()

    def close(self) -> None:
        """Stop the episode before its next turn; one that is being sampled goes on to its end."""
        with self._changed:
            self._closed = True

    def open(self) -> None:
        """Let the episode go on."""
        with self._changed:
            self._closed = False
            self._changed.notify_all()

    def settle(self, timeout: float) -> None:
        """Where it is closed, wait until no turn is being sampled, `timeout` seconds at most."""
        with self._changed:
            self._changed.wait_for(lambda: not (self._closed and self._inside), timeout)
