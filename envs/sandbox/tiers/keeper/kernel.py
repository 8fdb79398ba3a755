"""Calls to the kernel that Python has no function for.

Loaded by the keeper, so it imports the standard library alone.
"""

from __future__ import annotations

import ctypes
import os
from typing import Any

_SET_SECCOMP, _FILTER_MODE = 22, 2
_SECCOMP = {"x86_64": 317, "aarch64": 277}
_NEW_LISTENER = 8
_PIDFD_GETFD = 438

_libc = ctypes.CDLL(None, use_errno=True)


class _Program(ctypes.Structure):
    # Eight bytes an instruction; they hold zero bytes, which `c_char_p` does not mind here.
    _fields_ = (("length", ctypes.c_ushort), ("code", ctypes.c_char_p))


def load(program: bytes) -> None:
    """Put ourselves under a filter of system calls.

    Raises:
        OSError: the kernel refuses it.
    """
    loaded = _Program(len(program) // 8, program)
    call("prctl", _SET_SECCOMP, _FILTER_MODE, ctypes.byref(loaded), 0, 0)


def listen(program: bytes) -> int:
    """Put ourselves under a filter that asks; the descriptor where its questions arrive.

    Raises:
        OSError: the kernel refuses it.
    """
    loaded = _Program(len(program) // 8, program)
    seccomp = ctypes.c_long(_SECCOMP[os.uname().machine])
    listener = _libc.syscall(seccomp, 1, _NEW_LISTENER, ctypes.byref(loaded))
    if listener < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"seccomp: {os.strerror(number)}")
    return listener


def pidfd_getfd(pid: int, descriptor: int) -> int:
    """A descriptor of ours for one of another process.

    Raises:
        OSError: it may not be had.
    """
    process = os.pidfd_open(pid)
    try:
        found = _libc.syscall(_PIDFD_GETFD, process, descriptor, 0)
        if found < 0:
            number = ctypes.get_errno()
            raise OSError(number, f"pidfd_getfd: {os.strerror(number)}")
    finally:
        os.close(process)
    return found


def call(name: str, *arguments: Any) -> None:
    """Call a function of the C library that returns 0 when all is well.

    Raises:
        OSError: it returned something else.
    """
    wide = [ctypes.c_ulong(a) if isinstance(a, int) else a for a in arguments]
    if getattr(_libc, name)(*wide) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)}")
