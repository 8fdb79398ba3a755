"""A shell or a Python that stays alive between turns, so that a turn costs its work alone."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable
from typing import Literal

from rlagents.envs.sandbox import drivers
from rlagents.envs.sandbox.config import SandboxConfig
from rlagents.envs.sandbox.process import (
    Feed,
    Process,
    Streams,
    communicate,
    drain,
    finish,
    result,
)
from rlagents.envs.sandbox.result import Result, Starved
from rlagents.envs.sandbox.tiers.base import Box
from rlagents.envs.sandbox.watchdog import watchdog
from rlagents.errors import SandboxBroken, boundary

Kind = Literal["shell", "python"]
INTERRUPT_S = 1.0
"""A turn that is out of time is interrupted, as by Ctrl-C; after this long the session is ended."""


class Session:
    """State (variables, working directory, background jobs) that one turn leaves to the next.

    A turn that runs out of time is interrupted and the session goes on; one that can't be
    interrupted, or hits another limit, ends it (`Result.ended`). An ended session answers no more.
    """

    def __init__(
        self,
        box: Box,
        config: SandboxConfig,
        kind: Kind,
        *,
        crowded: Callable[[], bool] = lambda: False,
    ) -> None:
        """Start it.

        Args:
            crowded: whether something else of the agent may hold all processes.

        Raises:
            SandboxBroken: it can't be started.
        """
        self._config = config
        self._crowded = crowded
        self._kind: Kind = kind
        self._closed = False
        self._using = threading.Lock()
        """Held during a turn."""
        lines = self._lines = box.lines()
        try:
            argv = [*lines.opener, *_argv(kind, *lines.inside)]
            self._process: Process = box.start(argv, env={}, control=lines.given, session=True)
        except BaseException:
            lines.close()
            raise
        lines.started()

    @property
    def alive(self) -> bool:
        """Whether another turn can be run."""
        return not self._closed

    def run(self, text: str, *, wall_s: float | None = None) -> Result:
        """One turn: commands for the shell, or statements for Python.

        Python shows the value of a last expression, as its prompt would.

        Args:
            wall_s: instead of the configured.

        Returns:
            The exit status is that of the last command; for Python 1 after an exception. Output of
            background jobs since the last turn comes first.

        Raises:
            ValueError: the session has ended.
            SandboxBroken: the sandbox failed.
        """
        with self._using:
            if self._closed:
                raise ValueError("the session has ended: start another")
            with boundary(SandboxBroken, f"a turn of a {self._kind} session"):
                return self._turn(text, self._config.wall_s if wall_s is None else wall_s)

    def _turn(self, text: str, wall_s: float) -> Result:
        process, streams = self._process, Streams.of(self._config)
        self._read_replies()  # whatever was written there unasked answers nothing
        process.begin_turn()
        request = memoryview(_encode(self._kind, text))
        feed = Feed(self._lines.requests, request, close=False)
        how = communicate(process, streams, wall_s=wall_s, feed=feed, until=self._lines.replies)
        hit = None
        if how == "time":
            hit = "wall_s"
            how = self._interrupt(streams, unsent=bool(feed.rest))
        if how == "until":
            status = self._read_replies()
            if status is not None:
                drain(process, streams)
                process.check()
                if process.limit is None:
                    code = None if hit else status
                    return result(process, streams, exit_status=code, limit=hit, ended=False)
        return self._end(streams, hit)

    def _interrupt(self, streams: Streams, *, unsent: bool) -> Literal["ended", "until", "time"]:
        """Try to get the session back."""
        process = self._process
        if unsent:  # it does not even read
            return "time"
        process.tree.interrupt()
        deadline = time.monotonic() + INTERRUPT_S
        return communicate(
            process, streams, wall_s=deadline - time.monotonic(), until=self._lines.replies
        )

    def _end(self, streams: Streams, hit: str | None) -> Result:
        """The result of the turn that the session does not survive."""
        process = self._process
        if hit is not None:
            process.end(hit)
        # It closed its replies, or wrote no status: give it the time to end by itself.
        elif communicate(process, streams, wall_s=INTERRUPT_S) == "time":
            process.end()
        try:
            return finish(process, streams)
        except Starved:
            self._free()
            if not self._crowded():
                raise
            said = "no process is left to run it with\n"
            return result(process, streams, exit_status=None, stderr=said, limit="processes")
        finally:
            self._free()

    def _read_replies(self) -> int | None:
        """The status in the last line, or None when there is none."""
        said = b""
        with contextlib.suppress(BlockingIOError):
            while len(said) < 65536 and (data := os.read(self._lines.replies, 4096)):
                said += data
        last = said.strip().split(b"\n")[-1][:20]
        return int(last) & 0xFF if last.isdigit() else None

    def close(self) -> None:
        """End it and everything it started, a turn in another thread too. Twice is fine."""
        self._process.end()
        with self._using:  # whose descriptors must not be given to somebody else meanwhile
            self._free()

    def _free(self) -> None:
        if self._closed:
            return
        self._closed = True
        watchdog.forget(self._process)
        try:
            self._process.close()
        finally:
            self._lines.close()

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def _argv(kind: Kind, requests: int, replies: int) -> list[str]:
    if kind == "python":
        return ["python3", "-I", "-u", "-c", drivers.REPL, str(requests), str(replies)]
    script = drivers.SHELL.replace("REQUESTS", str(requests)).replace("REPLIES", str(replies))
    return ["bash", "--noprofile", "--norc", "-c", script]


def _encode(kind: Kind, text: str) -> bytes:
    data = text.encode(errors="replace")
    if kind == "python":
        return len(data).to_bytes(4, "big") + data
    return data.replace(b"\0", b"") + b"\0"
