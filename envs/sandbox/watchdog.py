"""The thread that measures running commands and ends those that hold or use too much.

Memory of a tree has no limit in the kernel without a memory cgroup, which the surroundings of a
training run usually own; RLIMIT_AS is for each process. So somebody has to look.
"""

from __future__ import annotations

import os
import threading
import time

from rlagents.envs.sandbox.process import Process
from rlagents.errors import SandboxBroken, boundary

YOUNG_S = 1.0
"""A command is looked at often at first: most end early, and bombs go off at once."""
TICK_YOUNG_S = 0.02
TICK_S = 0.1


class Watchdog:
    """Consumes running commands, waits for a tick, ends what is over its limits; stops never."""

    def __init__(self) -> None:
        self.restart()
        os.register_at_fork(after_in_child=self.restart)  # threads do not survive a fork

    def restart(self) -> None:
        """Forget everything: what a process forked from this one begins with."""
        self._changed = threading.Condition()
        self._watched: set[Process] = set()
        self._thread: threading.Thread | None = None

    def watch(self, process: Process) -> None:
        with self._changed:
            self._watched.add(process)
            if self._thread is None:
                name = "sandbox-watchdog"
                self._thread = threading.Thread(target=self._loop, name=name, daemon=True)
                self._thread.start()
            self._changed.notify()

    def forget(self, process: Process) -> None:
        with self._changed:
            self._watched.discard(process)

    def _loop(self) -> None:
        while True:
            with self._changed:
                while not self._watched:
                    self._changed.wait()
                watched = tuple(self._watched)
            now = time.monotonic()
            young = any(now - p.began < YOUNG_S for p in watched)
            time.sleep(TICK_YOUNG_S if young else TICK_S)  # at first there is nothing to see
            with self._changed:
                watched = tuple(self._watched)
            for process in watched:
                # One that can't be watched must not leave the others unwatched.
                try:
                    with boundary(SandboxBroken, "watching a command"):
                        process.check()
                except SandboxBroken as error:
                    process.give_up(error)


watchdog = Watchdog()
