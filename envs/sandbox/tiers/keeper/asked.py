"""Calls that a program may make only after the keeper looked at them (seccomp user notification).

For an ordinary user, whom the kernel gives no user id for the command: it bounds forks only over
all processes of the user, and Landlock does not watch changes of modes and dates, so the user's
own files anywhere could be made unreadable. The keeper counts, and makes such changes itself, in
the workspace alone: on the object that it holds open, so that nothing can be swapped meanwhile.

Loaded by the keeper, so it imports the standard library alone.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import stat
import struct
import time
from collections.abc import Callable, Mapping, Sequence

COUNTED = ("fork", "vfork", "clone")
CHANGES = ("chmod", "fchmod", "fchmodat", "fchmodat2", "utime", "utimes", "futimesat", "utimensat")
_RECEIVE, _SEND = 0xC0502100, 0xC0182101
_QUESTION = struct.Struct("=QIIiIQ6Q")
_ANSWER = struct.Struct("=QqiI")
_CONTINUE = 1
_HERE = -100
_EMPTY_PATH, _NO_FOLLOW = 0x1000, 0x100
_PATH_MAX = 4096
_UNSEEN_S = 0.1
_NOW, _OMIT = 0x3FFFFFFF, 0x3FFFFFFE


class Asked:
    """Answers the questions that arrive at a listener."""

    def __init__(
        self,
        listener: int,
        names: Mapping[int, str],
        *,
        most: int,
        count: Callable[[], int],
        inside: Sequence[str],
    ) -> None:
        """Of the calls with these numbers and names.

        Args:
            most: processes and threads at once.
            count: how many there are now; slow.
            inside: folders, as real paths, below which modes and dates may be changed.
        """
        self.listener = listener
        self._names = names
        self._most = most
        self._count = count
        self._inside = tuple(f"{path}/" for path in inside)
        self._at_most = 1
        self._forking: dict[int, float] = {}
        """Tasks that were allowed a fork, and when: what they make may not be there to count."""

    def answer(self) -> None:
        """Take one question and answer it."""
        question = bytearray(_QUESTION.size)
        with contextlib.suppress(OSError):  # whoever asked is gone
            fcntl.ioctl(self.listener, _RECEIVE, question)
            number, pid, _, call, _, _, *arguments = _QUESTION.unpack(question)
            name = self._names.get(call, "")
            error, flags = 0, 0
            if name in COUNTED:
                error, flags = self._fork(pid)
            else:
                try:
                    self._change(name, pid, arguments)
                except OSError as refused:
                    error = refused.errno or errno.EPERM
            fcntl.ioctl(self.listener, _SEND, _ANSWER.pack(number, 0, -error, flags))

    def _fork(self, task: int) -> tuple[int, int]:
        now = time.monotonic()
        self._forking.pop(task, None)  # it asks again, so the last is done
        # Counting is dear, so only where what was there last and all since could be too many.
        if self._at_most >= self._most:
            recent = {t: at for t, at in self._forking.items() if now - at < _UNSEEN_S}
            self._forking = recent
            self._at_most = self._count() + len(recent)
        if self._at_most >= self._most:
            return errno.EAGAIN, 0
        self._at_most += 1
        self._forking[task] = now
        return 0, _CONTINUE

    def _change(self, name: str, pid: int, arguments: Sequence[int]) -> None:
        with open(f"/proc/{pid}/mem", "rb", buffering=0) as memory:
            where, path, flags = _named(name, arguments, memory.fileno())
            apply = _effect(name, arguments, memory.fileno())
        held = _hold(pid, where, path, flags)
        try:
            real = os.readlink(f"/proc/self/fd/{held}")
            if not f"{real}/".startswith(self._inside):
                raise PermissionError(errno.EPERM, "outside")
            apply(f"/proc/self/fd/{held}")
        finally:
            os.close(held)


def _named(name: str, arguments: Sequence[int], memory: int) -> tuple[int, bytes | None, int]:
    """The folder's descriptor, the path or None (the descriptor itself), and the flags."""
    first = _signed(arguments[0])
    if name == "fchmod":
        return first, None, 0
    if name in ("chmod", "utime", "utimes"):
        return _HERE, _text(memory, arguments[0]), 0
    flags = {"fchmodat2": arguments[3], "utimensat": arguments[3]}.get(name, 0)
    path = _text(memory, arguments[1]) if arguments[1] else None
    if path == b"" and flags & _EMPTY_PATH:
        path = None
    return first, path, flags


def _effect(name: str, arguments: Sequence[int], memory: int) -> Callable[[str], None]:
    """What is to be done to the object."""
    if "chmod" in name:
        mode = arguments[{"chmod": 1, "fchmod": 1}.get(name, 2)] & 0o777
        return lambda path: os.chmod(path, mode)
    times = _times(name, arguments[1 if name in ("utime", "utimes") else 2], memory)

    def apply(path: str) -> None:
        found = os.stat(path)
        old = (found.st_atime_ns, found.st_mtime_ns)
        if times is None:
            os.utime(path)
        else:
            kept = [o if t is None else t for o, t in zip(old, times, strict=True)]
            os.utime(path, ns=(kept[0], kept[1]))

    return apply


def _times(name: str, address: int, memory: int) -> list[int | None] | None:
    """Access and change, in ns; None in it: as it was; None: now."""
    if not address:
        return None
    size = 16 if name == "utime" else 32
    data = os.pread(memory, size, address)
    if name == "utime":
        return [second * 10**9 for second in struct.unpack("=2q", data)]
    a_s, a_part, m_s, m_part = struct.unpack("=4q", data)
    if name != "utimensat":
        return [a_s * 10**9 + a_part * 1000, m_s * 10**9 + m_part * 1000]
    if (a_part, m_part) == (_NOW, _NOW):
        return None
    return [_precise(a_s, a_part), _precise(m_s, m_part)]


def _precise(seconds: int, part: int) -> int | None:
    if part == _OMIT:
        return None
    if part == _NOW:
        return time.time_ns()
    return seconds * 10**9 + part


def _hold(pid: int, where: int, path: bytes | None, flags: int) -> int:
    """The object that a program means, held so that it can't become another."""
    base = f"/proc/{pid}/cwd" if where == _HERE else f"/proc/{pid}/fd/{where}"
    if path is None:
        return os.open(base, os.O_PATH | os.O_CLOEXEC)
    follow = os.O_NOFOLLOW if flags & _NO_FOLLOW else 0
    for name in (b"/proc/self/", b"/proc/thread-self/"):  # theirs, not ours
        if path.startswith(name):
            path = b"/proc/%d/" % pid + path[len(name) :]
    folder = os.open(base, os.O_PATH | os.O_CLOEXEC) if not path.startswith(b"/") else None
    try:
        held = os.open(path, os.O_PATH | os.O_CLOEXEC | follow, dir_fd=folder)
    finally:
        if folder is not None:
            os.close(folder)
    if stat.S_ISLNK(os.fstat(held).st_mode):
        os.close(held)  # a link itself has no mode, and its dates are of no use to anybody
        raise OSError(errno.EOPNOTSUPP, "a link")
    return held


def _text(memory: int, address: int) -> bytes:
    """A path in the memory of a program."""
    data = b""
    while len(data) < _PATH_MAX:  # by pages: the next may not be there
        part = os.pread(memory, 4096 - (address + len(data)) % 4096, address + len(data))
        if not part:
            break
        data += part
        text, end, _ = data.partition(b"\0")
        if end:
            return text
    raise OSError(errno.ENAMETOOLONG, "a path without an end")


def _signed(value: int) -> int:
    value &= 0xFFFFFFFF
    return value - 2**32 if value >= 2**31 else value
