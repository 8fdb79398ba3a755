"""How the child of a keeper gives up what the command must not have, and becomes the command.

Loaded by the keeper, so it imports the standard library alone.
"""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import stat
from typing import Any

from kernel import call, listen, load
from measure import threads

_SET_PDEATHSIG, _SET_DUMPABLE = 1, 4
_RESTRICT_SELF = 446
_NEWNS = 0x20000
_NOSUID, _NODEV, _BIND, _REC, _PRIVATE = 0x2, 0x4, 0x1000, 0x4000, 0x40000
_SPARE_PROCESSES = 512

LISTENER = b"+"
"""Goes before the number of the descriptor where the command's questions arrive."""


def become(spec: dict[str, Any], troubled: int, seen: int) -> None:
    """Turn into the command. Does not return."""
    try:
        _confine(spec)
        if spec["asks"] is not None:
            listener = listen(bytes.fromhex(spec["asks"]["program"]))
            os.write(troubled, LISTENER + b"%d" % listener)
            os.read(seen, 1)  # until the keeper has it
    except (OSError, ValueError) as error:
        number = error.errno if isinstance(error, OSError) else 0
        os.write(troubled, f"{number or 0} {error}".encode()[:4000])
        os._exit(125)
    try:
        os.execvpe(spec["argv"][0], spec["argv"], spec["env"])
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else str(error)
        os.write(2, f"{spec['argv'][0]}: {why}\n".encode(errors="surrogateescape"))
        os._exit(127)


def _confine(spec: dict[str, Any]) -> None:
    keeper = os.getppid()
    os.setsid()
    signal.set_wakeup_fd(-1)
    for number in range(1, signal.NSIG):
        if number not in (signal.SIGKILL, signal.SIGSTOP):
            with contextlib.suppress(OSError):
                signal.signal(number, signal.SIG_DFL)
    for text in os.listdir("/proc/self/fd"):
        descriptor = int(text)
        with contextlib.suppress(OSError):
            os.set_inheritable(descriptor, descriptor < 3 or descriptor in spec["keep"])
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w") as file:
        file.write("1000")
    if spec["covers"]:
        _uncover(spec["covers"], spec["binds"])
    _limit(spec)
    if (uid := spec["uid"]) is not None:
        os.setgroups([])
        os.setresgid(uid, uid, uid)
        os.setresuid(uid, uid, uid)
        # A process that changed its user can't look at its own /proc otherwise.
        call("prctl", _SET_DUMPABLE, 1, 0, 0, 0)
    os.umask(0o022)
    os.chdir(spec["cwd"])
    call("prctl", _SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != keeper:
        os._exit(125)
    if spec["rules"] is not None:
        call("syscall", _RESTRICT_SELF, spec["rules"], 0)
    for program in spec["filters"]:
        load(bytes.fromhex(program))


def _limit(spec: dict[str, Any]) -> None:
    limits = dict(spec["limits"])
    if spec["count"] is not None:
        # The user's other processes count too: this only stops a bomb until it is seen.
        limits["nproc"] = _tasks_of(os.getuid()) + spec["count"] + _SPARE_PROCESSES
    for name, value in limits.items():
        which = getattr(resource, f"RLIMIT_{name.upper()}")
        most = resource.getrlimit(which)[1]
        value = value if most == resource.RLIM_INFINITY else min(value, most)
        resource.setrlimit(which, (value, value))


def _tasks_of(uid: int) -> int:
    count = 0
    for name in os.listdir("/proc"):
        with contextlib.suppress(OSError):
            if name.isdigit() and os.stat(f"/proc/{name}").st_uid == uid:
                count += threads(int(name))
    return count


def _uncover(covers: list[str], binds: list[str]) -> None:
    """Make paths reachable whose folders are closed to others, in a mount namespace of our own."""
    call("unshare", _NEWNS)
    call("mount", b"none", b"/", None, _REC | _PRIVATE, None)
    opened = [(path, os.open(path, os.O_PATH)) for path in binds]
    for cover in covers:
        options = b"mode=755,size=1m"
        call("mount", b"rlagents", os.fsencode(cover), b"tmpfs", _NOSUID | _NODEV, options)
    os.umask(0o022)
    for path, descriptor in opened:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            os.makedirs(path, exist_ok=True)
        else:
            os.makedirs(os.path.dirname(path), exist_ok=True)
            os.close(os.open(path, os.O_WRONLY | os.O_CREAT, 0o644))
        source = b"/proc/self/fd/%d" % descriptor
        call("mount", source, os.fsencode(path), None, _BIND | _REC, None)
