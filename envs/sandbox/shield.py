"""Making something that must be freed, such that Ctrl-C can't lose it half made."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

T = TypeVar("T")


def shielded(make: Callable[[], T], free: Callable[[T], None]) -> T:
    """What `make` returns; freed where nobody waits for it any more.

    Ctrl-C reaches the main thread between any two steps of whatever it does, so there the work is
    done by another thread, and the main thread can only be interrupted in its wait.

    Raises:
        BaseException: whatever `make` raises, and what interrupts the wait for it.
    """
    if threading.current_thread() is not threading.main_thread():
        return make()
    made: Future[T] = Future()

    def work() -> None:
        try:
            made.set_result(make())
        except BaseException as error:
            made.set_exception(error)

    def free_unclaimed(found: Future[T]) -> None:
        if found.exception() is None:
            free(found.result())

    try:
        threading.Thread(target=work, name="sandbox-shield").start()
        return made.result()
    except BaseException:
        made.add_done_callback(free_unclaimed)
        raise
