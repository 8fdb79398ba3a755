"""What a tier of isolation offers: anything that can hold a workspace and run a command in it."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Protocol

from rlagents.envs.sandbox.config import SandboxConfig
from rlagents.envs.sandbox.process import Process
from rlagents.envs.sandbox.slots import Cleaner
from rlagents.errors import ConfigError

WORKSPACE = "/box"
"""Where programs find the workspace, in tiers that can put it there."""


@dataclass(slots=True, kw_only=True)
class Lines:
    """The two one-way lines between a session and the program that serves it."""

    requests: int
    """Our end, written to without waiting."""
    replies: int
    """Our end, read without waiting."""
    inside: tuple[int, int]
    """The numbers of the other ends in the program."""
    given: tuple[int, ...] = ()
    """Descriptors that the program inherits, of no use to us once it is started."""
    opener: tuple[str, ...] = ()
    """Command prefix that gets the other ends by itself where none can be inherited."""
    names: tuple[str, ...] = ()
    """Files to remove at the end."""

    def started(self) -> None:
        """The program has, or never will have, its ends. Twice is fine."""
        for descriptor in self.given:
            os.close(descriptor)
        self.given = ()

    def close(self) -> None:
        """Free everything. Twice is fine."""
        self.started()
        for descriptor in (self.requests, self.replies):
            if descriptor >= 0:
                os.close(descriptor)
        self.requests = self.replies = -1
        for name in self.names:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(name)


def inherited() -> Lines:
    """Lines of pipes, for tiers whose programs can inherit descriptors."""
    requests, ours = os.pipe()
    try:
        replies, says = os.pipe()
    except OSError:
        os.close(requests)
        os.close(ours)
        raise
    for descriptor in (ours, replies):
        os.set_blocking(descriptor, False)
    ends = (requests, says)
    return Lines(requests=ours, replies=replies, inside=ends, given=ends)


class Box(Protocol):
    """One workspace, and the commands in it."""

    root: int
    """Descriptor of the workspace's folder on the host."""
    where: str
    """The workspace's path as programs in it see it."""
    scratch: Sequence[str]
    """Folders of its own that last as long as it and are not part of a snapshot."""

    def lines(self) -> Lines:
        """What a session started here takes its turns over."""
        ...

    def start(
        self,
        argv: Sequence[str],
        *,
        env: Mapping[str, str],
        stdin: bool = False,
        control: Sequence[int] = (),
        session: bool = False,
    ) -> Process:
        """Start a command there.

        Args:
            argv: looked up on the PATH inside.
            env: additional environment variables.
            stdin: give it a pipe to read from.
            control: descriptors it inherits under the same numbers.
            session: it lives for many turns, so only a turn's CPU time is bounded.

        Raises:
            SandboxBroken: it can't be started.
        """
        ...

    def close(self) -> None:
        """End everything in it and free it. Twice is fine."""
        ...


class Tier(Protocol):
    """A way to isolate."""

    name: str
    cleaners: Mapping[str, Cleaner]
    """How to remove what a killed owner leaves behind."""
    gaps: Sequence[str]
    """What it does not contain, in words for people."""

    def problem(self) -> str | None:
        """Why it can't be had on this machine and what to install, or None."""
        ...

    def open(self, config: SandboxConfig) -> Box:
        """A new, empty workspace.

        Raises:
            SandboxBroken: it can't be made.
        """
        ...


def program(name: str) -> str | None:
    """Full path of a program of the host, also where PATH leaves out the folders of root."""
    path = os.environ.get("PATH", os.defpath)
    return _which(name, f"{path}:/usr/sbin:/sbin:/usr/bin:/bin")


@cache
def _which(name: str, path: str) -> str | None:
    return shutil.which(name, path=path)


def required(name: str) -> str:
    """As `program`, for one that `problem` has looked for.

    Raises:
        ConfigError: it has gone meanwhile.
    """
    found = program(name)
    if found is None:
        raise ConfigError(f"sandbox.tier: {name} is not installed any more")
    return found


def environment(config: SandboxConfig, *, path: str, home: str) -> dict[str, str]:
    """The whole environment of a command: nothing of ours passes but by configuration."""
    return {
        "PATH": path,
        "HOME": home,
        "TMPDIR": "/tmp",
        "LANG": "C.UTF-8",
        "TERM": "dumb",
        "USER": "box",
        "PYTHONDONTWRITEBYTECODE": "1",
        "OMP_NUM_THREADS": "1",
        **config.env,
    }


def rlimits(config: SandboxConfig, *, session: bool, processes: bool) -> list[str]:
    """Options of `prlimit` for the limits that the kernel keeps for each process.

    Args:
        session: no bound on a process's CPU time: it lives for many turns.
        processes: also bound the number of processes of the user.
    """
    mib = 2**20
    # Addresses are cheap and libraries reserve many: this stops one process from a runaway
    # allocation with a MemoryError; what the tree may hold is the watchdog's.
    space = (2 * config.memory_mb + 1024) * mib
    options = [
        f"--as={space}",
        f"--fsize={config.file_mb * mib}",
        f"--nofile={config.open_files}",
        # Not 0, which starts the host's handler of crashes where there is one: 1 is none at all.
        "--core=1",
        "--msgqueue=0",
    ]
    if not session:
        options.append(f"--cpu={int(config.cpu_s) + 2}")
    if processes:
        options.append(f"--nproc={config.processes + 4}")
    return options
