"""Engines of models beside the policy's own: frozen versions, other runs, in one process."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Generic, Protocol, TypeVar


class Closing(Protocol):
    """Something that holds weights."""

    def close(self) -> None: ...


E = TypeVar("E", bound=Closing)


class Engines(Generic[E]):
    """Makes engines by name when they are first asked for, and keeps a few.

    Beyond the limit the one goes that nobody uses and that was used longest ago. Where all are in
    use there are more for a while: a game that waited for room would hold up the one that it waits
    for.
    """

    def __init__(self, make: Callable[[str], E], limit: int) -> None:
        """`make` may take long and may raise; it is called once for a name at a time."""
        self._make = make
        self._limit = limit
        self._lock = threading.Lock()
        self._engines: dict[str, Future[E]] = {}
        """In the order of their last use."""
        self._users: dict[str, int] = {}
        self._closed = False

    def take(self, name: str) -> E:
        """The engine of that name; `give_back` it once for each time.

        Raises:
            RuntimeError: after `close`.
            Exception: whatever making it raises; it is tried again the next time.
        """
        with self._lock:
            if self._closed:
                raise RuntimeError("expected open engines, got closed ones")
            future = self._engines.pop(name, None)
            mine = future is None
            if future is None:
                future = Future()
            self._engines[name] = future
            self._users[name] = self._users.get(name, 0) + 1
        if mine:
            try:
                made = self._make(name)
                with self._lock:
                    closed = self._closed
                if closed:  # meanwhile
                    made.close()
                    raise RuntimeError("expected open engines, got closed ones")
                future.set_result(made)
            except BaseException as error:
                future.set_exception(error)
        try:
            return future.result()
        except BaseException:
            with self._lock:
                self._leave(name)
                if self._engines.get(name) is future:
                    del self._engines[name]
            raise
        finally:
            self._evict()

    def give_back(self, name: str) -> None:
        """One user less."""
        with self._lock:
            self._leave(name)
        self._evict()

    def close(self) -> None:
        """Close all of them. May be called twice."""
        with self._lock:
            self._closed = True
            engines, self._engines = list(self._engines.values()), {}
        for future in engines:
            if future.done() and future.exception() is None:
                future.result().close()

    def _leave(self, name: str) -> None:
        left = self._users.get(name, 0) - 1
        if left > 0:
            self._users[name] = left
        else:
            self._users.pop(name, None)

    def _evict(self) -> None:
        gone: list[Future[E]] = []
        with self._lock:
            idle = [n for n, f in self._engines.items() if f.done() and n not in self._users]
            for name in idle[: max(0, len(self._engines) - self._limit)]:
                gone.append(self._engines.pop(name))
        for future in gone:
            if future.exception() is None:
                future.result().close()
