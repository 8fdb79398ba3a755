"""What the filter refuses, also to callers that fill the upper half of a register."""

from __future__ import annotations

import json

import pytest

from rlagents.envs.sandbox import Sandbox, choice

_PROBLEM = choice.cached_problem(choice.chosen("auto"))
pytestmark = [
    pytest.mark.skipif(_PROBLEM is not None, reason=f"no sandbox: {_PROBLEM}"),
    pytest.mark.skipif(__import__("platform").machine() != "x86_64", reason="numbers of x86-64"),
]

PROGRAM = """
import ctypes, errno, json, os, socket, sys
libc = ctypes.CDLL(None, use_errno=True)
libc.syscall.argtypes = [ctypes.c_ulong] * 7
def call(*args):
    ctypes.set_errno(0)
    done = libc.syscall(*args, *[0] * (7 - len(args)))
    return "ok" if done >= 0 else errno.errorcode[ctypes.get_errno()]
HIGH = 1 << 32
mine, _ = socket.socketpair()
size = ctypes.c_int(1 << 20)
reading, writing = os.pipe()
p = ctypes.addressof(size)
print(json.dumps({
    "setsockopt": [call(54, mine.fileno(), 1 + h, 7 + g, p, 4) for h in (0, HIGH) for g in (0, HIGH)],
    "fcntl": [call(72, writing, 1031 + h, 1 << 20) for h in (0, HIGH)],
    "socket": [call(41, family + h, 1, 0) for family in (2, 16) for h in (0, HIGH)],
    "unix": [call(41, 1, 1, 0), call(41, 1, 2, 0), call(41, 1 + HIGH, 2, 0)],
    "ioctl": [call(16, 0, 0x5412 + h, p) for h in (0, HIGH)],
    "clone": call(56, 0x10000000 | 17),
    "memfd": call(319, p, 0),
    "new": call(467),
}))
"""  # noqa: E501


def test_calls_are_refused_by_what_the_kernel_would_read() -> None:
    with Sandbox() as box:
        done = box.python(PROGRAM)
    assert done.ok, done
    assert json.loads(done.stdout) == {
        "setsockopt": ["EPERM"] * 4,
        "fcntl": ["EPERM"] * 2,
        "socket": ["EAFNOSUPPORT"] * 4,
        "unix": ["ok", "ESOCKTNOSUPPORT", "EAFNOSUPPORT"],
        "ioctl": ["EPERM"] * 2,
        "clone": "EPERM",
        "memfd": "ENOSYS",
        "new": "ENOSYS",
    }
