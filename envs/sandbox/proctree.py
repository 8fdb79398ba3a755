"""Reading /proc: which processes belong together, what they hold, what they used."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

PAGE = os.sysconf("SC_PAGE_SIZE")
TICK = 1.0 / os.sysconf("SC_CLK_TCK")
_WHOLE = 1 << 16
"""More than any of the files read here holds, so that one read is all of it."""
FREE_DESCRIPTORS = 16
"""Descriptors of a process that are not charged as memory."""


@dataclass(frozen=True, slots=True)
class Usage:
    """What the living processes of a tree hold and used."""

    memory: int
    """Bytes: the resident sizes (shared pages counted in each), and open descriptors beyond
    `FREE_DESCRIPTORS` a process at the size of a full socket buffer, because no figure of the
    kernel says what stands in the buffers of a local socket."""
    cpu_s: float
    """Including the children that they have waited for."""


def descendants(root: int) -> list[int]:
    """The process and everything below it, as seen now; empty when it is gone."""
    found, waiting = [], [root]
    while waiting:
        pid = waiting.pop()
        children = _children(pid)
        if children is None:
            continue
        found.append(pid)
        waiting += children
    return found


def usage(pids: Iterable[int]) -> Usage:
    """Sums over the processes; those that end meanwhile count nothing."""
    memory, cpu = 0, 0.0
    for pid in pids:
        try:
            memory += resident(pid) + _held_in_descriptors(pid)
            cpu += cpu_seconds(pid)
        except (OSError, IndexError, ValueError):
            continue
    return Usage(memory, cpu)


def resident(pid: int) -> int:
    """Bytes of a process that are in memory."""
    return int(_read(f"/proc/{pid}/statm").split()[1]) * PAGE


def proportional(pids: Iterable[int]) -> int:
    """Bytes, with shared pages divided among those that share them: slow to ask, exact to sum."""
    total = 0
    for pid in pids:
        try:
            for line in _read(f"/proc/{pid}/smaps_rollup").splitlines():
                if line.startswith("Pss:"):
                    total += int(line.split()[1]) * 1024
            total += _held_in_descriptors(pid)
        except (OSError, IndexError, ValueError):
            continue
    return total


def cpu_seconds(pid: int) -> float:
    """Of the process and of the children that it has waited for."""
    fields = _read(f"/proc/{pid}/stat").rpartition(")")[2].split()
    return sum(int(f) for f in fields[11:15]) * TICK


def parent(pid: int) -> int | None:
    """None when the process is gone."""
    try:
        return int(_read(f"/proc/{pid}/stat").rpartition(")")[2].split()[1])
    except (OSError, IndexError):
        return None


def start_time(pid: int) -> int | None:
    """Clock ticks after boot when the process began: with the pid, its identity. None: gone."""
    try:
        return int(_read(f"/proc/{pid}/stat").rpartition(")")[2].split()[19])
    except (OSError, IndexError):
        return None


def interrupt(pids: Iterable[int], members: Callable[[], Sequence[int]]) -> None:
    """Send SIGINT to those that still are among `members` once their number can't change hands."""
    for pid in pids:
        try:
            descriptor = os.pidfd_open(pid)
        except ProcessLookupError:
            continue
        try:
            if pid in members():
                signal.pidfd_send_signal(descriptor, signal.SIGINT)
        except ProcessLookupError:
            continue
        finally:
            os.close(descriptor)


def _children(pid: int) -> list[int] | None:
    """None when the process is gone. Children hang below the thread that made them."""
    try:
        threads = os.listdir(f"/proc/{pid}/task")
    except OSError:
        return None
    found = []
    for thread in threads:
        try:
            found += [int(c) for c in _read(f"/proc/{pid}/task/{thread}/children").split()]
        except OSError:
            continue
    return found


def _held_in_descriptors(pid: int) -> int:
    count = os.stat(f"/proc/{pid}/fd").st_size  # how many are open, since Linux 6.2
    return max(0, count - FREE_DESCRIPTORS) * _SOCKET_BUFFER


def _read(path: str) -> str:
    # Not `open`: sessions come here several times a turn, and this takes a third of the time.
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        data = os.read(descriptor, _WHOLE)
    finally:
        os.close(descriptor)
    return data.decode(errors="replace")


def _default_buffer() -> int:
    try:
        return int(Path("/proc/sys/net/core/wmem_default").read_text(encoding="ascii"))
    except (OSError, ValueError):
        return 212992


_SOCKET_BUFFER = _default_buffer()
