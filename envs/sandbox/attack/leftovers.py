"""What an attack leaves on the host: found by comparing what is ours before it and afterwards.

Only what can be told to be ours is looked at, because other programs work on the same machine.
Processes are found however they hide: this process takes in every orphan below it
(`spawn` makes it a subreaper), so whatever an attack started still descends from it.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import tempfile
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from rlagents.envs.sandbox import cgroups, proctree, slots
from rlagents.envs.sandbox.tiers import layout

CLEAN_UP_S = 2.0
_PAUSE_S = 0.01
_OURS = (" rlagents ", "/newroot", "/oldroot", layout.PREFIX)
"""Any of these in a line of the mount table makes it a sandbox's."""


@dataclass(frozen=True, slots=True)
class Mark:
    """What there was."""

    processes: frozenset[tuple[int, int | None]]
    """(pid, start time) of everything below this process."""
    descriptors: Counter[str]
    """Of this process, counted by kind."""
    mounts: frozenset[str]
    """Lines of the host's mount table that can be a sandbox's."""


def mark() -> Mark:
    """What there is now."""
    return Mark(frozenset(_processes()), _descriptors(), frozenset(_mounts()))


def wait_until_gone(before: Mark, numbers: Iterable[int]) -> tuple[float, list[str]]:
    """Wait until nothing is left, for a little longer than the promised time.

    Args:
        numbers: of the slots that the sandboxes held.

    Returns:
        Seconds, and what is still there.
    """
    began, numbers = time.monotonic(), tuple(numbers)
    while True:
        found = left(before, numbers)
        seconds = time.monotonic() - began
        if not found or seconds > CLEAN_UP_S:
            return seconds, found
        time.sleep(_PAUSE_S)


def left(before: Mark, numbers: Iterable[int]) -> list[str]:
    """What is there now and was not before, in words."""
    found = []
    for pid, start in _processes() - before.processes:
        if start is not None:
            found.append(f"process {pid} ({_name(pid)})")
    found += [f"mount {line}" for line in _mounts() - before.mounts]
    for kind, count in (_descriptors() - before.descriptors).items():
        found.append(f"{count} descriptor(s) of {kind}")
    for number in numbers:
        found += _of_slot(number)
    return found


def _processes() -> set[tuple[int, int | None]]:
    me = os.getpid()
    return {(p, proctree.start_time(p)) for p in proctree.descendants(me) if p != me}


def _name(pid: int) -> str:
    with contextlib.suppress(OSError):
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
        state = stat.rpartition(")")[2].split()[0]
        return f"{b' '.join(words[:4]).decode(errors='replace')[:60]}, state {state}"
    return "gone meanwhile"


def _mounts() -> set[str]:
    text = Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="replace")
    return {line for line in text.splitlines() if any(word in line for word in _OURS)}


def _descriptors() -> Counter[str]:
    kinds: Counter[str] = Counter()
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):  # the one that lists the folder is gone
            link = os.readlink(f"/proc/self/fd/{name}")
            kinds[link.partition(":[")[0]] += 1
    return kinds


def _of_slot(number: int) -> list[str]:
    """What a slot of ours still names or owns, unless somebody else has the number by now."""
    path = slots.folder() / str(number)
    with contextlib.ExitStack() as exits:
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
        except FileNotFoundError:
            return []
        exits.callback(os.close, descriptor)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return [] if _elsewhere(path) else [f"slot {number} is still held by us"]
        found = [f"slot {number} still names things"] if os.fstat(descriptor).st_size else []
        return found + [f"cgroup {p}" for p in _groups(number)] + _folders(number)


def _elsewhere(path: Path) -> bool:
    """Whether another process has a file open, or at least we have not."""
    mine = 0
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            mine += os.readlink(f"/proc/self/fd/{name}") == str(path)
    return mine < 2  # one is the descriptor that asks


def _groups(number: int) -> list[Path]:
    found = cgroups.layout()
    if isinstance(found, str):
        return []
    groups = (root / f"rlagents-{number}" for root in {found.pids, found.unified})
    return [path for path in groups if path.exists()]


def _folders(number: int) -> list[str]:
    found = []
    for parent in {layout.parent(), tempfile.gettempdir()}:
        for name in os.listdir(parent):
            if name.startswith(f"{layout.PREFIX}{number}-"):
                found.append(f"folder {parent}/{name}")
    return found
