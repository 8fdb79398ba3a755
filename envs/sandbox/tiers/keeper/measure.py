"""How many processes are below the keeper, and how full its folders are.

Loaded by the keeper, so it imports the standard library alone.
"""

from __future__ import annotations

import contextlib
import os
import stat
import sys
from collections.abc import Sequence

_FEWFOLD = 8


def below() -> list[int]:
    """All descendants, as seen now."""
    found: list[int] = []
    waiting = [os.getpid()]
    while waiting:
        pid = waiting.pop()
        with contextlib.suppress(OSError):
            for thread in os.listdir(f"/proc/{pid}/task"):
                with open(f"/proc/{pid}/task/{thread}/children", encoding="ascii") as file:
                    below = [int(c) for c in file.read().split()]
                found += below
                waiting += below
    return found


def tasks() -> int:
    """Processes and threads below."""
    return sum(threads(pid) for pid in below())


def threads(pid: int) -> int:
    """Of a process; 0 when it is gone."""
    try:
        return os.stat(f"/proc/{pid}/task").st_nlink - 2
    except OSError:
        return 0


class Room:
    """What folders may hold: as much as is allowed, or as they held before if that was more.

    So a folder that is too full can be looked at and cleared, but not filled any further.
    """

    def __init__(self, folders: Sequence[tuple[str, int, int, str, str]]) -> None:
        """Of each folder: path, bytes, files, and the limits that these two are."""
        self._allowed = []
        for path, most_bytes, most_files, *keys in folders:
            size, files = _held(path, sys.maxsize, _FEWFOLD * most_files)
            self._allowed.append((path, max(most_bytes, size), max(most_files, files), keys))

    def over(self) -> str | None:
        """The limit that a folder is over."""
        for path, most_bytes, most_files, (of_bytes, of_files) in self._allowed:
            size, files = _held(path, most_bytes, most_files)
            if files > most_files:
                return of_files
            if size > most_bytes:
                return of_bytes
        return None


def _held(path: str, most_bytes: int, most_files: int) -> tuple[int, int]:
    """Bytes and files below a folder, at least until one is too many.

    Descends by descriptors, so that no depth hides anything: one that uses up all descriptors is
    itself too many files.
    """
    size, files = 0, 0
    several: set[int] = set()
    waiting: list[tuple[int, int | None]] = []
    try:
        waiting.append(_enter(path, None))
        while waiting and size <= most_bytes and files <= most_files:
            here, closed = waiting.pop()
            try:
                for name in os.listdir(here):
                    files += 1
                    if files > most_files:
                        break
                    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
                        found = os.stat(name, dir_fd=here, follow_symlinks=False)
                        if stat.S_ISDIR(found.st_mode):
                            waiting.append(_enter(name, here))
                        elif found.st_nlink == 1 or found.st_ino not in several:
                            several.add(found.st_ino)
                            size += found.st_blocks * 512
            finally:
                _leave(here, closed)
    except OSError:
        return size, most_files + 1
    finally:
        for left in waiting:
            _leave(*left)
    return size, files


def _enter(name: str, where: int | None) -> tuple[int, int | None]:
    """A folder's descriptor, and the mode to give back to it when it had to be opened for us."""
    flags = os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
    held = os.open(name, flags | os.O_PATH, dir_fd=where)
    try:
        mode = stat.S_IMODE(os.fstat(held).st_mode)
        closed = mode & 0o500 != 0o500 and os.geteuid() != 0
        if closed:
            os.chmod(f"/proc/self/fd/{held}", mode | 0o500)
        opened = os.open(f"/proc/self/fd/{held}", os.O_DIRECTORY | os.O_CLOEXEC)
    finally:
        os.close(held)
    return opened, mode if closed else None


def _leave(folder: int, closed: int | None) -> None:
    if closed is not None:
        os.fchmod(folder, closed)
    os.close(folder)
