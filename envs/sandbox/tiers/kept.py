"""What the tiers without namespaces share: a workspace in a folder, and a keeper for each command.

The chain that starts a command: keeper (see `keeper.py`) -> its child, which gives up what it must
not have (as root: the user id) -> the command. As root every sandbox has a user id of its own, so
the kernel bounds its processes and nothing of the host is its own.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import secrets
import select
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from rlagents.envs.sandbox import interpreter, proctree, slots, spawn
from rlagents.envs.sandbox.config import SandboxConfig
from rlagents.envs.sandbox.process import GRACE_S, Process, Status
from rlagents.envs.sandbox.result import Starved
from rlagents.envs.sandbox.tiers import folders, layout, users
from rlagents.envs.sandbox.tiers.base import Lines, environment, inherited, rlimits
from rlagents.envs.sandbox.watchdog import watchdog
from rlagents.errors import SandboxBroken

CLEANERS: Mapping[str, slots.Cleaner] = {"user": users.end, "folder": folders.remove}
SHARED_GAPS = (
    "size and number of files of the workspace and of TMPDIR are measured every tenth of a second "
    "or less often and what is over is ended, so for a moment they can be over; files that are "
    "deleted but open are not seen",
    "started by an ordinary user, processes are counted in the same way; started by root the "
    "kernel bounds them",
)
"""Of all tiers with a keeper."""
_KEEPER = os.path.join(os.path.dirname(__file__), "keeper")
_STARVED = (errno.EAGAIN, errno.ENOMEM, errno.ENFILE, errno.EMFILE)


@dataclass(slots=True, kw_only=True)
class Confinement:
    """What a command is put under beside limits."""

    scope: int | None = None
    """Descriptor of the Landlock ruleset that the keeper goes under, to kill in one stroke."""
    rules: int | None = None
    """Of the ruleset that the command goes under."""
    filters: Sequence[bytes] = ()
    """System call filters, as BPF programs."""
    asks: tuple[bytes, Mapping[int, str]] | None = None
    """A filter whose calls the keeper decides on, and the numbers and names of these."""

    def close(self) -> None:
        """Twice is fine."""
        for descriptor in (self.scope, self.rules):
            if descriptor is not None:
                os.close(descriptor)
        self.scope = self.rules = None


class KeptBox:
    """A workspace whose commands have a keeper."""

    scratch: Sequence[str] = ()  # each command has a folder of its own

    def __init__(
        self,
        tier: str,
        config: SandboxConfig,
        slot: slots.Slot,
        *,
        drop: bool,
        confine: Callable[[layout.Folders], Confinement],
    ) -> None:
        """Make the folders.

        Args:
            slot: ours from now on.
            drop: run commands as the user of the slot.
            confine: what commands go under, given the folders.

        Raises:
            SandboxBroken: they can't be made.
        """
        self._tier = tier
        self._config = config
        self._slot = slot
        self._uid = slot.uid if drop else None
        self._closed = False
        unique = f"{layout.PREFIX}{slot.number}-{secrets.token_hex(6)}"
        base = os.path.join(layout.parent(), unique)
        try:
            if self._uid is not None:
                slot.note("user", str(self._uid))
            slot.note("folder", base)
            self._folders = layout.make(base, config, self._uid)
            self.where = self._folders.work  # the path is the same inside and outside
            self._confinement = confine(self._folders)
            self.root = os.open(self._folders.work, os.O_RDONLY | os.O_DIRECTORY)
        except BaseException as error:
            self._free(base)
            if isinstance(error, OSError):
                raise SandboxBroken(f"making a workspace: {error}") from error
            raise

    def lines(self) -> Lines:
        """Pipes."""
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
        tmp = self._prepare()
        under = self._confinement
        rulesets = [d for d in (under.scope, under.rules) if d is not None]
        spec = _document(self._spec(argv, env, tmp, control, session=session))
        said, says = os.pipe()
        status = Status(said)
        try:
            command = [interpreter.executable(), "-I", "-S", "-B", _KEEPER]
            passed = [spec, says, *rulesets, *control]
            started = spawn.start([*command, str(spec), str(says)], pass_fds=passed, stdin=stdin)
        except BaseException:
            status.close()
            folders.discard(tmp)
            raise
        finally:
            os.close(spec)
            os.close(says)
        tree = _Kept(started.popen.pid, status, tmp)
        process = Process(started, tree, self._config, self._tier)
        tree.process = process
        watchdog.watch(process)
        return process

    def _prepare(self) -> str:
        """A new folder for temporary files; both that one and the workspace can be entered."""
        # A name that programs can't have taken; modes that they can't have left.
        tmp = os.path.join(self._folders.tmp, secrets.token_hex(6))
        try:
            os.fchmod(self.root, 0o700)
            os.chmod(self._folders.tmp, layout.passable(self._uid))
            layout.folder(tmp, self._uid)
        except OSError as error:
            raise SandboxBroken(f"a folder for temporary files: {error}") from error
        return tmp

    def _spec(
        self,
        argv: Sequence[str],
        env: Mapping[str, str],
        tmp: str,
        control: Sequence[int],
        *,
        session: bool,
    ) -> dict[str, object]:
        config, made, under = self._config, self._folders, self._confinement
        path = ":".join([os.path.join(made.python, "bin"), *interpreter.SYSTEM])
        ours = {**environment(config, path=path, home=made.work), "TMPDIR": tmp, **config.env}
        own_user = self._uid is not None
        limits = dict(map(_number, rlimits(config, session=session, processes=False)))
        if own_user:
            limits["nproc"] = config.processes
        covers, binds = layout.closed([made.base, *made.offered]) if own_user else ((), ())
        mib = 2**20
        return {
            "parent": os.getpid(),
            "argv": list(argv),
            "env": {**ours, **env},
            "cwd": made.work,
            "keep": list(control),
            "limits": limits,
            "uid": self._uid,
            "count": None if own_user else config.processes,
            "covers": covers,
            "binds": binds,
            "scope": under.scope,
            "rules": under.rules,
            "asks": None
            if under.asks is None or own_user
            else {"program": under.asks[0].hex(), "names": under.asks[1]},
            "filters": [f.hex() for f in under.filters],
            "folders": [
                (
                    made.work,
                    config.workspace_mb * mib,
                    config.workspace_files,
                    "workspace_mb",
                    "workspace_files",
                ),
                (tmp, config.tmp_mb * mib, config.workspace_files, "tmp_mb", "tmp_mb"),
            ],
        }

    def close(self) -> None:
        """End everything in it and free it. Twice is fine."""
        if self._closed:
            return
        self._closed = True
        os.close(self.root)
        self._confinement.close()
        self._free(self._folders.base)

    def _free(self, base: str) -> None:
        try:
            if self._uid is not None:
                users.end(str(self._uid))
            folders.remove(base)
        finally:
            self._slot.release()


class _Kept:
    """The processes of one command: those below its keeper."""

    def __init__(self, keeper: int, status: Status, tmp: str) -> None:
        self.process: Process | None = None
        self._keeper = keeper
        self._pidfd = os.pidfd_open(keeper)
        self._status = status
        self._tmp = tmp
        self._seen_s = 0.0
        self._last: dict[int, int | None] = {}

    def pids(self) -> list[int]:
        if self._ended():
            return self._orphans()
        found = proctree.descendants(self._keeper)[1:]
        self._last = {p: self._last.get(p) or proctree.start_time(p) for p in found}
        return found

    def _orphans(self) -> list[int]:
        """Those last seen below a keeper that was killed, and what is below them."""
        if not self._last or self._status.read():
            return []
        same = [p for p, began in self._last.items() if began and proctree.start_time(p) == began]
        found = {p for top in same for p in proctree.descendants(top)}
        return [p for p in found if not users.dead(str(p))]

    def kill(self) -> None:
        """The keeper kills, ends and is waited for: killed itself, it could not."""
        if self._ended():
            self._kill_seen()
            return
        for number in (signal.SIGTERM, signal.SIGCONT):
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._pidfd, number)
        deadline = time.monotonic() + GRACE_S
        while not self._ended(wait_s=GRACE_S / 4) and time.monotonic() < deadline:
            self._kill_seen()  # it may have been stopped or killed

    def _kill_seen(self) -> None:
        for pid in self.pids():
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)

    def interrupt(self) -> None:
        proctree.interrupt(self.pids(), self.pids)

    def gone(self) -> bool:
        if not self._ended():
            return False
        self._kill_seen()
        return not self._orphans()

    def cpu_s(self) -> float | None:
        said = self._status.read()
        if "cpu_us" in said:
            self._seen_s = said["cpu_us"] / 1e6
        elif not self._ended():
            living = proctree.usage(self.pids()).cpu_s
            self._seen_s = max(self._seen_s, living + _waited_cpu_s(self._keeper))
        return self._seen_s

    def outcome(self, status: int, complaint: str) -> tuple[int, str]:
        said = self._status.read()
        if "failed" in said:
            kind = Starved if said["errno"] in _STARVED else SandboxBroken
            raise kind(f"the command could not be started: {said['failed']}")
        if "limit" in said and self.process is not None:
            self.process.limit = self.process.limit or str(said["limit"])
            return 0, complaint
        if "exit-code" in said:
            return said["exit-code"], complaint
        why = complaint.strip().splitlines()[-1:] or [f"status {status}"]
        raise SandboxBroken(f"the keeper of a command ended without a word: {why[0]}")

    def close(self) -> None:
        self._status.close()
        if self._pidfd >= 0:
            os.close(self._pidfd)
            self._pidfd = -1
            folders.discard(self._tmp)

    def _ended(self, *, wait_s: float = 0.0) -> bool:
        if self._pidfd < 0:
            return True
        poll = select.poll()
        poll.register(self._pidfd, select.POLLIN)
        return bool(poll.poll(wait_s * 1000))


def _waited_cpu_s(pid: int) -> float:
    """CPU time of the children that a process has waited for."""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
            return sum(map(int, file.read().rpartition(")")[2].split()[13:15])) * proctree.TICK
    except (OSError, ValueError):
        return 0.0


def _number(option: str) -> tuple[str, int]:
    """An option of `prlimit`, taken apart."""
    name, _, value = option.removeprefix("--").partition("=")
    return name, int(value)


def _document(content: Mapping[str, object]) -> int:
    """A descriptor that a JSON document can be read from."""
    descriptor = os.memfd_create("command", os.MFD_CLOEXEC)
    try:
        with open(descriptor, "w", encoding="utf-8", closefd=False) as file:
            json.dump(content, file)
        os.lseek(descriptor, 0, os.SEEK_SET)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor
