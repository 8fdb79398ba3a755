"""`docker`: every command in a container of its own.

The workspace is a capped tmpfs volume. A container that only sleeps keeps it mounted, and is how
we reach it from here. Programs are those of the image (`SandboxConfig.image`), which must be on the
machine: nothing is fetched. Tried with Docker 20.10 on cgroups of version 1 without a memory
controller.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

from rlagents.envs.sandbox import proctree, slots, spawn
from rlagents.envs.sandbox.config import SandboxConfig
from rlagents.envs.sandbox.process import Process
from rlagents.envs.sandbox.result import Starved
from rlagents.envs.sandbox.tiers import engine
from rlagents.envs.sandbox.tiers.base import WORKSPACE, Lines, environment
from rlagents.envs.sandbox.tiers.containers import CONTROL, Outputs, named, streams
from rlagents.envs.sandbox.watchdog import watchdog
from rlagents.errors import ConfigError, SandboxBroken

_UID = 1000
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_RUN = '"$@"; exit $?'
"""A shell stays the first process: the kernel would not let a first process end by signals."""
_CONFINED = (
    *("--network", "none", "--read-only", "--cap-drop", "ALL", "--log-driver", "none"),
    *("--security-opt", "no-new-privileges", "--pull", "never", "--hostname", "sandbox"),
    *("--oom-score-adj", "1000"),
)


class Docker:
    """The tier that needs a container engine."""

    name = "docker"
    gaps: Sequence[str] = (
        "the kernel is the host's, filtered as the engine filters it",
        "the engine's daemon runs as root",
        "memory of the kernel, of memfd and of /dev/shm is bounded only where the engine has a "
        "memory cgroup",
    )

    def __init__(self) -> None:
        """As the only one; it holds nothing."""
        self.cleaners: Mapping[str, slots.Cleaner] = {
            "container": engine.remove,
            "docker-folder": _remove_folder,
        }

    def problem(self) -> str | None:
        """Why this machine can't, and what to install."""
        if os.geteuid() != 0:
            return "it needs root, to reach into containers: use tier 'user'"
        if engine.answering() is None:
            return "docker does not answer: apt-get install docker.io, and start it"
        return None

    def open(self, config: SandboxConfig) -> DockerBox:
        """A new workspace.

        Raises:
            ConfigError: the image is not there, or packages are asked for.
            SandboxBroken: it can't be made.
        """
        if config.packages:
            raise ConfigError("sandbox.packages: with tier docker, packages are the image's")
        try:
            engine.call("image", "inspect", "--format", "{{.Id}}", config.image)
        except engine.EngineFailed as error:
            raise ConfigError(
                f"sandbox.image: {config.image!r} can't be had ({error}): "
                f"docker pull {config.image}"
            ) from error
        return DockerBox(self, config)


class DockerBox:
    """A workspace in a volume, and the container that keeps it."""

    where = WORKSPACE
    scratch: Sequence[str] = ()

    def __init__(self, tier: Docker, config: SandboxConfig) -> None:
        self._tier = tier.name
        self._config = config
        self._count = 0
        with contextlib.ExitStack() as stack:
            slot = slots.take(tier.cleaners)
            stack.callback(slot.release)
            self._label = f"rlagents-{slot.number}"
            self._folder = slots.folder() / f"docker-{slot.number}"
            slot.note("docker-folder", str(self._folder))
            slot.note("container", self._label)
            stack.callback(_remove_folder, str(self._folder))
            (self._folder / "control").mkdir(parents=True)
            stack.callback(engine.remove, self._label)
            self._make_volume()
            self.root = self._keep()
            stack.callback(os.close, self.root)
            self._stack = stack.pop_all()

    def _make_volume(self) -> None:
        config = self._config
        limits = f"size={config.workspace_mb}m,nr_inodes={config.workspace_files + 1}"
        options = f"{limits},mode=700,uid={_UID},gid={_UID},nosuid,nodev"
        label = f"{engine.LABEL}={self._label}"
        kind = ["--opt", "type=tmpfs", "--opt", "device=tmpfs", "--opt", f"o={options}"]
        engine.call("volume", "create", "--label", label, *kind, self._label)

    def _keep(self) -> int:
        """Start the container that keeps the volume; a descriptor of the workspace."""
        name = f"{self._label}-keeper"
        sleep = ["--entrypoint", "/bin/sh", self._config.image, "-c", "sleep infinity"]
        limits = ["--pids-limit", "8", "--user", f"{_UID}:{_UID}"]
        engine.call("run", "--detach", "--name", name, *self._shared(), *limits, *sleep)
        pid = engine.state(name)["Pid"]
        try:
            return os.open(f"/proc/{pid}/root{WORKSPACE}", os.O_RDONLY | os.O_DIRECTORY)
        except OSError as error:
            raise SandboxBroken(
                f"the workspace can't be reached (is the engine on another machine?): {error}"
            ) from error

    def _shared(self) -> list[str]:
        """Options of all containers of this workspace."""
        label = f"{engine.LABEL}={self._label}"
        return [*_CONFINED, "--label", label, "--volume", f"{self._label}:{WORKSPACE}:nocopy"]

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
        assert not control, "an engine passes no descriptors on"
        self._count += 1
        name = f"{self._label}-{self._count}"
        # What a session writes must be here when its reply is: the engine passes it on too late.
        out = streams(str(self._folder / "control"), self._count) if session else None
        try:
            return self._start(name, argv, env, stdin=stdin, out=out)
        except BaseException:
            if out is not None:
                out.close()
            raise

    def _start(
        self,
        name: str,
        argv: Sequence[str],
        env: Mapping[str, str],
        *,
        stdin: bool,
        out: Outputs | None,
    ) -> Process:
        session = out is not None
        cid = self._folder / f"{name}.id"
        options = [*self._shared(), *self._options(env, session=session)]
        if stdin:
            options.append("--interactive")
        create = ["create", "--name", name, "--cidfile", str(cid), *options]
        inside = [
            "--entrypoint",
            "/bin/sh",
            self._config.image,
            "-c",
            _RUN,
            "sh",
            *(out.opener if out else ()),
            *argv,
        ]
        engine.call(*create, *inside)
        attach = ["start", "--attach", *(["--interactive"] if stdin else []), name]
        try:
            started = spawn.start(engine.command(*attach), stdin=stdin)
        except BaseException:
            engine.call("rm", "--force", name)
            raise
        if out is not None:
            os.close(started.stdout)
            os.close(started.stderr)
            started = dataclasses.replace(started, stdout=out.stdout, stderr=out.stderr)
        tree = _Container(name, cid, out)
        process = Process(started, tree, self._config, self._tier)
        watchdog.watch(process)
        return process

    def _options(self, env: Mapping[str, str], *, session: bool) -> list[str]:
        config = self._config
        files = config.workspace_files + 1
        tmp = f"size={config.tmp_mb * 2**20},nr_inodes={files},mode=1777,nosuid,nodev,exec"
        # What is in the workspace and in /tmp counts for the engine, not for `memory_mb`.
        held = f"{config.memory_mb + config.workspace_mb + 2 * config.tmp_mb}m"
        every = {**environment(config, path=_PATH, home=WORKSPACE), **env}
        options = [
            *("--user", f"{_UID}:{_UID}", "--workdir", WORKSPACE),
            *("--pids-limit", str(config.processes + 1), "--memory", held, "--memory-swap", held),
            *("--tmpfs", f"/tmp:{tmp}", "--tmpfs", f"/dev/shm:{tmp}"),
            *("--volume", f"{self._folder}/control:{CONTROL}"),
            *(f"--ulimit=nofile={config.open_files}", "--ulimit=core=0", "--ulimit=msgqueue=0"),
            f"--ulimit=fsize={config.file_mb * 2**20}",
        ]
        if not session:
            options.append(f"--ulimit=cpu={int(config.cpu_s) + 2}")
        for inside, source in config.readonly.items():
            options += ["--volume", f"{os.path.realpath(source)}:{inside}:ro"]
        for key, value in every.items():
            options += ["--env", f"{key}={value}"]
        return options

    def close(self) -> None:
        """End everything in it and free it. Twice is fine."""
        self._stack.close()


class _Container:
    """The processes of one command."""

    def __init__(self, name: str, cid: Path, out: Outputs | None) -> None:
        self._out = out
        self._name = name
        self._cid = cid
        self._group: Path | None = None

    def pids(self) -> list[int]:
        if self._group is None:
            self._group = self._find_group()
        if self._group is None:
            return []
        try:
            return [int(p) for p in (self._group / "cgroup.procs").read_text().split()]
        except OSError:
            return []

    def _find_group(self) -> Path | None:
        """Its cgroup, wherever this engine makes them; None before it runs."""
        try:
            identity = self._cid.read_text(encoding="ascii").strip()
        except OSError:
            return None
        for top in _TOPS:
            with contextlib.suppress(OSError):  # groups come and go meanwhile
                found = next(Path(top).glob(f"*/*{identity}*"), None)
                if found is not None:
                    return found
        return None

    def _first(self) -> int | None:
        pids = set(self.pids())
        return next((p for p in pids if proctree.parent(p) not in pids), None)

    def kill(self) -> None:
        with contextlib.suppress(engine.EngineFailed):
            engine.call("kill", self._name)  # refused where it has ended

    def interrupt(self) -> None:
        first = self._first()
        proctree.interrupt([p for p in self.pids() if p != first], self.pids)

    def gone(self) -> bool:
        return not self.pids()

    def cpu_s(self) -> float | None:
        return None

    def outcome(self, status: int, complaint: str) -> tuple[int, str]:
        state = engine.state(self._name)
        if state["Status"] == "exited" and not state.get("Error"):
            return int(state["ExitCode"]), complaint
        why = state.get("Error") or f"{state['Status']}: {complaint.strip()[-300:]}"
        kind = Starved if "temporarily unavailable" in why else SandboxBroken
        raise kind(f"the container did not run: {why}")

    def close(self) -> None:
        with contextlib.suppress(engine.EngineFailed):
            engine.call("rm", "--force", self._name)
        self._cid.unlink(missing_ok=True)
        if self._out is not None:
            self._out.unlink()


_TOPS = ("/sys/fs/cgroup/pids", "/sys/fs/cgroup", "/sys/fs/cgroup/unified")


def _remove_folder(name: str) -> None:
    with contextlib.suppress(FileNotFoundError):
        shutil.rmtree(name)
