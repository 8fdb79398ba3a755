"""Reading /proc: which processes belong together, what they hold, what they used."""

from __future__ import annotations

import contextlib
import errno
import os
import signal
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

PAGE = os.sysconf("SC_PAGE_SIZE")
TICK = 1.0 / os.sysconf("SC_CLK_TCK")
_WHOLE = 1 << 16
"""More than any of the files read here holds, so that one read is all of it."""
_QUEUED = (("sockstat", "TCP", "tcp"), ("sockstat6", "TCP6", "tcp6"))
_FREE_CONNECTIONS = 8
"""Ends of connections over a loopback that may hold what they like."""
_LOOKS = 12
FREE_SOCKETS = 64
"""Local sockets of a sandbox that are not charged as memory beside their descriptors."""
FREE_DESCRIPTORS = 16
"""Descriptors of a process that are not charged as memory."""

_OURS = (errno.EMFILE, errno.ENFILE, errno.ENOMEM)
"""What goes wrong with us and not with the process that we look at."""


@dataclass(frozen=True, slots=True)
class Usage:
    """What the living processes of a tree hold and used."""

    memory: int
    """Bytes: the resident sizes (shared pages counted in each), and open descriptors beyond
    `FREE_DESCRIPTORS` a process at the size of a full socket buffer, because no figure of the
    kernel says what stands in the buffers of a local socket."""
    cpu_s: float
    """Including the children that they have waited for."""
    sizes: Mapping[int, int]
    """What makes up `memory`: process -> bytes."""


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
    """Sums over the processes; those that end meanwhile count what was read before.

    Raises:
        OSError: we can't look, which must not read as "nobody is there".
    """
    sizes: dict[int, int] = {}
    cpu = 0.0
    for pid in pids:
        try:
            sizes[pid] = resident(pid)
            cpu += cpu_seconds(pid)
            sizes[pid] += _held_in_descriptors(pid)
        except OSError as error:
            if error.errno in _OURS:
                raise
        except (IndexError, ValueError):
            continue
    return Usage(sum(sizes.values()), cpu, sizes)


def usage_of_all(members: Callable[[], Sequence[int]]) -> Usage:
    """The largest sums of several looks, as many as it takes to see the same processes twice.

    A process that clones itself and ends, over and over, keeps its memory and is in no list for
    long enough to be asked; it is caught by looking often.
    """
    most, pids = Usage(0, 0.0, {}), members()
    for _ in range(_LOOKS):
        seen = usage(pids)
        larger = seen if seen.memory > most.memory else most
        most = Usage(larger.memory, max(most.cpu_s, seen.cpu_s), larger.sizes)
        before, pids = pids, members()
        if pids == before:
            break
    return most


def resident(pid: int) -> int:
    """Bytes of a process that are in memory."""
    return int(_read(f"/proc/{pid}/statm").split()[1]) * PAGE


def proportional(seen: Usage) -> int:
    """Bytes, with shared pages divided among those that share them: slow to ask, exact to sum.

    A process that has ended since it was seen counts as it was: it may have handed its memory on.
    """
    total = 0
    for pid, size in seen.sizes.items():
        try:
            total += _share(pid) + _held_in_descriptors(pid)
        except (OSError, IndexError, ValueError):
            total += size
    return total


def _share(pid: int) -> int:
    for line in _read(f"/proc/{pid}/smaps_rollup").splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) * 1024
    raise ProcessLookupError(f"process {pid} has no memory any more")


def queued(pid: int) -> int:
    """Bytes that the sockets of a process's network namespace, one of its sandbox alone, can hold.

    Of local sockets only the number can be had: connections that wait to be accepted and
    descriptors that are under way are among them, though no process has them open.
    """
    try:
        local = max(0, _lines(f"/proc/{pid}/net/unix") - 1 - FREE_SOCKETS) * _SOCKET_BUFFER
        return local + sum(_in_queues(pid, *names) for names in _QUEUED)
    except OSError:
        return 0


def cpu_seconds(pid: int) -> float:
    """Of the process and of the children that it has waited for."""
    fields = _read(f"/proc/{pid}/stat").rpartition(")")[2].split()
    return sum(int(f) for f in fields[11:15]) * TICK


def first_to_go(pid: int) -> None:
    """Have the kernel end it, and what it will start, before anything else when memory is short.

    Harmless when it is gone.
    """
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        Path(f"/proc/{pid}/oom_score_adj").write_text("1000", encoding="ascii")


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


def kill_marked(word: str) -> None:
    """Kill every process that has a word among its arguments. Harmless when none has."""
    wanted = word.encode()
    for name in os.listdir("/proc"):
        if not name.isdigit():
            continue
        try:
            descriptor = os.pidfd_open(int(name))
        except OSError:
            continue
        try:
            if wanted in Path(f"/proc/{name}/cmdline").read_bytes().split(b"\0"):
                signal.pidfd_send_signal(descriptor, signal.SIGKILL)
        except OSError:
            continue
        finally:
            os.close(descriptor)


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


def children(pid: int) -> list[int]:
    """Those right below the process, dead ones that it has not waited for included."""
    return _children(pid) or []


def dead(pid: int) -> str | None:
    """The name of a process that has ended and was not waited for; None for any other."""
    try:
        before, _, after = _read(f"/proc/{pid}/stat").rpartition(")")
    except OSError:
        return None
    return before.partition("(")[2] if after.split()[:1] == ["Z"] else None


def _children(pid: int) -> list[int] | None:
    """None when the process is gone. Children hang below the thread that made them."""
    try:
        threads = os.listdir(f"/proc/{pid}/task")
    except OSError as error:
        if error.errno in _OURS:
            raise
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


def _lines(path: str) -> int:
    descriptor, count = os.open(path, os.O_RDONLY | os.O_CLOEXEC), 0
    try:
        while data := os.read(descriptor, _WHOLE):
            count += data.count(b"\n")
    finally:
        os.close(descriptor)
    return count


def _in_queues(pid: int, counted: str, protocol: str, listed: str) -> int:
    """Bytes sent and not taken, twice over: the kernel keeps them with overhead."""
    for line in _read(f"/proc/{pid}/net/{counted}").splitlines():
        if line.startswith(f"{protocol}: inuse ") and int(line.split()[2]) > _FREE_CONNECTIONS:
            break
    else:
        return 0  # a look at the list takes milliseconds, however short it is
    total = 0
    with open(f"/proc/{pid}/net/{listed}", encoding="ascii") as file:
        next(file)
        for line in file:
            sent, _, received = line.split()[4].partition(":")
            total += int(sent, 16) + int(received, 16)
    return 2 * total


def _default_buffer() -> int:
    try:
        return int(Path("/proc/sys/net/core/wmem_default").read_text(encoding="ascii"))
    except (OSError, ValueError):
        return 212992


_SOCKET_BUFFER = _default_buffer()
