"""Files in a folder that somebody hostile writes to, touched without being led astray.

Every path is resolved by the kernel below the folder's descriptor, and no link of any kind is
followed (`openat2`), so nothing outside can be reached however the folder changes meanwhile. Only
regular files with one name are opened, without waiting, and at most as much is read as was asked.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass

_OPENAT2 = 437
_NO_XDEV, _NO_MAGICLINKS, _NO_SYMLINKS, _BENEATH = 0x01, 0x02, 0x04, 0x08
_RESOLVE = _NO_XDEV | _NO_MAGICLINKS | _NO_SYMLINKS | _BENEATH
MAX_DEPTH = 64
"""Folders below folders that a listing goes into."""


class UnsafeFile(ValueError):
    """Not a plain file of the workspace, or larger than allowed. It is the agent's doing."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A name in the workspace."""

    path: str
    """Relative, with `/`; undecodable bytes as surrogates. It may hold any other character."""
    kind: str
    """`file`, `dir`, `link` or `other`."""
    size: int


class _How(ctypes.Structure):
    _fields_ = [
        ("flags", ctypes.c_uint64),
        ("mode", ctypes.c_uint64),
        ("resolve", ctypes.c_uint64),
    ]


_libc = ctypes.CDLL(None, use_errno=True)


def open_beneath(root: int, path: str, flags: int, mode: int = 0) -> int:
    """A descriptor of a path below a folder, with no link followed on the way.

    Raises:
        UnsafeFile: the path leaves the folder or meets a link.
        OSError: as `open` would.
    """
    raw = os.fsencode(path)
    if b"\0" in raw:
        raise UnsafeFile(f"{path!r}: a zero byte in a name")
    how = _How(flags | os.O_CLOEXEC, mode, _RESOLVE)
    for _ in range(8):  # EAGAIN: something was renamed on the way
        found = _libc.syscall(
            _OPENAT2, root, ctypes.c_char_p(raw), ctypes.byref(how), ctypes.sizeof(how)
        )
        number = ctypes.get_errno()
        if found >= 0 or number != errno.EAGAIN:
            break
    if found >= 0:
        return found
    if number in (errno.ELOOP, errno.EXDEV, errno.EAGAIN):
        raise UnsafeFile(f"{path!r}: a link, or a path that leaves the workspace")
    raise OSError(number, os.strerror(number), path)


def read(root: int, path: str, *, limit: int) -> bytes:
    """All of a regular file.

    Args:
        limit: bytes; a larger file is refused, also one that is mostly holes.

    Raises:
        UnsafeFile: a link, no regular file, one with several names, or too large.
        FileNotFoundError: nothing is there.
        OSError: it can't be read.
    """
    # Without waiting: a named pipe would block, a device might do anything.
    descriptor = open_beneath(root, path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY)
    with os.fdopen(descriptor, "rb", buffering=0) as file:
        _require_plain(os.fstat(descriptor), path)
        parts, left = [], limit + 1
        while left > 0 and (data := file.read(min(left, 1 << 20))):
            parts.append(data)
            left -= len(data)
    if left <= 0:
        raise UnsafeFile(f"{path!r}: more than {limit:,} bytes")
    return b"".join(parts)


def write(root: int, path: str, data: bytes, *, owner: int | None, mode: int = 0o644) -> None:
    """Write a file, whole or not at all, in place of whatever had the name; makes its folders.

    Args:
        owner: user and group id that it belongs to; None: to us.

    Raises:
        UnsafeFile: the path leaves the workspace or meets a link on the way.
        OSError: it can't be written, a full workspace included.
    """
    *above, name = _parts(path)
    folder = _make_dirs(root, above, owner)
    try:
        temporary = f".{os.getpid()}.{name[:100]}.writing"
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary, dir_fd=folder)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        descriptor = os.open(temporary, flags, mode, dir_fd=folder)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(data)
                file.flush()
                os.fchmod(descriptor, mode)
                if owner is not None:
                    os.fchown(descriptor, owner, owner)
            os.rename(temporary, name, src_dir_fd=folder, dst_dir_fd=folder)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(temporary, dir_fd=folder)
            raise
    finally:
        os.close(folder)


def entries(root: int, *, limit: int = 10_000) -> Iterator[Entry]:
    """What is in the workspace, folder by folder in order of the names.

    Raises:
        UnsafeFile: more than `limit` names, or folders deeper than `MAX_DEPTH`.
    """
    waiting, count = [("", 0)], 0
    while waiting:
        path, depth = waiting.pop()
        if depth > MAX_DEPTH:
            raise UnsafeFile(f"{path[:100]!r}...: folders deeper than {MAX_DEPTH}")
        try:
            folder = open_beneath(root, path or ".", os.O_RDONLY | os.O_DIRECTORY)
        except (OSError, UnsafeFile):  # gone, or forbidden by its owner
            continue
        below = []
        try:
            with os.scandir(folder) as found:
                names = sorted(found, key=lambda e: e.name)
            for entry in names:
                count += 1
                if count > limit:
                    raise UnsafeFile(f"more than {limit:,} names in the workspace")
                try:
                    seen = entry.stat(follow_symlinks=False)
                except OSError:
                    continue
                whole = f"{path}/{entry.name}" if path else entry.name
                kind = _kind(seen.st_mode)
                yield Entry(whole, kind, seen.st_size if kind == "file" else 0)
                if kind == "dir":
                    below.append((whole, depth + 1))
        finally:
            os.close(folder)
        waiting += reversed(below)


def _kind(mode: int) -> str:
    kinds = {stat.S_IFREG: "file", stat.S_IFDIR: "dir", stat.S_IFLNK: "link"}
    return kinds.get(stat.S_IFMT(mode), "other")


def _require_plain(found: os.stat_result, path: str) -> None:
    if not stat.S_ISREG(found.st_mode):
        raise UnsafeFile(f"{path!r}: not a regular file")
    if found.st_nlink != 1:
        raise UnsafeFile(f"{path!r}: a file with {found.st_nlink} names")


def _parts(path: str) -> list[str]:
    parts = [p for p in path.split("/") if p not in ("", ".")]
    if path.startswith("/") or not parts or ".." in parts or "\0" in path:
        raise UnsafeFile(f"{path!r}: expected a path inside the workspace")
    return parts


def _make_dirs(root: int, parts: list[str], owner: int | None) -> int:
    folder = os.dup(root)
    try:
        for name in parts:
            with contextlib.suppress(FileExistsError):
                os.mkdir(name, 0o755, dir_fd=folder)
                if owner is not None:
                    os.chown(name, owner, owner, dir_fd=folder, follow_symlinks=False)
            below = open_beneath(folder, name, os.O_RDONLY | os.O_DIRECTORY)
            os.close(folder)
            folder = below
    except BaseException:
        os.close(folder)
        raise
    return folder
