"""What outlives a killed worker, and how the next one finds it.

Whatever the kernel does not free by itself when a process dies (a cgroup, a folder, a container)
is written down in a slot: a file that its owner holds locked. A lock ends with its owner, however
it ended, so a slot that can be locked and is not empty belongs to nobody: the reaper cleans up what
it names. A slot also lends its owner a user id that no other sandbox of this machine has.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import stat
from collections.abc import Callable, Mapping
from pathlib import Path

from rlagents.envs.sandbox.result import Starved
from rlagents.errors import SandboxBroken

COUNT = 4096
FIRST_UID = 2_000_000_000
"""Of the sandboxes of root; nothing else uses such numbers."""

Cleaner = Callable[[str], None]
"""Removes one left-over thing, given how the slot names it. Harmless when it is gone."""


class Later(SandboxBroken):
    """From a cleaner that can't reach now what it has to remove: the slot stays for a later one."""


class Slot:
    """A number that is ours while we hold it, and the list of what would be left behind."""

    def __init__(self, number: int, descriptor: int) -> None:
        self.number = number
        self._descriptor = descriptor
        self._left: list[tuple[str, str]] = []

    @property
    def uid(self) -> int:
        return FIRST_UID + self.number

    def note(self, kind: str, name: str) -> None:
        """Write down a thing before it is made.

        Args:
            kind: a key of the table of cleaners.
        """
        self._left.append((kind, name))
        self._write()

    def release(self) -> None:
        """Nothing is left: give the number back. Twice is fine."""
        if self._descriptor < 0:
            return
        self._left = []
        self._write()
        self.abandon()

    def abandon(self) -> None:
        """Give the number back uncleaned: the next who takes it does that. Twice is fine."""
        if self._descriptor < 0:
            return
        fcntl.flock(self._descriptor, fcntl.LOCK_UN)  # a process forked from us has it open too
        os.close(self._descriptor)
        self._descriptor = -1

    def _write(self) -> None:
        data = json.dumps(self._left).encode() if self._left else b""
        os.pwrite(self._descriptor, data, 0)
        os.ftruncate(self._descriptor, len(data))


def folder() -> Path:
    """Where the slots of this user are, made and owned by them alone.

    Raises:
        SandboxBroken: it can't be made, or is somebody else's.
    """
    me = os.geteuid()
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    base = Path("/run") if me == 0 else Path(runtime) if runtime else Path("/tmp")
    if not (base.is_dir() and os.access(base, os.W_OK)):
        base = Path("/tmp")
    path = base / f"rlagents-{me}"
    try:
        with contextlib.suppress(FileExistsError):
            path.mkdir(mode=0o700)
        found = os.lstat(path)
    except OSError as error:
        raise SandboxBroken(f"a folder for sandboxes in use can't be made: {error}") from error
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != me or found.st_mode & 0o077:
        raise SandboxBroken(f"{path}: expected a folder of ours with mode 0700; remove it")
    return path


def take(cleaners: Mapping[str, Cleaner], *, first: int = 0) -> Slot:
    """The lowest free slot, with whatever its last owner left cleaned up.

    Raises:
        Starved: all are taken.
    """
    where = folder()
    for number in range(first, COUNT):
        slot = _try(where, number, cleaners)
        if slot is not None:
            return slot
    raise Starved(f"all {COUNT} sandboxes of this machine are in use")


def reap(cleaners: Mapping[str, Cleaner]) -> int:
    """Clean up after every owner that is no more; the number of slots that were cleaned."""
    where, count = folder(), 0
    for name in sorted(os.listdir(where)):
        path = where / name
        if not name.isdigit() or path.stat().st_size == 0:
            continue
        slot = _try(where, int(name), cleaners)
        if slot is not None:
            count += 1
            slot.release()
    return count


def _try(where: Path, number: int, cleaners: Mapping[str, Cleaner]) -> Slot | None:
    """The slot, locked and clean, or None when somebody has it."""
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
    descriptor = os.open(where / str(number), flags, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    slot = Slot(number, descriptor)
    try:
        written = os.pread(descriptor, 1 << 20, 0)
        left = json.loads(written) if written else []
        if any(kind not in cleaners for kind, _ in left):  # another tier's: its reaper will come
            os.close(descriptor)
            return None
        for kind, name in left:
            cleaners[kind](name)
        slot._write()
    except (Later, SandboxBroken, ValueError, OSError):
        # What can't be cleaned up now, or read at all, must not stop everybody else.
        os.close(descriptor)
        return None
    except BaseException:
        os.close(descriptor)
        raise
    return slot
