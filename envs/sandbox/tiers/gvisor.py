"""`gvisor`: every command runs on a kernel of its own, gVisor's, written in Go and itself confined.

The chain that starts a command, each program replacing itself by the next but for `unshare`:

    sh (joins the cgroups) -> nsenter (the workspace's namespace) -> setpriv (dies with us)
    -> unshare (a process-id namespace, so that one death ends all) -> runsc -> the command

Inside, RLIMIT_NPROC bounds forks: gVisor's kernel counts for this command alone. The pids cgroup
outside is a second bound, wide, because each process inside costs many threads outside.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from typing import Any

from rlagents.envs.sandbox import cgroups, interpreter, namespaces, slots, spawn
from rlagents.envs.sandbox.config import SandboxConfig
from rlagents.envs.sandbox.process import Process
from rlagents.envs.sandbox.tiers.base import WORKSPACE, Lines, environment, program, required
from rlagents.envs.sandbox.tiers.containers import CONTROL, mountpoints, named
from rlagents.envs.sandbox.tiers.guest import Guest, identity
from rlagents.envs.sandbox.tiers.tree import offered
from rlagents.envs.sandbox.watchdog import watchdog

_NEEDED = ("unshare", "nsenter", "setpriv")
_JOIN = 'for f in $1; do echo 0 > "$f" || exit 125; done; echo 1000 > /proc/self/oom_score_adj; '
_PRELUDE = _JOIN + 'shift; exec "$@"'
_UID = 1000
"""Of the guest, known to gVisor's kernel alone: no process of the host has it for this."""
_OWN_MB = 64
"""What gVisor's own processes hold, beside the guest's memory."""
_OWN_THREADS = 256
_THREADS_EACH = 32
_CALL_S = 20.0


class Gvisor:
    """The tier that needs `runsc`."""

    name = "gvisor"
    gaps: Sequence[str] = (
        "the number of files in /tmp is bounded by memory_mb alone",
        "runsc of 2022 (Debian 12): `ls` and `stat` of coreutils 9 fail with EINVAL inside",
    )

    def __init__(self) -> None:
        """As the only one; it holds nothing."""
        self.cleaners: Mapping[str, slots.Cleaner] = {
            "cgroup": cgroups.remove,
            "runsc": _remove_folder,
        }

    def problem(self) -> str | None:
        """Why this machine can't, and what to install."""
        if program("runsc") is None:
            return "runsc is not installed: apt-get install runsc, or see gvisor.dev/docs"
        for name in _NEEDED:
            if program(name) is None:
                return f"{name} is not installed: apt-get install util-linux"
        if os.geteuid() != 0:
            return "it needs root: use tier 'user'"
        if isinstance(found := cgroups.layout(), str):
            return found
        with tempfile.TemporaryDirectory() as root:
            command = [required("runsc"), *_FLAGS, f"--root={root}", "do", "true"]
            tried = subprocess.run(command, capture_output=True, text=True, timeout=_CALL_S)
        if tried.returncode != 0:
            return f"runsc can't start here: {tried.stderr.strip()[-300:]}"
        return None

    def open(self, config: SandboxConfig) -> GvisorBox:
        """A new workspace.

        Raises:
            SandboxBroken: it can't be made.
        """
        return GvisorBox(self, config)


_FLAGS = ("--network=none", "--ignore-cgroups")


class GvisorBox:
    """A workspace, and the folder from which gVisor starts its commands."""

    where = WORKSPACE
    scratch: Sequence[str] = ()

    def __init__(self, tier: Gvisor, config: SandboxConfig) -> None:
        self._tier = tier.name
        self._config = config
        self._count = 0
        with contextlib.ExitStack() as stack:
            slot = slots.take(tier.cleaners)
            stack.callback(slot.release)
            self._binds = offered(config)
            self._home = namespaces.build(
                unshare=required("unshare"),
                plan=namespaces.Plan(
                    binds=tuple((s, f"bind/{n}") for n, (s, _) in enumerate(self._binds))
                ),
                size_mb=config.workspace_mb,
                files=config.workspace_files,
                uid=_UID,
            )
            stack.callback(self._home.close)
            self.root = self._home.root
            self._folder = slots.folder() / f"runsc-{slot.number}"
            self._group = self._make_group(slot)
            slot.note("runsc", str(self._folder))
            stack.callback(_remove_folder, str(self._folder))
            stack.callback(self._group.remove)
            self._mounts = self._lay_out()
            self._stack = stack.pop_all()

    def _make_group(self, slot: slots.Slot) -> cgroups.Group:
        name, config = f"rlagents-{slot.number}", self._config
        found = cgroups.layout()
        assert isinstance(found, cgroups.Layout)
        for root in {found.pids, found.unified}:
            slot.note("cgroup", str(root / name))
        held = config.memory_mb + config.workspace_mb + 2 * config.tmp_mb + _OWN_MB
        threads = _THREADS_EACH * config.processes + _OWN_THREADS
        return cgroups.Group(name, processes=threads, memory=held * 2**20)

    def _lay_out(self) -> list[dict[str, Any]]:
        """Make the root folder, of mount points alone, and say what is mounted over them."""
        root, stage = self._folder / "root", self._home.stage
        (self._folder / "control").mkdir(parents=True)
        binds = {"/usr": "/usr", WORKSPACE: f"{stage}/box", CONTROL: f"{self._folder}/control"}
        for name in ("/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32"):
            if os.path.islink(name):
                root.mkdir(exist_ok=True)
                (root / name[1:]).symlink_to(os.readlink(name))
            elif os.path.isdir(name):
                binds[name] = name
        for path in ("/etc/ld.so.cache", "/etc/alternatives"):
            if os.path.exists(path):
                binds[path] = path
        for name in ("passwd", "group"):
            binds[f"/etc/{name}"] = f"{stage}/etc/{name}"
        numbered = {
            inside: f"{stage}/bind/{number}" for number, (_, inside) in enumerate(self._binds)
        }
        folders = {"/proc": True, "/dev": True, "/sys": True, "/tmp": True}
        for number, hidden in enumerate(interpreter.hidden_dirs()):
            # gVisor makes no mount points in folders of the host: these are made beforehand.
            over = self._folder / f"hidden-{number}"
            over.mkdir()
            below = {i: s for i, s in numbered.items() if i.startswith(f"{hidden}/")}
            inner = {i[len(hidden) :]: os.path.isdir(self._source(s)) for i, s in below.items()}
            mountpoints(over, inner)
            binds[hidden] = str(over)
        hidden_dirs = interpreter.hidden_dirs()
        above = [p for p in (interpreter.prefix(), "/usr") if p is not None]
        binds |= numbered
        for inside, source in binds.items():
            if not any(inside.startswith(f"{p}/") for p in (*hidden_dirs, *above)):
                folders[inside] = os.path.isdir(self._source(source))
        mountpoints(root, folders)
        tmp = f"size={self._config.tmp_mb * 2**20}"
        mounts = [_mount("proc", "/proc"), _mount("tmpfs", "/tmp", "mode=1777", tmp)]
        mounts.append(_mount("tmpfs", "/dev/shm", "mode=1777", tmp))
        for inside, source in sorted(binds.items()):
            # The folder of the pipes is root's, so nothing can be made in it; but old versions
            # open no pipe for writing where the mount is read-only.
            way = "rw" if inside in (WORKSPACE, CONTROL) else "ro"
            mounts.append(_mount("bind", inside, "rbind", way, source=source))
        return mounts

    def _source(self, staged: str) -> str:
        """What a path below the stage, which only the workspace's namespace shows, stands for."""
        prefix = f"{self._home.stage}/bind/"
        if staged.startswith(prefix):
            return self._binds[int(staged[len(prefix) :])][0]
        return "/" if staged == f"{self._home.stage}/box" else staged

    def lines(self) -> Lines:
        """What a session takes its turns over."""
        self._count += 1
        return named(str(self._folder / "control"), self._count)

    def start(
        self,
        argv: Sequence[str],
        *,
        env: Mapping[str, str],
        stdin: bool = False,
        control: Sequence[int] = (),
        session: bool = False,
    ) -> Process:
        """Start a command; see `Box`."""
        assert not control, "gVisor passes no descriptors on"
        self._count += 1
        bundle = self._folder / str(self._count)
        bundle.mkdir()
        group: cgroups.CommandGroup | None = None
        try:
            spec = self._spec(argv, env, session=session)
            (bundle / "config.json").write_text(json.dumps(spec), encoding="utf-8")
            group = self._group.command()
            command = [
                *("/bin/sh", "-c", _PRELUDE, "sh", " ".join(group.joins)),
                *self._home.enter(required("nsenter")),
                *(required("setpriv"), "--pdeathsig", "KILL"),
                *(required("unshare"), "--pid", "--fork", "--mount-proc", "--kill-child"),
                *(required("runsc"), *_FLAGS, "--host-fifo=open"),
                *(f"--root={bundle}/state", f"--log={bundle}/log", "--log-format=json"),
                *("run", "--bundle", str(bundle), identity(bundle)),
            ]
            started = spawn.start(command, stdin=stdin)
        except BaseException:
            if group is not None:
                group.close()
            shutil.rmtree(bundle)
            raise
        tree = Guest(started.popen.pid, group, bundle)
        own = dataclasses.replace(self._config, memory_mb=self._config.memory_mb + _OWN_MB)
        process = Process(started, tree, own, self._tier, memory=tree.memory)
        watchdog.watch(process)
        return process

    def _spec(
        self, argv: Sequence[str], env: Mapping[str, str], *, session: bool
    ) -> dict[str, Any]:
        path = interpreter.search_path()
        every = {**environment(self._config, path=path, home=WORKSPACE), **env}
        return {
            "ociVersion": "1.0.0",
            "hostname": "sandbox",
            "root": {"path": str(self._folder / "root"), "readonly": True},
            "process": {
                "user": {"uid": _UID, "gid": _UID},
                # The shell finds the program, so that whatever fails before is gVisor's.
                "args": ["/bin/sh", "-c", 'exec "$@"', "sh", *argv],
                "env": [f"{name}={value}" for name, value in every.items()],
                "cwd": WORKSPACE,
                "noNewPrivileges": True,
                "capabilities": {},
                "rlimits": _rlimits(self._config, session=session),
            },
            "mounts": self._mounts,
            "linux": {"namespaces": [{"type": t} for t in _NAMESPACES]},
        }

    def close(self) -> None:
        """End everything in it and free it. Twice is fine."""
        self._stack.close()


_NAMESPACES = ("pid", "network", "ipc", "uts", "mount")


def _rlimits(config: SandboxConfig, *, session: bool) -> list[dict[str, Any]]:
    mib = 2**20
    limits = {
        "AS": (2 * config.memory_mb + 1024) * mib,
        "FSIZE": config.file_mb * mib,
        "NOFILE": config.open_files,
        "NPROC": config.processes,
        "CORE": 0,
    }
    if not session:
        limits["CPU"] = int(config.cpu_s) + 2
    return [{"type": f"RLIMIT_{k}", "hard": v, "soft": v} for k, v in limits.items()]


def _mount(kind: str, inside: str, *options: str, source: str | None = None) -> dict[str, Any]:
    every = ["nosuid", "nodev", *options]
    return {"type": kind, "destination": inside, "source": source or kind, "options": every}


def _remove_folder(name: str) -> None:
    """The folder of a sandbox whose processes are dead."""
    with contextlib.suppress(FileNotFoundError):
        shutil.rmtree(name)
