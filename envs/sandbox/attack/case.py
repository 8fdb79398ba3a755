"""What an attack is, and what it may use of the host to see whether it got anything."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from rlagents.envs.sandbox.box import Sandbox


@dataclass(frozen=True, slots=True)
class Verdict:
    """What came of an attack."""

    contained: bool
    evidence: str
    """What was seen, with numbers: `stopped at 61 forks`, `read the secret in /proc/1/root`."""


class Host(Protocol):
    """The side that is attacked, with canaries to be stolen or changed."""

    secret: str
    """A random word that no program inside may ever see. It stands in a file, in the environment
    of this process, in its memory, behind a TCP port and behind UNIX sockets."""
    secret_path: str
    """A world-readable file of the host that holds it; its folder is world-readable too."""
    private_path: str
    """A file with mode 0600 that holds it."""
    writable_path: str
    """A world-writable file of the host; unchanged afterwards or the tier has failed."""
    port: int
    """Of a TCP server on 127.0.0.1 that answers with the secret, and of a UDP one."""
    unix_path: str
    """Of a world-accessible UNIX socket that answers with the secret."""
    abstract: str
    """Name (without the leading zero byte) of an abstract UNIX socket that does."""
    victim: int
    """Pid of a process of ours that must not be stopped or killed."""

    def open(self, **settings: Any) -> Sandbox:
        """A sandbox of the tier under attack, closed by the battery after the case."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One attack."""

    name: str
    """`fork_bomb`."""
    source: str
    """Where it comes from: `1.3`, `trap 4`, `R7`, or `ours`."""
    what: str
    """What it tries, in one line for a table."""
    run: Callable[[Host], Verdict]
    """Attack. May raise `SandboxBroken`, which counts as a failure of the sandbox."""
