"""What an attack leaves on the host: found by comparing what is ours before it and afterwards.

Only what can be told to be ours is looked at, because other programs work on the same machine.
Processes are found however they hide: this process takes in every orphan below it
(`spawn` makes it a subreaper), so whatever an attack started still descends from it.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from rlagents.envs.sandbox import proctree, slots
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


@dataclass(frozen=True, slots=True)
class Note:
    """A thing that a slot names, to be removed with its owner."""

    number: int
    """Of the slot."""
    kind: str
    name: str


def mark() -> Mark:
    """What there is now."""
    return Mark(frozenset(_processes()), _descriptors(), frozenset(_mounts()))


def wait_until_gone(before: Mark, noted: Iterable[Note]) -> tuple[float, list[str]]:
    """Wait until nothing is left, for a little longer than the promised time.

    Args:
        noted: what the slots of the sandboxes named.

    Returns:
        Seconds, and what is still there.
    """
    began, noted = time.monotonic(), tuple(noted)
    while True:
        found = left(before, noted)
        seconds = time.monotonic() - began
        if not found or seconds > CLEAN_UP_S:
            return seconds, found
        time.sleep(_PAUSE_S)


def left(before: Mark, noted: Iterable[Note]) -> list[str]:
    """What is there now and was not before, in words."""
    found = []
    for pid, start in _processes() - before.processes:
        if start is not None:
            found.append(f"process {pid} ({_name(pid)})")
    found += [f"mount {line}" for line in _mounts() - before.mounts]
    for kind, count in (_descriptors() - before.descriptors).items():
        found.append(f"{count} descriptor(s) of {kind}")
    return found + _of_slots(noted)


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


def notes(numbers: Iterable[int]) -> set[Note]:
    """What slots name as what must be removed."""
    found = set()
    for number in numbers:
        with contextlib.suppress(FileNotFoundError):
            text = (slots.folder() / str(number)).read_text(encoding="utf-8")
            found |= {Note(number, kind, name) for kind, name in (json.loads(text) if text else [])}
    return found


def _of_slots(noted: Iterable[Note]) -> list[str]:
    """What slots named, and is still there or named."""
    noted = set(noted)
    still = notes({note.number for note in noted})
    found = [f"slot {n.number} still names {n.kind} {n.name}" for n in noted & still]
    for note in noted:
        if note.name.startswith("/") and os.path.lexists(note.name):
            found.append(f"{note.kind} {note.name}")
    return found
