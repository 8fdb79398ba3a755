"""The folder of the host that stands for a workspace where nothing can be mounted.

Programs of an agent write to it, so it is removed with care: no link is followed, depth costs no
descriptors, and folders that their owner closed are opened.
"""

from __future__ import annotations

import contextlib
import os
import stat

from rlagents.envs.sandbox.tiers.layout import PREFIX
from rlagents.errors import SandboxBroken


def remove(path: str) -> None:
    """Remove a workspace's folder and all in it. Harmless when it is gone.

    Raises:
        SandboxBroken: it can't be removed.
    """
    if not os.path.basename(path).startswith(PREFIX):
        raise SandboxBroken(f"{path}: not a folder of a sandbox")
    discard(path)


def discard(path: str) -> None:
    """Remove a folder that programs of a sandbox may have put anything in place of.

    Raises:
        SandboxBroken: it can't be removed.
    """
    if os.path.isdir(path) and not os.path.islink(path):
        empty(path)
        with contextlib.suppress(FileNotFoundError):
            os.rmdir(path)
    else:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)


def empty(path: str) -> None:
    """Remove everything in a folder. Harmless when it is gone.

    Raises:
        SandboxBroken: something can't be removed.
    """
    try:
        top = _open(path, None)
    except FileNotFoundError:
        return
    except OSError as error:
        raise SandboxBroken(f"removing {path}: {error}") from error
    try:
        _empty(top)
    except OSError as error:
        raise SandboxBroken(f"removing what is in {path}: {error}") from error
    finally:
        os.close(top)


def _empty(top: int) -> None:
    # Folders are moved up to the top before they are gone into: two descriptors do at any depth,
    # and no path is ever longer than a name.
    number = 0
    while names := os.listdir(top):
        for name in names:
            if not _is_folder(name, top):
                os.unlink(name, dir_fd=top)
                continue
            below = _open(name, top)
            try:
                for inner in os.listdir(below):
                    if _is_folder(inner, below):
                        # Moving a folder rewrites its `..`, so it must be writable.
                        os.close(_open(inner, below))
                        number += 1
                        moved = _unused(top, number)
                        os.rename(inner, moved, src_dir_fd=below, dst_dir_fd=top)
                    else:
                        os.unlink(inner, dir_fd=below)
            finally:
                os.close(below)
            os.rmdir(name, dir_fd=top)


def _unused(top: int, number: int) -> str:
    name = f".removed-{number}"
    while True:
        try:
            os.stat(name, dir_fd=top, follow_symlinks=False)
        except FileNotFoundError:
            return name
        name += "-"


def _is_folder(name: str, where: int) -> bool:
    return stat.S_ISDIR(os.stat(name, dir_fd=where, follow_symlinks=False).st_mode)


def _open(name: str, where: int | None) -> int:
    """A folder's descriptor, with all rights for its owner."""
    flags = os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
    held = os.open(name, flags | os.O_PATH, dir_fd=where)
    try:
        if os.fstat(held).st_mode & 0o700 != 0o700:
            os.chmod(f"/proc/self/fd/{held}", 0o700)
        return os.open(f"/proc/self/fd/{held}", os.O_DIRECTORY | os.O_CLOEXEC)
    finally:
        os.close(held)
