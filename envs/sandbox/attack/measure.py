"""What an attack costs the host while it runs, measured on the host."""

from __future__ import annotations

import os
import threading
from pathlib import Path

from rlagents.envs.sandbox import proctree

_PAUSE_S = 0.01
_MIB = 2**20
NOISE_MB = 512
"""What other programs of the machine may take meanwhile without being blamed on the attack."""


class Watch:
    """Looks at the host while the block lasts.

    Its thread consumes nothing, produces maxima, waits for the next look, stops with the block.
    """

    def __enter__(self) -> Watch:
        self.processes = 0
        """The most descendants of this process at once, beyond those before."""
        self._before = len(_descendants())
        self._had = available_mb()
        self._low = self._had
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._look, name="attack-watch", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._stop.set()
        self._thread.join()

    @property
    def taken_mb(self) -> int:
        """The most memory that was missing at once, of the whole machine."""
        return self._had - self._low

    def _look(self) -> None:
        while not self._stop.wait(_PAUSE_S):
            self._low = min(self._low, available_mb())
            self.processes = max(self.processes, len(_descendants()) - self._before)


def available_mb() -> int:
    """Memory that programs could get on this machine now, in MiB."""
    for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) // 1024
    raise OSError("/proc/meminfo names no MemAvailable")


def own_mb() -> int:
    """Resident memory of this process, in MiB."""
    return proctree.resident(os.getpid()) // _MIB


def _descendants() -> list[int]:
    return proctree.descendants(os.getpid())
