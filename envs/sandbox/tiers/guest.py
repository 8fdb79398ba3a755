"""The processes of a command that runs in gVisor, as the host sees them."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
from pathlib import Path

from rlagents.envs.sandbox import cgroups, proctree
from rlagents.envs.sandbox.result import Starved
from rlagents.envs.sandbox.tiers.base import required
from rlagents.errors import SandboxBroken

_CALL_S = 20.0
_MEMORY_FILE = "memfd:runsc-memory"
"""All memory of the guest, files below /tmp too: in no process's resident size."""


class Guest:
    """The processes of one command: gVisor's kernel, and its handles on the guest's."""

    def __init__(self, outer: int, group: cgroups.CommandGroup, bundle: Path) -> None:
        self._outer = outer
        self._group = group
        self._bundle = bundle
        self._file: str | None = None

    def memory(self) -> int:
        """Bytes: the guest's, and what gVisor's own processes hold for themselves.

        Neither resident sizes nor descriptors say it: the guest's memory is a file, of which
        every handle maps a part, and gVisor holds a descriptor for each file that is known inside.
        """
        pids = self.pids()
        if self._file is None:
            self._file = next(filter(None, map(_memory_file, pids)), None)
        held = 0
        if self._file is not None:
            with contextlib.suppress(OSError):
                held = os.stat(self._file).st_blocks * 512
        return held + sum(map(_private, pids))

    def pids(self) -> list[int]:
        return self._group.pids()

    def kill(self) -> None:
        self._group.kill()

    def interrupt(self) -> None:
        first = next((p for p in self.pids() if proctree.parent(p) == self._outer), None)
        if first is None:
            return
        inner = [required("nsenter"), f"--target={first}", "--pid", "--mount"]
        call = [required("runsc"), f"--root={self._bundle}/state", "kill", "--all"]
        call += [identity(self._bundle), "INT"]
        with contextlib.suppress(subprocess.TimeoutExpired):
            subprocess.run([*inner, *call], capture_output=True, env={}, timeout=_CALL_S)

    def gone(self) -> bool:
        return not self._group.pids() and self._bury()

    def _bury(self) -> bool:
        """Wait for the dead whose parent was killed with them: they are our children now.

        Returns:
            Whether no such child is left. One that is about to die is in no group's list any more.
        """
        ours = "/" + "/".join(self._group.path.parts[-2:])
        left = 0
        for pid in _children():
            with contextlib.suppress(OSError):
                member = Path(f"/proc/{pid}/cgroup").read_text(encoding="utf-8").split()
                if any(group.endswith(ours) for group in member):
                    # Our child: nothing else has its number before we take it away here.
                    left += os.waitpid(pid, os.WNOHANG)[0] == 0
        return left == 0

    def cpu_s(self) -> float | None:
        return self._group.cpu_s()

    def outcome(self, status: int, complaint: str) -> tuple[int, str]:
        failed = _complaint(self._bundle / "log")
        if failed is None:
            return status, complaint
        kind = Starved if "temporarily unavailable" in failed else SandboxBroken
        raise kind(f"gVisor failed: {failed}")

    def close(self) -> None:
        self._group.close()
        shutil.rmtree(self._bundle, ignore_errors=True)


def identity(bundle: Path) -> str:
    """A container's name: gVisor's control sockets are named by it, for the whole machine."""
    return f"rlagents-{bundle.parent.name}-{bundle.name}"


def _children() -> list[int]:
    """Of this process: those of all its threads."""
    found: list[int] = []
    for file in Path("/proc/self/task").glob("*/children"):
        with contextlib.suppress(OSError):
            found += map(int, file.read_text(encoding="ascii").split())
    return found


def _memory_file(pid: int) -> str | None:
    """The path of the descriptor under which a process has the guest's memory, if it has."""
    folder = f"/proc/{pid}/fd"
    with contextlib.suppress(OSError):
        for name in os.listdir(folder):
            if _MEMORY_FILE in os.readlink(f"{folder}/{name}"):
                return f"{folder}/{name}"
    return None


def _private(pid: int) -> int:
    """Bytes of a process that are resident and of no file."""
    try:
        sizes = Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()
        return (int(sizes[1]) - int(sizes[2])) * proctree.PAGE
    except (OSError, IndexError):
        return 0


def _complaint(log: Path) -> str | None:
    """The last error that runsc wrote of itself, or None."""
    try:
        lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    except FileNotFoundError:
        return None
    for line in reversed(lines):
        with contextlib.suppress(json.JSONDecodeError):
            said = json.loads(line)
            if said.get("level") in ("error", "fatal"):
                return str(said.get("msg"))[-500:]
    return None
