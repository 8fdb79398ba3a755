"""The user ids that sandboxes of root have, and whether programs get anywhere with them."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time

from rlagents.envs.sandbox import interpreter
from rlagents.envs.sandbox.process import GRACE_S
from rlagents.envs.sandbox.slots import COUNT, FIRST_UID
from rlagents.envs.sandbox.tiers.base import program
from rlagents.envs.sandbox.tiers.layout import closed
from rlagents.errors import SandboxBroken

_KILL = (
    "import os, sys; uid = int(sys.argv[1]); os.setgroups([]); os.setresgid(uid, uid, uid); "
    "os.setresuid(uid, uid, uid); os.kill(-1, 9)"
)


def problem() -> str | None:
    """Why root can't run programs as users of their own here and what to do, or None."""
    with open("/proc/self/status", encoding="utf-8") as file:
        held = next(int(line.split()[1], 16) for line in file if line.startswith("CapEff"))
    if held & 0b1100_0000 != 0b1100_0000:  # CAP_SETGID, CAP_SETUID
        return "root may not change its user here (CAP_SETUID, CAP_SETGID)"
    doors, _ = closed([os.path.realpath(interpreter.executable())])
    if not doors or _can_mount():
        return None
    return (
        f"the interpreter is behind {doors[0]}, which only root can enter, and nothing can be "
        "mounted: install Python where everybody can reach it (below /usr or /opt), or run as an "
        "ordinary user"
    )


def end(text: str) -> None:
    """Kill whatever a user of a sandbox runs, in one stroke. Harmless when that is nothing.

    Raises:
        SandboxBroken: not one of those users, or something survives being killed.
    """
    uid = int(text)
    if not FIRST_UID <= uid < FIRST_UID + COUNT:
        raise SandboxBroken(f"{uid} is not the user of a sandbox")
    deadline = time.monotonic() + GRACE_S
    pause = 0.001
    while _runs(uid):
        # Nobody sees the fork of a process that is being killed, so one `kill` gets them all.
        command = [sys.executable, "-I", "-S", "-c", _KILL, text]
        subprocess.run(command, env={}, capture_output=True, timeout=GRACE_S * 5)
        if time.monotonic() > deadline:
            raise SandboxBroken(f"processes of user {uid} survive being killed")
        time.sleep(pause)
        pause = min(2 * pause, 0.02)


def _runs(uid: int) -> bool:
    for name in os.listdir("/proc"):
        with contextlib.suppress(OSError, IndexError):
            if name.isdigit() and _user(name) == uid and not dead(name):
                return True
    return False


def _user(pid: str) -> int:
    with open(f"/proc/{pid}/status", encoding="utf-8", errors="replace") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("Uid:"))


def dead(pid: str) -> bool:
    """Whether a process is gone, or only waits for its parent to notice."""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
            return file.read().rpartition(")")[2].split()[0] in "ZX"
    except OSError:
        return True


def _can_mount() -> bool:
    unshare = program("unshare")
    if unshare is None:
        return False
    script = "mount -t tmpfs rlagents /mnt"
    command = [unshare, "--mount", "--propagation", "private", "sh", "-c", script]
    return subprocess.run(command, capture_output=True, timeout=20).returncode == 0
