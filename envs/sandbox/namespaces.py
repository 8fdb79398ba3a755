"""The home of a workspace: a mount namespace with a capped tmpfs, held open by a descriptor.

A workspace needs a size and a number of files that can't be exceeded, must outlive single
commands, and must leave nothing behind. A tmpfs mounted in a namespace of its own does all three:
the host's mount table never sees it, and the kernel frees it when the descriptor that holds the
namespace is closed, which the death of this process does too.
"""

from __future__ import annotations

import contextlib
import os
import select
import shlex
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rlagents.envs.sandbox import spawn
from rlagents.errors import SandboxBroken

_STAGES = ("/mnt", "/media", "/srv", "/opt", "/tmp")
SETUP_S = 20.0
ROOT = "root"
"""Below the stage, for the folders that programs see."""
ZERO_BYTES = 1 << 62
"""Of the file that stands for /dev/zero, all of it a hole. Shared mappings of the device are memory
that no figure counts and no limit bounds; those of a file that is read-only hold nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What stands below the stage beside the workspace. Its paths are relative to the stage."""

    binds: tuple[tuple[str, str], ...]
    """(source, where it is to stand): of the host where it begins with `/`, else of the stage.
    Inside an earlier one the mount point is there, or is made where the earlier one is ours."""
    folders: tuple[str, ...] = ()
    """Empty ones."""
    links: tuple[str, ...] = ()
    """Links of the host to be copied to `root`."""
    etc: str = "etc"
    """Where `passwd` and `group` go."""


@dataclass(slots=True)
class Home:
    """Descriptors of the namespaces and of the workspace's folder."""

    stage: str
    """Folder, seen from inside the namespace, below which everything was mounted."""
    root: int
    """Descriptor of the workspace's folder."""
    mount_ns: int
    user_ns: int | None
    """None where root made it."""
    net_ns: int | None = None
    """A network without a way out, shared by all commands: making one takes milliseconds."""
    _closed: bool = field(default=False)

    def enter(self, nsenter: str) -> list[str]:
        """How a program gets in: by paths that name our descriptors, so that it inherits none."""
        mine = f"/proc/{os.getpid()}/fd"
        command = [nsenter, f"--mount={mine}/{self.mount_ns}"]
        if self.user_ns is not None:
            command += [f"--user={mine}/{self.user_ns}", "--preserve-credentials"]
        if self.net_ns is not None:
            command.append(f"--net={mine}/{self.net_ns}")
        return command

    def close(self) -> None:
        """Let go of it; the kernel frees it when its last process is gone. Twice is fine."""
        if not self._closed:
            self._closed = True
            for descriptor in (self.root, self.mount_ns, self.user_ns, self.net_ns):
                if descriptor is not None:
                    os.close(descriptor)


def build(
    *,
    unshare: str,
    plan: Plan,
    size_mb: int,
    files: int,
    tmp_mb: int = 0,
    uid: int | None,
    net: bool = False,
    drop: Sequence[str] = (),
) -> Home:
    """Make a home.

    Args:
        unshare: full path of the program.
        plan: what else is to stand there: a user without rights on the way to a file of the host
            can reach it there.
        size_mb: of all files of the workspace.
        files: how many files, folders and links it may hold.
        tmp_mb: also make `tmp` and `shm`, each of this size and with as many files.
        uid: who owns the workspace; None: an ordinary user is asking, and owns it.
        net: also make a network for it, in which even the loopback is down.
        drop: a command prefix that the whole setup runs under.

    Raises:
        SandboxBroken: with what the setup said.
        Starved: the machine can't start another process now.
    """
    stage = _stage([source for source, _ in plan.binds])
    flags = ["--mount", "--propagation", "private"]
    if uid is None:
        flags = ["--user", "--map-root-user", *flags]
    if net:
        flags.append("--net")
    script = _script(stage, plan, size_mb=size_mb, files=files, tmp_mb=tmp_mb, uid=uid)
    started = spawn.start([*drop, unshare, *flags, "/bin/sh", "-c", script], stdin=True)
    assert started.stdin is not None
    wanted = {"mnt": True, "user": uid is None, "net": net}
    opened: dict[str, int] = {}
    try:
        said = _first_line(started)
        if said != b"ready\n":
            raise SandboxBroken(f"making a workspace: {said.decode(errors='replace').strip()}")
        mine = f"/proc/{started.popen.pid}"
        try:
            os.truncate(f"{mine}/root{stage}/zero", ZERO_BYTES)
            opened["root"] = os.open(f"{mine}/root{stage}/box", os.O_RDONLY | os.O_DIRECTORY)
            for kind in (kind for kind, made in wanted.items() if made):
                opened[kind] = os.open(f"{mine}/ns/{kind}", os.O_RDONLY)
        except OSError as error:
            raise SandboxBroken(f"making a workspace: {error}") from error
    except BaseException:
        for descriptor in opened.values():
            os.close(descriptor)
        raise
    finally:
        for descriptor in (started.stdin, started.stdout, started.stderr, started.pidfd):
            os.close(descriptor)
        with contextlib.suppress(subprocess.TimeoutExpired):
            started.popen.wait(timeout=SETUP_S)
            spawn.waited_for(started.popen.pid)
    return Home(
        stage=stage,
        root=opened["root"],
        mount_ns=opened["mnt"],
        user_ns=opened.get("user"),
        net_ns=opened.get("net"),
    )


def _first_line(started: spawn.Started) -> bytes:
    """What the setup says: `ready`, or what went wrong."""
    said, complaint = b"", b""
    poll = select.poll()
    poll.register(started.stdout, select.POLLIN)
    poll.register(started.stderr, select.POLLIN)
    open_ends = 2
    while open_ends and not said.endswith(b"\n"):
        ready = poll.poll(SETUP_S * 1000)
        if not ready:
            started.popen.kill()
            return b"no answer"
        for descriptor, _ in ready:
            data = os.read(descriptor, 4096)
            if not data:
                poll.unregister(descriptor)
                open_ends -= 1
            elif descriptor == started.stdout:
                said += data
            else:
                complaint += data
    return said if said.endswith(b"\n") else complaint or b"it ended without a word"


def _script(
    stage: str, plan: Plan, *, size_mb: int, files: int, tmp_mb: int, uid: int | None
) -> str:
    """Few programs, because each costs a millisecond: all mounts are made by one."""
    owner = "" if uid is None else f",uid={uid},gid={uid}"
    own = {"box": f"size={size_mb}m,nr_inodes={files + 1},mode=700{owner}"}
    if tmp_mb:
        # Not bubblewrap's own tmpfs: those have no bound on files, which cost the kernel memory.
        own |= dict.fromkeys(("tmp", "shm"), f"size={tmp_mb}m,nr_inodes={files + 1},mode=1777")
    folders, empty = [*own, plan.etc, ROOT, *plan.folders], ["zero"]
    for number, (source, where) in enumerate(plan.binds):
        if (point := _mount_point(where, plan.binds[:number])) is not None:
            folder = not source.startswith("/") or os.path.isdir(source)
            (folders if folder else empty).append(point)
    folders += [os.path.dirname(point) for point in empty]
    table = [f"rlagents {stage}/{name} tmpfs {how},nosuid,nodev" for name, how in own.items()]
    for source, where in plan.binds:
        host = source if source.startswith("/") else f"{stage}/{source}"
        table.append(f"{_field(host)} {_field(f'{stage}/{where}')} none rbind")
    return "\n".join(
        [
            "set -e",
            "export PATH=/usr/sbin:/usr/bin:/sbin:/bin",
            "umask 022",
            f"mount -t tmpfs -o size=1m,mode=755,nosuid,nodev rlagents {stage}",
            f"cd {stage}",
            f"mkdir -p {' '.join(shlex.quote(f) for f in dict.fromkeys(folders) if f)}",
            *(f": > {shlex.quote(name)}" for name in empty),
            f"echo 'box:x:1000:1000::/box:/bin/sh' > {plan.etc}/passwd",
            f"echo 'box:x:1000:' > {plan.etc}/group",
            *([f"cp -P {' '.join(plan.links)} {ROOT}"] if plan.links else []),
            *(f"echo {shlex.quote(line + ' 0 0')} >> mounts" for line in table),
            f"mount -a -T {stage}/mounts",
            "echo ready",
            "read _ || true",
        ]
    )


def _mount_point(where: str, before: Sequence[tuple[str, str]]) -> str | None:
    """Which path is to be made so that something can be mounted at `where`, or None: it exists.

    Args:
        before: what is mounted earlier.
    """
    for source, over in reversed(before):
        if where.startswith(f"{over}/"):
            ours = not source.startswith("/")
            return source + where[len(over) :] if ours else None
    return None if any(where == over for _, over in before) else where


def _field(path: str) -> str:
    """A path as a field of a table of mounts."""
    return "".join(c if c not in " \t\n\\#" else f"\\{ord(c):03o}" for c in path)


def _stage(sources: Sequence[str]) -> str:
    """A folder that every system has and that hides none of the sources when mounted over."""
    for stage in _STAGES:
        inside = any(
            s == stage or s.startswith(stage + "/") for s in map(os.path.realpath, sources)
        )
        if Path(stage).is_dir() and not inside:
            return stage
    raise SandboxBroken(f"making a workspace: none of {', '.join(_STAGES)} can be mounted over")
