"""The programs that attack: what they all begin with, and what they tell."""

from __future__ import annotations

import json
from typing import Any

from rlagents.envs.sandbox.attack.case import Host, Verdict
from rlagents.envs.sandbox.result import Result

PRELUDE = r"""
import ctypes, errno, fcntl, json, mmap, os, re, resource, signal, socket, stat, struct, sys, time

MARK = re.compile(rb"rlagents-canary-[0-9a-f]{32}")
libc = ctypes.CDLL(None, use_errno=True)
libc.mmap.restype = ctypes.c_void_p
libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t] + 3 * [ctypes.c_int] + [ctypes.c_long]
libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
libc.madvise.argtypes = libc.mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
MIB = 1 << 20

def say(**seen):
    print("\n" + json.dumps(seen), flush=True)

def attempt(function, *args):
    # "ok ..." when it worked, else the name of the error.
    try:
        return "ok " + repr(function(*args))[:300]
    except OSError as error:
        return errno.errorcode.get(error.errno, str(error))
    except BaseException as error:
        return type(error).__name__

def call(name, *args):
    number = NUMBERS[name]
    if number is None:
        return "no such call"
    words = [ctypes.c_long(a) if isinstance(a, int) else a for a in args]
    words += [ctypes.c_long(0)] * (6 - len(words))
    ctypes.set_errno(0)
    found = libc.syscall(ctypes.c_long(number), *words)
    return "ok %d" % found if found >= 0 else errno.errorcode.get(ctypes.get_errno(), "?")

def stolen(data):
    return [m.decode() for m in MARK.findall(data)]
"""
_NUMBERS = {  # x86-64, then those that aarch64 and the other newer architectures share
    "unshare": (272, 97),
    "setns": (308, 268),
    "mount": (165, 40),
    "umount2": (166, 39),
    "pivot_root": (155, 41),
    "chroot": (161, 51),
    "ptrace": (101, 117),
    "clone": (56, 220),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "kcmp": (312, 272),
    "bpf": (321, 280),
    "keyctl": (250, 219),
    "add_key": (248, 217),
    "request_key": (249, 218),
    "userfaultfd": (323, 282),
    "perf_event_open": (298, 241),
    "name_to_handle_at": (303, 264),
    "open_by_handle_at": (304, 265),
    "init_module": (175, 105),
    "finit_module": (313, 273),
    "delete_module": (176, 106),
    "kexec_load": (246, 104),
    "swapon": (167, 224),
    "reboot": (169, 142),
    "settimeofday": (164, 170),
    "syslog": (103, 116),
    "acct": (163, 89),
    "personality": (135, 92),
    "fanotify_init": (300, 262),
    "inotify_init1": (294, 26),
    "memfd_create": (319, 279),
    "memfd_secret": (447, 447),
    "shmget": (29, 194),
    "msgget": (68, 186),
    "semget": (64, 190),
    "io_setup": (206, 0),
    "vmsplice": (278, 75),
    "splice": (275, 76),
    "tee": (276, 77),
    "sendfile": (40, 71),
    "pidfd_send_signal": (424, 424),
    "io_uring_setup": (425, 425),
    "open_tree": (428, 428),
    "move_mount": (429, 429),
    "fsopen": (430, 430),
    "fsmount": (432, 432),
    "pidfd_open": (434, 434),
    "clone3": (435, 435),
    "pidfd_getfd": (438, 438),
    "process_madvise": (440, 440),
    "mount_setattr": (442, 442),
    "quotactl_fd": (443, 443),
}


def program(body: str) -> str:
    """A whole program; in its body `say(key=value)` tells evidence, the last of which counts."""
    x86 = {name: numbers[0] for name, numbers in _NUMBERS.items()}
    newer = {name: numbers[1] for name, numbers in _NUMBERS.items()}
    table = f"NUMBERS = {x86!r} if os.uname().machine == 'x86_64' else {newer!r}\n"
    return PRELUDE + table + body


def told(result: Result) -> dict[str, Any]:
    """The last evidence in a program's output; empty when there is none."""
    for line in reversed(result.stdout.splitlines()):
        if line.startswith("{"):
            try:
                said = json.loads(line)
            except ValueError:
                continue
            if isinstance(said, dict):
                return said
    return {}


def silent(result: Result) -> Verdict:
    """The verdict on a program that told nothing although nothing should have ended it."""
    return Verdict(False, f"it told nothing: {result.describe()}: {result.output.strip()[-200:]}")


def denied(host: Host, result: Result) -> Verdict:
    """The verdict on a program whose every attempt must have failed.

    Having seen the secret, however it came by it, is not contained either.
    """
    said = told(result)
    if host.secret in result.output:
        return Verdict(False, f"read the secret: {_brief(said, host.secret)}")
    if not said:
        return silent(result)
    worked = {key: value for key, value in said.items() if str(value).startswith("ok")}
    if worked:
        return Verdict(False, f"allowed: {_brief(worked, host.secret)}")
    return Verdict(True, f"denied: {_brief(said, host.secret)}")


def _brief(said: dict[str, Any], secret: str) -> str:
    text = ", ".join(f"{key} {value}" for key, value in said.items())
    text = text.replace(secret, "THE SECRET")
    return text if len(text) <= 300 else f"{text[:300]}..."
