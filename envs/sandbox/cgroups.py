"""Control groups of a sandbox: a bound on processes, exact CPU time, and one stroke that kills all.

Two layouts are met: version 2 alone, where one group does everything, and version 1 controllers
beside a version 2 tree without any (hybrid), where the bound is in one and the stroke in the other.
"""

from __future__ import annotations

import contextlib
import errno
import os
import time
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from rlagents.errors import SandboxBroken

GRACE_S = 30.0


@dataclass(frozen=True, slots=True)
class Layout:
    """Where groups can be made."""

    pids: Path
    """The hierarchy with the controller that counts processes."""
    unified: Path
    """The version 2 hierarchy; the same as `pids` where there is no other."""

    @property
    def memory(self) -> bool:
        """Whether the kernel can bound the memory of a group."""
        return self.pids == self.unified and "memory" in _controllers(self.unified)


@cache
def layout() -> Layout | str:
    """What this machine has, or why no group can be made."""
    pids = unified = None
    for line in Path("/proc/self/mounts").read_text(encoding="utf-8").splitlines():
        _, where, kind, options, *_ = line.split()
        if kind == "cgroup" and "pids" in options.split(","):
            pids = Path(where)
        if kind == "cgroup2":
            unified = Path(where)
    if unified is None:
        return "no cgroup2 file system is mounted"
    if pids is None:
        if "pids" not in _controllers(unified):
            return "no cgroup counts processes here (no `pids` controller)"
        pids = unified
    for root in {pids, unified}:
        if not os.access(root, os.W_OK):
            return f"{root} can't be written to"
    if not (unified / "cgroup.procs").exists():
        return f"{unified} is not a cgroup that can be used"
    return Layout(pids=pids, unified=unified)


class Group:
    """The control groups of one sandbox; each command in it has one more below."""

    def __init__(self, name: str, *, processes: int, memory: int) -> None:
        """Make them.

        Args:
            name: unique on this machine.
            processes: the most that may exist at once.
            memory: bytes; enforced by the kernel only where `Layout.memory` says so.

        Raises:
            SandboxBroken: they can't be made.
        """
        found = layout()
        if isinstance(found, str):
            raise SandboxBroken(f"cgroups: {found}")
        self._pids = found.pids / name
        self._unified = found.unified / name
        self._count = 0
        try:
            if found.pids == found.unified:
                wanted = "+pids +memory" if found.memory else "+pids"
                (found.unified / "cgroup.subtree_control").write_text(wanted)
            for path in {self._pids, self._unified}:
                path.mkdir()
            (self._pids / "pids.max").write_text(str(processes))
            if found.memory:
                (self._unified / "memory.max").write_text(str(memory))
        except OSError as error:
            self.remove()
            raise SandboxBroken(f"making a cgroup: {error}") from error

    def command(self) -> CommandGroup:
        """A group for one command.

        Raises:
            SandboxBroken: it can't be made.
        """
        self._count += 1
        path = self._unified / str(self._count)
        try:
            path.mkdir()
        except OSError as error:
            raise SandboxBroken(f"making a cgroup: {error}") from error
        # Where one group does both, the command's group is below the one that counts.
        joined = [path] if self._pids == self._unified else [path, self._pids]
        return CommandGroup(path, tuple(str(p / "cgroup.procs") for p in joined))

    def remove(self) -> None:
        """Kill what is in them and take them away. Twice is fine."""
        for path in (self._unified, self._pids):  # the first can kill in one stroke
            remove(str(path))


@dataclass(frozen=True, slots=True)
class CommandGroup:
    """The group that all processes of one command are in."""

    path: Path
    joins: tuple[str, ...]
    """Files into which a process writes itself to become a member."""

    def take_in(self, pid: int) -> None:
        """Make a process a member, from outside. Harmless when it has ended.

        Raises:
            OSError: the kernel refuses.
        """
        for join in self.joins:
            with contextlib.suppress(ProcessLookupError):
                Path(join).write_text(str(pid), encoding="ascii")

    def pids(self) -> list[int]:
        # Only where it is gone: "too many open files" must not read as "nobody is there".
        try:
            return [int(p) for p in (self.path / "cgroup.procs").read_text().split()]
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.ENODEV):
                raise
            return []

    def cpu_s(self) -> float:
        """Of everything that ever was in it."""
        try:
            text = (self.path / "cpu.stat").read_text(encoding="ascii")
        except OSError:
            return 0.0
        return int(text.split()[1]) / 1e6  # the first line is `usage_usec N`

    def kill(self) -> None:
        with contextlib.suppress(OSError):
            (self.path / "cgroup.kill").write_text("1")

    def close(self) -> None:
        remove(str(self.path))


def remove(name: str) -> None:
    """Kill everything in a group and below it, and remove it. Harmless when it is gone.

    Raises:
        SandboxBroken: something in it survives being killed.
    """
    path = Path(name)
    with contextlib.suppress(OSError):  # mostly it is empty
        path.rmdir()
        return
    deadline = time.monotonic() + GRACE_S
    pause = 0.0005
    while path.is_dir():
        with contextlib.suppress(OSError):
            (path / "cgroup.kill").write_text("1")
        _kill_one_by_one(path)
        with contextlib.suppress(OSError):  # a command's thread may be removing the same
            for below in sorted((p for p in path.rglob("*") if p.is_dir()), reverse=True):
                below.rmdir()
        with contextlib.suppress(OSError):
            path.rmdir()
            return
        if time.monotonic() > deadline:
            raise SandboxBroken(f"the cgroup {path} can't be removed")
        time.sleep(pause)
        pause = min(2 * pause, 0.02)


def _kill_one_by_one(path: Path) -> None:
    """For version 1, which has no stroke that kills all."""
    if (path / "cgroup.kill").exists():
        return
    with contextlib.suppress(OSError):
        for pid in (path / "cgroup.procs").read_text(encoding="ascii").split():
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(pid), 9)


def _controllers(root: Path) -> list[str]:
    try:
        return (root / "cgroup.controllers").read_text(encoding="ascii").split()
    except OSError:
        return []
