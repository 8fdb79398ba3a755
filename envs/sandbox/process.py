"""One command in a sandbox while it runs: its streams, its limits, its end.

The thread that asked for the command reads its streams; the watchdog's thread watches what it
holds. Either may end it; the first reason counts.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import select
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Protocol

from rlagents.envs.sandbox import proctree, spawn
from rlagents.envs.sandbox.config import SandboxConfig
from rlagents.envs.sandbox.result import Clip, Result, ending
from rlagents.envs.sandbox.spawn import Started
from rlagents.errors import SandboxBroken

GRACE_S = 30.0
"""A killed tree is gone after this long, or the sandbox is broken. Mostly it takes milliseconds;
but an agent can make processes that the kernel needs seconds to take apart."""
_MIB = 2**20
_CHUNK = 65536


class Tree(Protocol):
    """All processes of one command, however far they fork."""

    def pids(self) -> list[int]:
        """Those alive now, as the host numbers them."""
        ...

    def kill(self) -> None:
        """End them all. Harmless when they are gone."""
        ...

    def interrupt(self) -> None:
        """What Ctrl-C does in a terminal, to all but those that hold the sandbox together."""
        ...

    def gone(self) -> bool:
        """Whether none is left. It may wait some milliseconds for that."""
        ...

    def cpu_s(self) -> float | None:
        """Of all of them, ended ones too; None while only the living can be asked."""
        ...

    def outcome(self, status: int, complaint: str) -> tuple[int, str]:
        """The command's own exit status and standard error.

        Args:
            status: of the program that was started.
            complaint: what stood on standard error.

        Raises:
            SandboxBroken: the command was never started.
        """
        ...

    def close(self) -> None:
        """Free what it holds. Twice is fine."""
        ...


class Process:
    """A command, from its start to the last of its processes."""

    def __init__(
        self,
        started: Started,
        tree: Tree,
        config: SandboxConfig,
        tier: str,
        *,
        memory: Callable[[], int] | None = None,
        beside: Callable[[], int] = lambda: 0,
    ) -> None:
        """See to a command that has been started.

        Args:
            memory: bytes that it holds, where the sizes of its processes do not say so.
            beside: bytes that it holds beside those.
        """
        self._memory = memory
        self._beside = beside
        self.started = started
        self.tree = tree
        self.config = config
        self.tier = tier
        self.peak = 0
        self.limit: str | None = None
        self.killed = False
        """Whether we ended it, for a limit or because it would not end by itself."""
        self.began = time.monotonic()
        self.cpu_before = 0.0
        """CPU time when the present turn began."""
        self.cpu_seen = 0.0
        """CPU time used so far, at the last look."""
        self._broken: SandboxBroken | None = None
        self._exact, self._exact_until = 0, 0.0
        self._lock = threading.Lock()
        self._closing = threading.Lock()
        self._status: int | None = None
        """Of the started program."""
        self._ended: int | None = None
        """The same, once everything it started is gone too."""
        self._waiting = threading.Lock()
        self._closed = False
        self._pidfd = started.pidfd

    @property
    def broken(self) -> SandboxBroken | None:
        """Why it could not be contained any more."""
        return self._broken

    @property
    def pidfd(self) -> int:
        """Readable when the started program has ended."""
        return self._pidfd

    def check(self) -> None:
        """Measure, and end the command where it holds or used too much. Called by the watchdog."""
        with self._lock:
            if self._closed or self._status is not None:
                return
            seen = proctree.usage_of_all(self.tree.pids)
            total = self.tree.cpu_s()
            self.cpu_seen = max(self.cpu_seen, seen.cpu_s if total is None else total)
            bound = self.config.memory_mb * _MIB
            beside = self._beside()
            memory = beside + (seen.memory if self._memory is None else self._memory())
            # Shared pages were counted often: ask again, exactly.
            if memory > bound and self._memory is None:
                memory = self._exactly(seen) + beside
            self.peak = max(self.peak, memory)
            if memory > bound:
                self._end("memory_mb")
            elif self.cpu_seen - self.cpu_before > self.config.cpu_s:
                self._end("cpu_s")

    def _exactly(self, seen: proctree.Usage) -> int:
        """Bytes without counting shared pages twice.

        The kernel may take most of a second to say so, while nobody else is watched: then what it
        said last serves for a while.
        """
        began = time.monotonic()
        if began >= self._exact_until:
            self._exact = proctree.proportional(seen)
            ended = time.monotonic()
            self._exact_until = ended + 3 * (ended - began)
        return self._exact

    def end(self, limit: str | None = None) -> None:
        """Kill everything it started; `limit` is why, unless there was a reason before."""
        with self._lock:
            if not self._closed and self._status is None:
                self._end(limit)

    def give_up(self, error: SandboxBroken) -> None:
        """End it because it can't be contained any more: its result is the error."""
        with self._lock:
            if not self._closed and self._status is None:
                self._broken = error
                self._end(None)

    def _end(self, limit: str | None) -> None:
        self.limit = self.limit or limit
        self.killed = True
        self.tree.kill()
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)

    def begin_turn(self) -> None:
        """Measure from here."""
        total = self.tree.cpu_s()
        living = proctree.usage(self.tree.pids()).cpu_s if total is None else total
        self.cpu_before = self.cpu_seen = max(self.cpu_seen, living)
        self.peak = 0
        self.began = time.monotonic()

    def wait(self) -> int:
        """The exit status of the started program, once everything it started is gone.

        Raises:
            SandboxBroken: something survives being killed.
        """
        with self._waiting:
            if self._ended is None:
                self._ended = self._wait()
            return self._ended

    def _wait(self) -> int:
        if self._status is None:
            total = self.tree.cpu_s()
            _, status, used = os.wait4(self.started.popen.pid, 0)
            code = os.waitstatus_to_exitcode(status)
            self.started.popen.returncode = code
            spawn.waited_for(self.started.popen.pid)
            with self._lock:
                self._status = 128 - code if code < 0 else code
            reaped = used.ru_utime + used.ru_stime
            self.cpu_seen = max(self.cpu_seen, reaped if total is None else total)
        self.tree.kill()
        deadline = time.monotonic() + GRACE_S
        pause = 0.0002
        while not self.tree.gone():
            if time.monotonic() > deadline:
                raise SandboxBroken(f"processes {self.tree.pids()} survive being killed")
            time.sleep(pause)
            pause = min(2 * pause, 0.02)
        total = self.tree.cpu_s()
        self.cpu_seen = max(self.cpu_seen, total or 0.0)
        return self._status

    def close_stdin(self) -> None:
        """The command reads the end of its input. Twice is fine."""
        if self.started.stdin is not None:
            os.close(self.started.stdin)
            # Forgotten at once: another thread may be given the same number any moment.
            self.started = dataclasses.replace(self.started, stdin=None)

    def close(self) -> None:
        """Kill what is left and free every descriptor. Twice is fine."""
        with self._closing:
            if not self._closed:
                self._close()

    def _close(self) -> None:
        with contextlib.ExitStack() as rest:
            for descriptor in (self._pidfd, self.started.stderr, self.started.stdout):
                rest.callback(os.close, descriptor)
            rest.callback(self.close_stdin)
            rest.callback(self.tree.close)
            rest.callback(self._stop_watching)
            self.end()
            self.wait()

    def _stop_watching(self) -> None:
        with self._lock:
            self._closed = True


@dataclass(slots=True)
class Streams:
    """What a command wrote so far."""

    out: Clip
    err: Clip
    bound: int
    """Bytes of both together."""

    @classmethod
    def of(cls, config: SandboxConfig, keep: int | None = None) -> Streams:
        """`keep` bytes of each stream instead of the configured."""
        size = config.output_kb * 1024 if keep is None else keep
        return cls(Clip(size), Clip(size), max(config.output_max_mb * _MIB, size))

    @property
    def flooded(self) -> bool:
        return self.out.total + self.err.total > self.bound


@dataclass(slots=True)
class Feed:
    """Bytes on their way into a pipe."""

    descriptor: int
    rest: memoryview
    close: bool
    """It is the command's standard input, which ends with them."""

    def push(self) -> bool:
        """Write what the pipe takes; False when nothing is left, or nobody reads any more."""
        try:
            self.rest = self.rest[os.write(self.descriptor, self.rest[:_CHUNK]) :]
        except BlockingIOError:
            return True
        except OSError:
            self.rest = self.rest[:0]
        return bool(self.rest)


def communicate(
    process: Process,
    streams: Streams,
    *,
    wall_s: float,
    feed: Feed | None = None,
    until: int | None = None,
) -> Literal["ended", "until", "time"]:
    """Feed and read a command until it ends, `until` becomes readable, or time is up.

    A flood of output ends it here.
    """
    deadline = time.monotonic() + wall_s
    poll = select.poll()
    sinks = {process.started.stdout: streams.out, process.started.stderr: streams.err}
    watched = [*sinks, process.pidfd] + ([] if until is None else [until])
    for descriptor in watched:
        poll.register(descriptor, select.POLLIN)
    if feed is not None:
        poll.register(feed.descriptor, select.POLLOUT)
    while (left := deadline - time.monotonic()) > 0:
        ready = dict(poll.poll(left * 1000 + 1))
        for descriptor in sinks.keys() & ready.keys():
            if not _read_into(sinks[descriptor], descriptor):
                poll.unregister(descriptor)
        if streams.flooded:
            process.end("output_max_mb")
            return "ended"
        if feed is not None and feed.descriptor in ready:
            poll.unregister(feed.descriptor)
            if feed.push():
                poll.register(feed.descriptor, select.POLLOUT)
            else:
                if feed.close:
                    process.close_stdin()
                feed = None
        if until in ready:
            return "until"
        if process.pidfd in ready:
            return "ended"
    return "time"


def drain(process: Process, streams: Streams) -> None:
    """Read what stands in the pipes now, without waiting."""
    ends = ((process.started.stdout, streams.out), (process.started.stderr, streams.err))
    for descriptor, clip in ends:
        while not streams.flooded and _read_into(clip, descriptor, once=True):
            pass


def finish(process: Process, streams: Streams) -> Result:
    """The result of a command, or of the last turn of a session, that has ended or was ended.

    Raises:
        SandboxBroken: it never started, could not be watched, or something of it survives.
    """
    status: int | None = process.wait()
    if process.broken is not None:
        raise process.broken
    drain(process, streams)
    stderr = streams.err.text()
    if process.killed:
        status = None
    else:
        status, stderr = process.tree.outcome(status, stderr)
    code, name = ending(status)
    if process.killed and process.limit is None:
        name = "SIGKILL"
    # A status can be anything: only together with what was measured it means the limit.
    if name == "SIGXCPU" and process.cpu_seen - process.cpu_before > process.config.cpu_s:
        process.limit = "cpu_s"
    code = None if process.limit else code
    return result(process, streams, exit_status=code, signal=name, stderr=stderr)


def result(
    process: Process,
    streams: Streams,
    *,
    exit_status: int | None,
    signal: str | None = None,
    stderr: str | None = None,
    limit: str | None = None,
    ended: bool = True,
) -> Result:
    """What the present turn came to."""
    return Result(
        stdout=streams.out.text(),
        stderr=streams.err.text() if stderr is None else stderr,
        exit_status=exit_status,
        signal=signal,
        limit=limit or process.limit,
        ended=ended,
        wall_s=time.monotonic() - process.began,
        cpu_s=max(0.0, process.cpu_seen - process.cpu_before),
        peak_memory=process.peak,
        tier=process.tier,
    )


def _read_into(clip: Clip, descriptor: int, *, once: bool = False) -> bool:
    """Read a chunk; False at the end of the stream (with `once`, also when nothing is there)."""
    try:
        data = os.read(descriptor, _CHUNK)
    except BlockingIOError:
        return not once
    except OSError:
        return False
    clip.add(data)
    return bool(data)


class Status:
    """What bubblewrap tells of its sandbox on its status descriptor, a JSON document a line."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor
        self._text = b""
        os.set_blocking(descriptor, False)

    def read(self) -> dict[str, int]:
        """Everything said so far; `child-pid` is the first process, `exit-code` the command's."""
        with contextlib.suppress(BlockingIOError):
            while data := os.read(self.descriptor, 4096):
                self._text += data
        said: dict[str, int] = {}
        for line in self._text.decode().splitlines():
            with contextlib.suppress(json.JSONDecodeError):
                said |= json.loads(line)
        return said

    def close(self) -> None:
        if self.descriptor >= 0:
            os.close(self.descriptor)
            self.descriptor = -1
