"""`strict` and `user`: namespaces by bubblewrap, a seccomp filter, limits, a capped workspace.

The chain that starts a command, each program replacing itself by the next:

    nsenter (the workspace's namespaces; as root: a user id that nothing else has) -> prlimit
    -> bwrap -> the command

As root with `strict` a pids cgroup bounds forks and one stroke kills all. `user` does without
cgroups: RLIMIT_NPROC bounds forks, because the namespace or the user id is this sandbox's alone.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import secrets
import select
import signal
import subprocess
import threading
import weakref
from collections.abc import Mapping, Sequence
from functools import cache

from rlagents.envs.sandbox import cgroups, interpreter, namespaces, proctree, seccomp, slots, spawn
from rlagents.envs.sandbox.config import SandboxConfig
from rlagents.envs.sandbox.process import Process, Status
from rlagents.envs.sandbox.result import Starved
from rlagents.envs.sandbox.tiers import tree
from rlagents.envs.sandbox.tiers.base import (
    WORKSPACE,
    Lines,
    environment,
    inherited,
    program,
    required,
    rlimits,
)
from rlagents.envs.sandbox.watchdog import watchdog
from rlagents.errors import SandboxBroken

_NEEDED = ("unshare", "nsenter", "prlimit")
_START_S = 20.0
_NUMBERS = itertools.count()
_USER_GAPS = (
    "CPU time of short processes that nobody waits for is seen only at the end of a command",
)
_LINGER_S = 0.02
"""How long a look for survivors waits for the last process to end."""


class Bubblewrap:
    """The tiers that need bubblewrap."""

    cleaners: Mapping[str, slots.Cleaner] = {
        "cgroup": cgroups.remove,
        "marked": proctree.kill_marked,
    }

    def __init__(self, name: str) -> None:
        """`strict`, or `user`: the same without cgroups."""
        self.name = name
        self.gaps: Sequence[str] = () if name == "strict" else _USER_GAPS

    def problem(self) -> str | None:
        """Why this machine can't, and what to install."""
        if program("bwrap") is None:
            return (
                "bubblewrap is not installed: apt-get install bubblewrap, dnf install bubblewrap "
                "or apk add bubblewrap"
            )
        for name in _NEEDED:
            if program(name) is None:
                return f"{name} is not installed: apt-get install util-linux"
        if "--disable-userns" not in _bwrap_help():
            return "bubblewrap is older than 0.8.0: install a newer one"
        if (filters := seccomp.problem()) is not None:
            return filters
        if self.name == "strict":
            if os.geteuid() != 0:
                return "it needs root, for cgroups and user ids of its own: use tier 'user'"
            if isinstance(found := cgroups.layout(), str):
                return f"{found}: use tier 'user'"
        return self._namespaces()

    def _namespaces(self) -> str | None:
        flags = ["--mount"] if os.geteuid() == 0 else ["--user", "--map-root-user", "--mount"]
        tried = subprocess.run(
            [required("unshare"), *flags, "true"], capture_output=True, text=True, timeout=20
        )
        if tried.returncode == 0:
            return None
        return (
            f"namespaces can't be made ({tried.stderr.strip()}): for an ordinary user the kernel "
            "must allow user namespaces (sysctl user.max_user_namespaces, "
            "kernel.unprivileged_userns_clone, kernel.apparmor_restrict_unprivileged_userns); "
            "a container must be started with the right to make them"
        )

    def open(self, config: SandboxConfig) -> BubblewrapBox:
        """A new workspace.

        Raises:
            SandboxBroken: it can't be made.
        """
        return BubblewrapBox(self, config)


class BubblewrapBox:
    """A workspace in namespaces."""

    where = WORKSPACE
    scratch: Sequence[str] = ("/tmp", "/dev/shm")

    def __init__(self, tier: Bubblewrap, config: SandboxConfig) -> None:
        self._tier = tier.name
        self._config = config
        self._closed = False
        self._live: weakref.WeakSet[Process] = weakref.WeakSet()
        self._starting = threading.Lock()
        """Held while a command gets in by the numbers of our descriptors, which must stay ours."""
        self._group: cgroups.Group | None = None
        self._slot = slots.take(tier.cleaners)
        self._uid = self._slot.uid if os.geteuid() == 0 else None
        # bubblewrap ties its life to ours only some milliseconds after it began. What is orphaned
        # before is found by this word among its arguments.
        self._mark = f"rlagents-{secrets.token_hex(8)}"
        try:
            self._slot.note("marked", self._mark)
            self._home = namespaces.build(
                unshare=required("unshare"),
                plan=tree.plan(config),
                size_mb=config.workspace_mb,
                files=config.workspace_files,
                tmp_mb=config.tmp_mb,
                uid=self._uid,
                net=config.network == "none",
            )
            self.root = self._home.root
            try:
                if tier.name == "strict":
                    self._group = self._make_group()
            except BaseException:
                self._home.close()
                raise
        except BaseException:
            self._slot.abandon()
            raise

    def _make_group(self) -> cgroups.Group:
        # Never the same name twice: whoever still holds an old one can do no harm to a new group.
        name = f"rlagents-{self._slot.number}-{os.getpid()}-{next(_NUMBERS)}"
        config = self._config
        found = cgroups.layout()
        assert isinstance(found, cgroups.Layout)
        for root in {found.pids, found.unified}:
            self._slot.note("cgroup", str(root / name))
        held = config.memory_mb + config.workspace_mb + 2 * config.tmp_mb
        return cgroups.Group(name, processes=config.processes + 4, memory=held * 2**20)

    def lines(self) -> Lines:
        """What a session takes its turns over."""
        return inherited()

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
        with self._starting:
            if self._closed:
                raise SandboxBroken("the sandbox was closed meanwhile")
            mode = os.fstat(self.root).st_mode
            if mode & 0o700 != 0o700:  # a command took away what the next one needs to get in
                os.fchmod(self.root, mode & 0o777 | 0o700)
            process = self._start(argv, env, stdin=stdin, control=control, session=session)
            self._live.add(process)
            return process

    def _start(
        self,
        argv: Sequence[str],
        env: Mapping[str, str],
        *,
        stdin: bool,
        control: Sequence[int],
        session: bool,
    ) -> Process:
        config = self._config
        group = self._group.command() if self._group is not None else None
        filters = seccomp.pipe_with(seccomp.program(config.network))
        said, says = os.pipe()
        status = Status(said)
        gate, opens = os.pipe()
        try:
            command = [
                *self._home.enter(required("nsenter")),
                *self._drop(),
                required("prlimit"),
                # Not with a cgroup: the dead of this user id's last owner still count a moment.
                *rlimits(config, session=session, processes=group is None),
                *self._bwrap(env, filters, says, gate),
                *argv,
            ]
            passed = [filters, says, gate, *control]
            started = spawn.start(command, pass_fds=passed, stdin=stdin)
        except BaseException:
            status.close()
            os.close(opens)
            if group is not None:
                group.close()
            raise
        finally:
            os.close(filters)
            os.close(says)
            os.close(gate)
        try:
            contained = _Contained(started.popen.pid, status, group)
            process = Process(started, contained, config, self._tier, beside=contained.queued)
            try:
                contained.find_first(process.pidfd)
                with contextlib.suppress(BrokenPipeError):  # it failed: its outcome says why
                    os.write(opens, b"1")
            except BaseException:
                process.close()
                raise
        finally:
            os.close(opens)  # after the end of what waits there: it would go on
        watchdog.watch(process)
        return process

    def _drop(self) -> list[str]:
        """Options of `nsenter`, which drops the user id once it is in.

        bubblewrap does the rest: no new privileges, and no capability in any set.
        """
        if self._uid is None:
            return []
        return ["--setuid", str(self._uid), "--setgid", str(self._uid)]

    def _bwrap(self, env: Mapping[str, str], filters: int, says: int, gate: int) -> list[str]:
        config, stage = self._config, self._home.stage
        flags = (
            "--unshare-user --unshare-pid --unshare-ipc --unshare-uts --unshare-cgroup-try "
            "--disable-userns --die-with-parent --new-session "
            "--uid 1000 --gid 1000 --hostname sandbox --cap-drop ALL --clearenv "
            f"--ro-bind {stage}/{namespaces.ROOT} / "
            f"--proc /proc --remount-ro /proc --dev /dev --ro-bind {stage}/zero /dev/zero "
            f"--bind {stage}/shm /dev/shm --remount-ro /dev "
            f"--bind {stage}/tmp /tmp --bind {stage}/box {WORKSPACE} --chdir {WORKSPACE}"
        ).split()
        flags.insert(0, required("bwrap"))
        if self._home.net_ns is None:
            flags += ["--unshare-net"]
        flags += ["--seccomp", str(filters), "--json-status-fd", str(says)]
        flags += ["--block-fd", str(gate)]
        path = interpreter.search_path()
        every = {**environment(config, path=path, home=WORKSPACE), **env}
        for name, value in every.items():
            flags += ["--setenv", name, value]
        return [*flags, "--unsetenv", self._mark, "--"]

    def close(self) -> None:
        """End everything in it and free it. Twice is fine."""
        with self._starting:
            if self._closed:
                return
            self._closed = True
        for process in list(self._live):  # started in the last moment, by another thread
            process.end()
        try:
            if self._group is not None:
                self._group.remove()
            self._slot.release()
        finally:
            self._home.close()
            self._slot.abandon()  # where something could not be removed
            spawn.bury_orphans("bwrap")


class _Contained:
    """The processes of one command: those of a process-id namespace, and of a cgroup if any."""

    def __init__(self, outer: int, status: Status, group: cgroups.CommandGroup | None) -> None:
        self._outer = outer
        self._status = status
        self._group = group
        self.first: int | None = None
        """The first process of the namespace, as the host numbers it."""
        self._pidfd: int | None = None
        self._first_cpu_s: float | None = None
        """Of all processes of the namespace, once they have ended."""

    def find_first(self, outer_pidfd: int) -> None:
        """Wait until bubblewrap says which process is the first. Returns also when it failed.

        The first process waits for us before it does anything, so it joins the cgroup here. Where
        it would join by itself, it would wait for a long while: the kernel has all processors
        agree before it moves a process. So this happens while the chain of programs starts.

        Raises:
            SandboxBroken: it says nothing for too long.
            OSError: it can't join.
        """
        if self._group is not None:
            self._group.take_in(self._outer)
        poll = select.poll()
        poll.register(self._status.descriptor, select.POLLIN)
        poll.register(outer_pidfd, select.POLLIN)
        while "child-pid" not in (said := self._status.read()):
            ready = dict(poll.poll(_START_S * 1000))
            if not ready:
                raise SandboxBroken(f"bubblewrap did not start within {_START_S:g} s")
            if outer_pidfd in ready:
                said = self._status.read()
                break
        first = said.get("child-pid")
        if first is None:
            return
        with contextlib.suppress(ProcessLookupError):
            descriptor = os.pidfd_open(first)
            # Only its child, or an orphan of ours where it has ended already, can be it: the
            # number may have been given to somebody else meanwhile.
            if proctree.parent(first) in (self._outer, os.getpid()):
                spawn.answer_for(first)
                self.first, self._pidfd = first, descriptor
                proctree.first_to_go(first)
                if self._group is not None:
                    self._group.take_in(first)
            else:
                os.close(descriptor)

    def pids(self) -> list[int]:
        if self._group is not None:
            return self._group.pids()
        return proctree.descendants(self._outer)

    def kill(self) -> None:
        if self._group is not None:
            self._group.kill()
        if self._pidfd is not None:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)

    def queued(self) -> int:
        """Bytes that can stand in sockets, also in those that no process has open any more."""
        return 0 if self.first is None else proctree.queued(self.first)

    def interrupt(self) -> None:
        holding = (self._outer, self.first)
        proctree.interrupt([p for p in self.pids() if p not in holding], self.pids)

    def gone(self) -> bool:
        # The first process of the namespace ends last.
        if self._pidfd is not None and not self._first_ended(_LINGER_S):
            return False
        return self._group is None or not self._group.pids()

    def _first_ended(self, within_s: float) -> bool:
        """Whether the first process ends within a time; then it is buried and its time known."""
        assert self.first is not None and self._pidfd is not None
        if self._first_cpu_s is None:
            poll = select.poll()
            poll.register(self._pidfd, select.POLLIN)
            if not poll.poll(within_s * 1000):
                return False
            self._first_cpu_s = spawn.bury(self.first, self._pidfd)
        return True

    def cpu_s(self) -> float | None:
        return self._first_cpu_s if self._group is None else self._group.cpu_s()

    def outcome(self, status: int, complaint: str) -> tuple[int, str]:
        said = self._status.read()
        if "exit-code" in said:
            return said["exit-code"], complaint
        # Nothing of the command has run, so these are bubblewrap's own words.
        _, failed, what = complaint.partition("bwrap: execvp ")
        if failed:
            return 127, f"{what.strip()}\n"
        if f"Can't chdir to {WORKSPACE}" in complaint:  # another command of the agent shut it
            return 126, "the workspace can't be entered\n"
        last = (complaint.strip().splitlines() or [f"it ended with status {status}"])[-1]
        kind = Starved if "temporarily unavailable" in complaint else SandboxBroken
        raise kind(f"the sandbox did not start: {last}")

    def close(self) -> None:
        self._status.close()
        if self._pidfd is not None:
            self._first_ended(0.0)
            os.close(self._pidfd)
            self._pidfd = None
        if self._group is not None:
            self._group.close()


@cache
def _bwrap_help() -> str:
    return subprocess.run(
        [required("bwrap"), "--help"], capture_output=True, text=True, timeout=20
    ).stdout
