"""The sandbox as users meet it: a workspace, commands and sessions in it, its files."""

from __future__ import annotations

import contextlib
import functools
import os
import weakref
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from rlagents.envs.sandbox import files
from rlagents.envs.sandbox.choice import ready
from rlagents.envs.sandbox.command import execute
from rlagents.envs.sandbox.config import SandboxConfig
from rlagents.envs.sandbox.process import Process, Streams
from rlagents.envs.sandbox.result import Result, Snapshot, Starved, refused
from rlagents.envs.sandbox.session import Kind, Session
from rlagents.envs.sandbox.shield import shielded
from rlagents.envs.sandbox.tiers.base import Box, Tier
from rlagents.errors import SandboxBroken, boundary

READ_LIMIT = 16 * 2**20
"""Bytes of a file that `read` returns unless told otherwise."""
_ARCHIVE_S = 120.0
_ARGUMENT, _ARGUMENTS = 120_000, 1_000_000
"""Bytes of one argument and of all: a little less than Linux takes."""
_WORDS, _PATH = 4_000, 4_096
"""How many arguments bubblewrap takes beside its own, and bytes of a path."""


class Sandbox:
    """A workspace that an agent's code runs in.

    What the code does wrong is a `Result`; what the sandbox does wrong is a `SandboxBroken`, and
    never stands in a result.

    Example:
        with Sandbox({"tier": "strict", "packages": ["numpy"]}) as box:
            box.write("main.py", "import numpy; print(numpy.arange(3).sum())")
            print(box.run(["python3", "main.py"]).stdout)  # 3
    """

    def __init__(self, config: SandboxConfig | Mapping[str, Any] | None = None) -> None:
        """Make an empty workspace.

        Raises:
            ConfigError: a wrong setting, or isolation that this machine can't give, with what to
                install.
            SandboxBroken: it can't be made, or the self-probe found it open.
        """
        self.config = SandboxConfig.of(config)
        tier = ready(self.config)
        self.tier = tier.name
        # Held until closed: one that was merely forgotten would go on being watched, under the
        # name of a cgroup that somebody else may have by then.
        self._sessions: list[Session] = []
        self._running: set[Process] = set()
        with boundary(SandboxBroken, "making a sandbox"):
            shielded(lambda: self._open(tier), free=lambda _: self.close())

    def _open(self, tier: Tier) -> None:
        self._box = tier.open(self.config)
        # Also when nobody calls close: at the latest when this process ends.
        self._close = weakref.finalize(
            self, _close, os.getpid(), self._sessions, self._running, self._box
        )

    @property
    def where(self) -> str:
        """The workspace's path as programs in it see it."""
        return self._box.where

    def run(
        self,
        command: Sequence[str] | str,
        *,
        stdin: bytes = b"",
        env: Mapping[str, str] | None = None,
        wall_s: float | None = None,
    ) -> Result:
        """Run a command to its end, in the workspace; everything it started ends with it.

        Args:
            command: a program and its arguments, or a line for `sh`.
            stdin: what it reads.
            env: environment variables beside those of the configuration.
            wall_s: seconds, instead of the configured.

        Raises:
            SandboxBroken: the sandbox failed.
        """
        self._require_open()
        limit = self.config.wall_s if wall_s is None else wall_s
        argv, streams = _argv(command), Streams.of(self.config)
        if (problem := _unsayable(argv)) is not None:
            return refused(problem, self.tier)
        return self._execute(argv, streams, wall_s=limit, stdin=stdin, env=env)

    def python(self, source: str, *, wall_s: float | None = None) -> Result:
        """Run a Python program, isolated from the workspace's own modules (`python3 -I`).

        Raises:
            SandboxBroken: the sandbox failed.
        """
        data = source.encode(errors="replace")
        return self.run(["python3", "-I", "-"], stdin=data, wall_s=wall_s)

    def shell(self) -> Session:
        """A `bash` that stays alive between turns."""
        return self._session("shell")

    def repl(self, library: str = "") -> Session:
        """A Python that stays alive between turns.

        Args:
            library: source of functions that may ask whoever runs a turn (`Session.begin`), as
                `sandbox/drivers.py` describes; what they ask is the agent's word.
        """
        return self._session("python", library)

    def write(self, path: str, data: bytes | str, *, mode: int = 0o644) -> None:
        """Write a file of the workspace, whole or not at all; folders on the way are made.

        Raises:
            UnsafeFile: the path leaves the workspace or meets a link.
            OSError: the workspace is full, or a folder is in the way.
        """
        raw = _bytes(data) if isinstance(data, str) else data
        root = self._open_root()
        owner = os.fstat(root).st_uid if os.geteuid() == 0 else None
        files.write(root, path, raw, owner=owner, mode=mode)

    def read(self, path: str, *, limit: int = READ_LIMIT) -> bytes:
        """All of a regular file of the workspace.

        Raises:
            UnsafeFile: a link, no regular file, one with several names, or over `limit` bytes.
            FileNotFoundError: nothing is there.
        """
        return files.read(self._open_root(), path, limit=limit)

    def files(self) -> Iterator[files.Entry]:
        """What is in the workspace.

        Raises:
            UnsafeFile: more names or deeper folders than anybody should look at.
        """
        return files.entries(self._open_root())

    def copy_out(self, patterns: Iterable[str], *, limit: int = 32 * 2**20) -> dict[str, bytes]:
        """The plain files whose paths match a pattern, to be looked at elsewhere: path -> content.

        Args:
            patterns: as in `fnmatch`; `*` matches `/` too.
            limit: bytes of all of them together.

        Raises:
            UnsafeFile: more than that, or something else matches.
        """
        return files.copy_out(self._open_root(), patterns, limit=limit)

    def snapshot(self) -> Snapshot:
        """All files as they are now. Sessions go on; their memory is not part of it.

        What its owner may not read (mode 000) is made readable for this, and stays so.

        Raises:
            UnsafeFile: they can't be packed, or not unpacked again: too deep, or changed so.
            SandboxBroken: the sandbox failed.
        """
        keep = 2 * (self.config.workspace_mb + 1) * 2**20 + 4096 * self.config.workspace_files
        root, where, streams = self._open_root(), self.where, Streams.of(self.config, keep)
        pack = f"tar --create --sparse --file=- --directory {where} ."
        script = f"chmod -R u+rX {where} 2>/dev/null; exec {pack}"
        done = self._execute(["sh", "-c", script], streams, wall_s=_ARCHIVE_S)
        if done.exit_status not in (0, 1):  # 1: something changed meanwhile
            raise _archive_failure("packing", done)
        for _ in files.entries(root, limit=self.config.workspace_files):
            pass  # no path that tar can pack but not unpack
        try:
            return Snapshot(streams.out.bytes())
        except ValueError as error:
            raise files.UnsafeFile(f"packing the workspace: {error}") from None

    def restore(self, snapshot: Snapshot) -> None:
        """Put the workspace back to a snapshot: files made since are gone, of `/tmp` all.

        Raises:
            UnsafeFile: something that still runs there is in the way.
            SandboxBroken: the sandbox failed.
        """
        clear = f"find {' '.join([self.where, *self._box.scratch])} -mindepth 1 -delete"
        unpack = f"tar --extract --file=- --directory {self.where} --preserve-permissions"
        script = f"chmod -R u+rwX {self.where} 2>/dev/null; {clear} && {unpack}"
        self._require_open()
        argv, streams = ["sh", "-c", script], Streams.of(self.config)
        done = self._execute(argv, streams, wall_s=_ARCHIVE_S, stdin=snapshot.tar)
        if not done.ok:
            raise _archive_failure("restoring", done)

    def close(self) -> None:
        """End everything in it and free it. Twice is fine."""
        self._close()

    def __enter__(self) -> Sandbox:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _open_root(self) -> int:
        self._require_open()
        return self._box.root

    def _require_open(self) -> None:
        if not self._close.alive:
            raise ValueError("the sandbox is closed")

    def _execute(
        self,
        argv: Sequence[str],
        streams: Streams,
        *,
        wall_s: float,
        stdin: bytes = b"",
        env: Mapping[str, str] | None = None,
    ) -> Result:
        box, running = self._box, self._running
        try:
            return execute(box, argv, streams, wall_s=wall_s, stdin=stdin, env=env, running=running)
        except Starved:
            if not _crowded(self._sessions, self._running):
                raise
            return refused("no process is left to run it with", self.tier, limit="processes")

    def _session(self, kind: Kind, library: str = "") -> Session:
        self._require_open()
        with boundary(SandboxBroken, f"starting a {kind} session"):
            session = shielded(lambda: self._new_session(kind, library), free=Session.close)
        for ended in [s for s in self._sessions if not s.alive]:
            with contextlib.suppress(ValueError):  # another thread was here
                self._sessions.remove(ended)
        return session

    def _new_session(self, kind: Kind, library: str) -> Session:
        # Not a method: a session must not keep alive the sandbox that nobody else has any more.
        crowded = functools.partial(_crowded, self._sessions, self._running)
        session = Session(self._box, self.config, kind, library=library, crowded=crowded)
        self._sessions.append(session)
        return session


def _archive_failure(doing: str, done: Result) -> Exception:
    """Of `tar`: what files do to it is the agent's, that it is missing is not."""
    said = f"{doing} the workspace: {done.describe()}: {done.stderr[-500:]}"
    return SandboxBroken(said) if done.exit_status == 127 else files.UnsafeFile(said)


def _argv(command: Sequence[str] | str) -> list[str]:
    """As the kernel takes it: characters that no bytes stand for are replaced."""
    words = ["sh", "-c", command] if isinstance(command, str) else list(command)
    return [w if w.isascii() else os.fsdecode(_bytes(w)) for w in words]


def _bytes(text: str) -> bytes:
    try:
        return os.fsencode(text)
    except UnicodeEncodeError:
        return text.encode(errors="replace")


def _unsayable(argv: Sequence[str]) -> str | None:
    """Why the kernel would refuse these words. They are the agent's, so it is no broken sandbox."""
    if not argv:
        return "no command"
    if any("\0" in word for word in argv):
        return "a zero byte in an argument"
    if any(len(os.fsencode(word)) > _ARGUMENT for word in argv):
        return f"an argument longer than {_ARGUMENT:,} bytes: write it to a file"
    if len(argv) > _WORDS or len(os.fsencode(argv[0])) >= _PATH:
        return f"more than {_WORDS:,} arguments, or a longer name than a program can have"
    if sum(len(os.fsencode(word)) for word in argv) > _ARGUMENTS:
        return f"arguments longer than {_ARGUMENTS:,} bytes together: write them to a file"
    return None


def _crowded(sessions: list[Session], running: set[Process]) -> bool:
    """Whether something else of the agent is alive, which may hold all processes.

    Then that nothing can be started is its own doing, and not a broken sandbox.
    """
    return bool(running) or any(s.alive for s in sessions)


def _close(owner: int, sessions: list[Session], running: set[Process], box: Box) -> None:
    if os.getpid() != owner:
        return  # a copy in a process forked from the owner, which still uses it
    try:
        for process in list(running):
            process.end()
        for session in sessions:
            session.close()
    finally:
        box.close()
