"""The home of a workspace: a mount namespace with a capped tmpfs, held open by a descriptor.

A workspace needs a size and a number of files that can't be exceeded, must outlive single
commands, and must leave nothing behind. A tmpfs mounted in a namespace of its own does all three:
the host's mount table never sees it, and the kernel frees it when the descriptor that holds the
namespace is closed, which the death of this process does too.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rlagents.envs.sandbox import spawn
from rlagents.errors import SandboxBroken

_STAGES = ("/mnt", "/media", "/srv", "/opt", "/tmp")
SETUP_S = 20.0
ZERO_BYTES = 1 << 62
"""Of the file that stands for /dev/zero, all of it a hole. Shared mappings of the device are memory
that no figure counts and no limit bounds; those of a file that is read-only hold nothing."""


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
    sources: Sequence[str],
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
        sources: files and folders of the host to stand below the stage as `bind/0`, `bind/1`, ...:
            a user without rights on the way to them can reach them there.
        size_mb: of all files of the workspace.
        files: how many files, folders and links it may hold.
        tmp_mb: also make `tmp/tmp` and `tmp/shm`, of this size together and with as many files.
        uid: who owns the workspace; None: an ordinary user is asking, and owns it.
        net: also make a network for it, in which even the loopback is down.
        drop: a command prefix that the whole setup runs under.

    Raises:
        SandboxBroken: with what the setup said.
        Starved: the machine can't start another process now.
    """
    stage = _stage(sources)
    flags = ["--mount", "--propagation", "private"]
    if uid is None:
        flags = ["--user", "--map-root-user", *flags]
    if net:
        flags.append("--net")
    script = _script(stage, sources, size_mb=size_mb, files=files, tmp_mb=tmp_mb, uid=uid)
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
        for descriptor in (started.stdin, started.stdout, started.stderr):
            os.close(descriptor)
        with contextlib.suppress(subprocess.TimeoutExpired):
            started.popen.wait(timeout=SETUP_S)
    return Home(
        stage=stage,
        root=opened["root"],
        mount_ns=opened["mnt"],
        user_ns=opened.get("user"),
        net_ns=opened.get("net"),
    )


def _first_line(started: spawn.Started) -> bytes:
    """What the setup says: `ready`, or what went wrong."""
    import select

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
    stage: str,
    sources: Sequence[str],
    *,
    size_mb: int,
    files: int,
    tmp_mb: int,
    uid: int | None,
) -> str:
    owner = "" if uid is None else f",uid={uid},gid={uid}"
    limits = f"size={size_mb}m,nr_inodes={files + 1},mode=700{owner},nosuid,nodev"
    lines = [
        "set -e",
        "export PATH=/usr/sbin:/usr/bin:/sbin:/bin",
        "umask 022",
        # Held through the mount below, in case one of them stands under the stage.
        f"mount -t tmpfs -o size=1m,mode=755,nosuid,nodev rlagents {stage}",
        f"mkdir {stage}/box {stage}/bind {stage}/etc",
        f"mount -t tmpfs -o {limits} rlagents {stage}/box",
        f"echo 'box:x:1000:1000::/box:/bin/sh' > {stage}/etc/passwd",
        f"echo 'box:x:1000:' > {stage}/etc/group",
        f": > {stage}/zero",
    ]
    if tmp_mb:
        # Not bubblewrap's own tmpfs: those have no bound on files, which cost the kernel memory.
        room = f"size={tmp_mb}m,nr_inodes={files + 3},mode=755,nosuid,nodev"
        lines += [
            f"mkdir {stage}/tmp",
            f"mount -t tmpfs -o {room} rlagents {stage}/tmp",
            f"mkdir -m 1777 {stage}/tmp/tmp {stage}/tmp/shm",
        ]
    for number, source in enumerate(sources):
        target, quoted = f"{stage}/bind/{number}", _quoted(source)
        make = f"mkdir {target}" if os.path.isdir(source) else f": > {target}"
        lines += [make, f"mount --bind {quoted} {target}"]
    lines += ["echo ready", "read _ || true"]
    return "\n".join(lines)


def _quoted(text: str) -> str:
    import shlex

    return shlex.quote(text)


def _stage(sources: Sequence[str]) -> str:
    """A folder that every system has and that hides none of the sources when mounted over."""
    for stage in _STAGES:
        inside = any(
            s == stage or s.startswith(stage + "/") for s in map(os.path.realpath, sources)
        )
        if Path(stage).is_dir() and not inside:
            return stage
    raise SandboxBroken(f"making a workspace: none of {', '.join(_STAGES)} can be mounted over")
