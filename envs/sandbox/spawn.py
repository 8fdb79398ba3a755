"""Starting programs from one thread that lives as long as this process.

bubblewrap ends its sandbox when its parent dies, and to the kernel the parent is the *thread* that
started it. Rollouts run in threads that come and go, so all programs start from here.

bubblewrap does not wait for the first process of its sandbox. The dead one goes to the next
process above that takes orphans in, which in many containers is one that never buries anybody: so
this process takes them in, and `bury` waits for them.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import queue
import subprocess
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass

from rlagents.envs.sandbox import proctree
from rlagents.envs.sandbox.result import Starved
from rlagents.errors import SandboxBroken

_PR_SET_CHILD_SUBREAPER = 36
_STARVED = (errno.EAGAIN, errno.ENOMEM, errno.EMFILE, errno.ENFILE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Started:
    """A running program and our ends of its streams, which do not block."""

    popen: subprocess.Popen[bytes]
    pidfd: int
    """Readable when it has ended."""
    stdin: int | None
    stdout: int
    stderr: int


class _Launcher:
    """Consumes jobs, produces started programs; waits for its queue; never stops."""

    def __init__(self) -> None:
        self._jobs: queue.SimpleQueue[tuple[Callable[[], Started], Future[Started]]] = (
            queue.SimpleQueue()
        )
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    def run(self, job: Callable[[], Started]) -> Started:
        with self._lock:
            if self._thread is None:
                name = "sandbox-launcher"
                self._thread = threading.Thread(target=self._loop, name=name, daemon=True)
                self._thread.start()
        future: Future[Started] = Future()
        self._jobs.put((job, future))
        return future.result()

    def _loop(self) -> None:
        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
        while True:
            job, future = self._jobs.get()
            try:
                future.set_result(job())
            except BaseException as error:  # whoever asked gets it; the thread must live
                future.set_exception(error)


_launcher = _Launcher()


def _after_fork() -> None:
    global _launcher
    _launcher = _Launcher()  # threads do not survive a fork
    _answered_for.clear()


os.register_at_fork(after_in_child=_after_fork)


_answered_for: set[int] = set()
"""Processes that some thread of this process is going to wait for."""


def answer_for(pid: int) -> None:
    """Keep a process out of `bury_orphans`: the caller is going to `bury` or wait for it."""
    _answered_for.add(pid)


def waited_for(pid: int) -> None:
    """It is gone."""
    _answered_for.discard(pid)


def bury_orphans(name: str) -> None:
    """Wait for the dead of a name that came to us from parents that died before them.

    They are those of commands whose start was interrupted, and of processes below this one that
    were killed.
    """
    for pid in proctree.children(os.getpid()):
        if pid not in _answered_for and proctree.dead(pid) == name:
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, os.WNOHANG)


def bury(pid: int, pidfd: int) -> float | None:
    """Wait for a process that has ended and whose parent may have ended before it.

    Returns:
        CPU seconds of it and of all that it had waited for; None where it runs or isn't our child.
    """
    try:
        if os.waitid(os.P_PIDFD, pidfd, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
            return None
        # A dead child of ours: nothing else has its number before we take it away.
        used = os.wait4(pid, 0)[2]
    except ChildProcessError:
        return None
    waited_for(pid)
    return used.ru_utime + used.ru_stime


def start(argv: Sequence[str], *, pass_fds: Sequence[int] = (), stdin: bool = False) -> Started:
    """Start a program with an empty environment and a session of its own.

    An empty environment, because what a sandbox's first process was started with can be read
    inside (`/proc/1/environ`).

    Args:
        argv: with the full path of the program.
        pass_fds: descriptors it inherits under the same numbers, beside its streams; no others.
        stdin: give it a pipe; otherwise it reads nothing.

    Raises:
        Starved: the machine can't start another process now.
        SandboxBroken: the program can't be started.
    """
    try:
        return _launcher.run(lambda: _start(argv, pass_fds, stdin))
    except OSError as error:
        kind = Starved if error.errno in _STARVED else SandboxBroken
        raise kind(f"starting {argv[0]}: {error}") from error


def _start(argv: Sequence[str], pass_fds: Sequence[int], stdin: bool) -> Started:
    ours: list[int] = []
    theirs: list[int] = []

    def pipe(*, written_by_us: bool) -> tuple[int, int]:
        reading, writing = os.pipe()
        mine, other = (writing, reading) if written_by_us else (reading, writing)
        ours.append(mine)
        theirs.append(other)
        os.set_blocking(mine, False)
        return mine, other

    try:
        into, source = pipe(written_by_us=True) if stdin else (None, subprocess.DEVNULL)
        out, out_end = pipe(written_by_us=False)
        err, err_end = pipe(written_by_us=False)
        popen = subprocess.Popen(
            list(argv),
            env={},
            cwd="/",
            stdin=source,
            stdout=out_end,
            stderr=err_end,
            pass_fds=tuple(pass_fds),
            start_new_session=True,
        )
        answer_for(popen.pid)
        pidfd = _pidfd(popen)
    except BaseException:
        for descriptor in ours:
            os.close(descriptor)
        raise
    finally:
        for descriptor in theirs:
            os.close(descriptor)
    return Started(popen=popen, pidfd=pidfd, stdin=into, stdout=out, stderr=err)


def _pidfd(popen: subprocess.Popen[bytes]) -> int:
    try:
        return os.pidfd_open(popen.pid)
    except OSError:  # what can't be watched must not run
        popen.kill()
        popen.wait()
        waited_for(popen.pid)
        raise
