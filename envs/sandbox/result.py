"""What comes back from a sandbox, and the clipping of output."""

from __future__ import annotations

import signal as signals
from dataclasses import dataclass

from rlagents.errors import SandboxBroken


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """How a command, or one turn of a session, ended.

    The output is the agent's word; the figures and `limit` are measured from outside.
    """

    stdout: str
    """Head and tail, with a mark where something was left out. Undecodable bytes are replaced."""
    stderr: str
    exit_status: int | None
    """None where a signal or a limit ended it."""
    signal: str | None = None
    """Name of the signal that ended it. As in shells, 128 + N reads as signal N."""
    limit: str | None = None
    """The key of `SandboxConfig` whose limit ended it."""
    ended: bool = True
    """False where the session goes on after this turn."""
    wall_s: float
    cpu_s: float
    """Of all its processes."""
    peak_memory: int
    """Bytes resident in all its processes at once, the largest sum that the watchdog saw; the
    memory of a command that lasts milliseconds can be missed."""
    tier: str

    @property
    def ok(self) -> bool:
        """Ended by itself with status 0."""
        return self.exit_status == 0 and self.limit is None

    @property
    def output(self) -> str:
        """Standard output, then standard error."""
        joint = "\n" if self.stdout and self.stderr and not self.stdout.endswith("\n") else ""
        return self.stdout + joint + self.stderr

    def describe(self) -> str:
        """One line on how it ended: `exit status 1`, `killed by SIGSEGV`, `limit wall_s`."""
        if self.limit is not None:
            return f"ended by the limit {self.limit}"
        if self.signal is not None:
            return f"killed by {self.signal}"
        return "no exit status" if self.exit_status is None else f"exit status {self.exit_status}"


def refused(problem: str, tier: str, *, limit: str | None = None) -> Result:
    """Of a command that has not run: as a shell says of what it can't execute, or by a limit."""
    return Result(
        stdout="",
        stderr=f"{problem}\n",
        exit_status=126 if limit is None else None,
        limit=limit,
        wall_s=0.0,
        cpu_s=0.0,
        peak_memory=0,
        tier=tier,
    )


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The files of a workspace: a tar archive made and unpacked inside a sandbox, never outside."""

    tar: bytes


class Starved(SandboxBroken):
    """The machine is out of something (processes, memory, room): trying again later may do."""


class Clip:
    """Keeps the head and the tail of a stream."""

    def __init__(self, keep: int) -> None:
        """`keep` is in bytes."""
        self._head_room = keep - keep // 2
        self._tail_room = keep // 2
        self._head = bytearray()
        self._tail = bytearray()
        self.total = 0

    def add(self, data: bytes) -> None:
        self.total += len(data)
        room = self._head_room - len(self._head)
        self._head += data[:room]
        if len(data) > room:
            self._tail += data[room:] if room > 0 else data
            if len(self._tail) > 4 * self._tail_room + 4096:
                del self._tail[: len(self._tail) - self._tail_room]

    def bytes(self) -> bytes:
        """Everything, when nothing was left out.

        Raises:
            ValueError: when something was.
        """
        if self.total > self._head_room + self._tail_room:
            raise ValueError(f"{self.total:,} bytes, more than the {self._head_room * 2:,} kept")
        return bytes(self._head + self._tail)

    def text(self) -> str:
        """Head, mark and tail."""
        left_out = self.total - self._head_room - self._tail_room
        if left_out <= 0:
            return (self._head + self._tail).decode(errors="replace")
        tail = self._tail[len(self._tail) - self._tail_room :]
        head = self._head.decode(errors="replace")
        mark = f"\n[... {left_out:,} bytes left out ...]\n"
        return head + mark + tail.decode(errors="replace")


def ending(status: int | None) -> tuple[int | None, str | None]:
    """Exit status and signal name of a status as shells report it."""
    if status is None:
        return None, None
    if status > 128:
        try:
            return None, signals.Signals(status - 128).name
        except ValueError:
            return status, None
    return status, None
