"""Files in a folder that somebody hostile writes to, touched without being led astray.

Every path is resolved by the kernel below the folder's descriptor, and no link of any kind is
followed (`openat2`), so nothing outside can be reached however the folder changes meanwhile. Only
regular files with one name are opened, without waiting, and at most as much is read as was asked.
A kernel without `openat2` (before 5.6, or hidden by a container's filter) is asked component by
component instead.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fnmatch
import itertools
import os
import secrets
import stat
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

_OPENAT2 = 437
_NO_XDEV, _NO_MAGICLINKS, _NO_SYMLINKS, _BENEATH = 0x01, 0x02, 0x04, 0x08
_RESOLVE = _NO_XDEV | _NO_MAGICLINKS | _NO_SYMLINKS | _BENEATH
_MISSING = (errno.ENOSYS, errno.EPERM)
"""What `openat2` says where it is missing or filtered; EPERM may also be a true answer."""
_MADE_SO = (errno.EACCES, errno.EPERM, errno.ENXIO, errno.ENODEV, errno.ENOTDIR, errno.ENAMETOOLONG)
_MADE_SO_WRITING = (
    *_MADE_SO,
    errno.ENOSPC,
    errno.EDQUOT,
    errno.EISDIR,
    errno.EEXIST,
    errno.ENOTEMPTY,
    errno.ENOENT,
)
"""What the owner of a file can make `open` say: forbidden, a socket, a device, a path too long."""
MAX_DEPTH = 64
"""Folders below folders that a listing goes into."""
MAX_PATH = 4095
"""Bytes of a path that the kernel resolves in one go."""


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
        UnsafeFile: the path leaves the folder or meets a link, or is no name at all.
        OSError: as `open` would.
    """
    raw = _encoded(path)
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
    if number in _MISSING:
        return _walk(root, path, flags | os.O_CLOEXEC, mode)
    raise _failure(number, path)


def _walk(root: int, path: str, flags: int, mode: int) -> int:
    """The same without `openat2`: each folder is opened from the one above, never through a link.

    A folder that is moved meanwhile stays below the root or leaves with all that was opened of it,
    so that nothing is reached that was not put below the root.
    """
    parts = [p for p in path.split("/") if p not in ("", ".")] or ["."]
    if path.startswith("/") or ".." in parts:
        raise _failure(errno.EXDEV, path)
    step = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
    device, place = os.fstat(root).st_dev, os.dup(root)
    for number, part in enumerate(parts, start=1):
        how = flags if number == len(parts) else step
        try:
            found = os.open(part, how | os.O_NOFOLLOW, mode, dir_fd=place)
        except OSError as error:
            # Of a link where a folder is expected it is said that it is no folder.
            link = error.errno == errno.ENOTDIR and _is_link(part, place)
            raise _failure(errno.ELOOP if link else error.errno or 0, path) from None
        finally:
            os.close(place)
        place = found
        if os.fstat(place).st_dev != device:
            os.close(place)
            raise _failure(errno.EXDEV, path)
    return place


def _is_link(name: str, folder: int) -> bool:
    try:
        return stat.S_ISLNK(os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode)
    except OSError:
        return False


def _encoded(path: str) -> bytes:
    try:
        raw = os.fsencode(path)
    except UnicodeEncodeError:
        raise UnsafeFile(f"{_shown(path)}: no name of a file") from None
    if b"\0" in raw:
        raise UnsafeFile(f"{_shown(path)}: a zero byte in a name")
    return raw


def _shown(path: str) -> str:
    """For a message: escaped, and not as long as its author liked."""
    return repr(path) if len(path) <= 120 else f"{path[:120]!r}..."


def _failure(number: int, path: str) -> UnsafeFile | OSError:
    if number in (errno.ELOOP, errno.EXDEV, errno.EAGAIN):
        return UnsafeFile(f"{_shown(path)}: a link, or a path that leaves the workspace")
    return OSError(number, os.strerror(number), path)


def read(root: int, path: str, *, limit: int) -> bytes:
    """All of a regular file.

    Args:
        limit: bytes; a larger file is refused, also one that is mostly holes.

    Raises:
        UnsafeFile: a link, no regular file, one with several names, too large, or forbidden by
            its owner.
        FileNotFoundError: nothing is there.
        OSError: it can't be read, for reasons of the machine.
    """
    # Without waiting: a named pipe would block, a device might do anything.
    try:
        descriptor = open_beneath(root, path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY)
    except OSError as error:
        if error.errno in _MADE_SO:
            raise UnsafeFile(f"{_shown(path)}: can't be read: {error.strerror}") from None
        raise
    try:
        _require_plain(os.fstat(descriptor), path, limit)
    except BaseException:  # before a file object, which refuses a folder in its own words
        os.close(descriptor)
        raise
    with os.fdopen(descriptor, "rb", buffering=0) as file:
        parts, left = [], limit + 1  # however large it said it is: it may grow meanwhile
        while left > 0 and (data := file.read(min(left, 1 << 20))):
            parts.append(data)
            left -= len(data)
    if left <= 0:
        raise UnsafeFile(f"{_shown(path)}: more than {limit:,} bytes")
    return b"".join(parts)


def write(root: int, path: str, data: bytes, *, owner: int | None, mode: int = 0o644) -> None:
    """Write a file, whole or not at all, in place of whatever had the name; makes its folders.

    Args:
        owner: user and group id that it belongs to; None: to us.

    Raises:
        UnsafeFile: the path leaves the workspace or meets a link on the way, something stands
            there that is no file, or the workspace is full.
        OSError: it can't be written, for reasons of the machine.
    """
    try:
        _write(root, path, data, owner, mode)
    except OSError as error:
        if error.errno in _MADE_SO_WRITING:
            raise UnsafeFile(f"{_shown(path)}: can't be written: {error.strerror}") from None
        raise


def _write(root: int, path: str, data: bytes, owner: int | None, mode: int) -> None:
    *above, name = _parts(path)
    folder = _make_dirs(root, above, owner)
    try:
        temporary = f".{secrets.token_hex(8)}.writing"
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
        UnsafeFile: more than `limit` names, folders deeper than `MAX_DEPTH`, or paths longer than
            `MAX_PATH`.
    """
    waiting, count = [("", 0)], 0
    while waiting:
        path, depth = waiting.pop()
        if depth > MAX_DEPTH or len(os.fsencode(path)) > MAX_PATH:
            raise UnsafeFile(f"{_shown(path)}: folders deeper than {MAX_DEPTH}, or a long path")
        try:
            folder = open_beneath(root, path or ".", os.O_RDONLY | os.O_DIRECTORY)
        except (OSError, UnsafeFile):  # gone, or forbidden by its owner
            continue
        below = []
        try:
            with os.scandir(folder) as found:
                some = list(itertools.islice(found, limit - count + 1))
            count += len(some)
            if count > limit:
                raise UnsafeFile(f"more than {limit:,} names in the workspace")
            for entry in sorted(some, key=lambda e: e.name):
                try:
                    seen = os.stat(entry.name, dir_fd=folder, follow_symlinks=False)
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


def copy_out(
    root: int,
    patterns: Iterable[str],
    *,
    limit: int = 32 * 2**20,
    count: int = 1000,
) -> dict[str, bytes]:
    """The files whose paths match one of the patterns, for a grader to look at elsewhere.

    Args:
        patterns: as in `fnmatch`, where `*` matches `/` too: `answer.csv`, `results/*.json`.
        limit: bytes of all of them together.
        count: files.

    Returns:
        Path -> content. A file that goes meanwhile is left out.

    Raises:
        UnsafeFile: more than allowed, or something that matches and is neither a folder nor a
            plain file.
        OSError: for reasons of the machine.
    """
    wanted = tuple(patterns)
    found: dict[str, bytes] = {}
    for entry in entries(root):
        if entry.kind == "dir" or not any(fnmatch.fnmatchcase(entry.path, p) for p in wanted):
            continue
        if len(found) >= count:
            raise UnsafeFile(f"more than {count:,} files match")
        try:
            found[entry.path] = data = read(root, entry.path, limit=limit)
        except FileNotFoundError:
            continue
        limit -= len(data)
    return found


def _kind(mode: int) -> str:
    kinds = {stat.S_IFREG: "file", stat.S_IFDIR: "dir", stat.S_IFLNK: "link"}
    return kinds.get(stat.S_IFMT(mode), "other")


def _require_plain(found: os.stat_result, path: str, limit: int) -> None:
    if not stat.S_ISREG(found.st_mode):
        raise UnsafeFile(f"{_shown(path)}: not a regular file")
    if found.st_nlink != 1:
        raise UnsafeFile(f"{_shown(path)}: a file with {found.st_nlink} names")
    if found.st_size > limit:
        raise UnsafeFile(f"{_shown(path)}: {found.st_size:,} bytes, more than {limit:,}")


def _parts(path: str) -> list[str]:
    parts = [p for p in path.split("/") if p not in ("", ".")]
    _encoded(path)
    if path.startswith("/") or not parts or ".." in parts:
        raise UnsafeFile(f"{_shown(path)}: expected a path inside the workspace")
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
