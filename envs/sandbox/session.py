"""A shell or a Python that stays alive between turns, so that a turn costs its work alone."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
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
from rlagents.envs.sandbox.replies import Replies
from rlagents.envs.sandbox.result import Result, Starved
from rlagents.envs.sandbox.tiers.base import Box
from rlagents.envs.sandbox.watchdog import watchdog
from rlagents.errors import SandboxBroken, boundary

Kind = Literal["shell", "python"]
INTERRUPT_S = 1.0
"""A turn that is out of time is interrupted, as by Ctrl-C; after this long the session is ended."""


@dataclass(frozen=True, slots=True)
class Question:
    """What the code of a turn asks, and waits for: the agent's word."""

    text: str


@dataclass(slots=True)
class _Turn:
    """A turn that is not over."""

    streams: Streams
    left: float
    """Seconds; those in which a question waits for its answer do not count."""
    hit: str | None = None
    """The limit that it ran into."""


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
        library: str = "",
        crowded: Callable[[], bool] = lambda: False,
    ) -> None:
        """Start it.

        Args:
            library: for Python, source of functions that may ask (`drivers.REPL`).
            crowded: whether something else of the agent may hold all processes.

        Raises:
            SandboxBroken: it can't be started.
        """
        self._config = config
        self._crowded = crowded
        self._kind: Kind = kind
        self._closed = False
        self._open: _Turn | None = None
        self._using = threading.Lock()
        """Held while a turn runs, and not while its question waits for an answer."""
        lines = self._lines = box.lines()
        self._replies = Replies(lines.replies, asking=bool(library))
        try:
            argv = [*lines.opener, *_argv(kind, *lines.inside, library)]
            # So that the same code prints a set in the same order, when it is run again.
            env = {"PYTHONHASHSEED": "0"} if library else {}
            self._process: Process = box.start(argv, env=env, control=lines.given, session=True)
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

        Python shows the value of a last expression, as its prompt would. Questions of a library get
        empty answers.

        Args:
            wall_s: instead of the configured.

        Returns:
            The exit status is that of the last command; for Python 1 after an exception. Output of
            background jobs since the last turn comes first.

        Raises:
            ValueError: the session has ended.
            SandboxBroken: the sandbox failed.
        """
        said = self.begin(text, wall_s=wall_s)
        while isinstance(said, Question):
            said = self.answer("")
        return said

    def begin(self, text: str, *, wall_s: float | None = None) -> Result | Question:
        """As `run`, up to the first question: go on with `answer`, or end the turn with `close`.

        Raises:
            ValueError: the session has ended, or its last turn is not over.
            SandboxBroken: the sandbox failed.
        """
        with self._using:
            self._require_alive()
            if self._open is not None:
                raise ValueError("the last turn is not over: its question waits for an answer")
            with self._boundary():
                wall_s = self._config.wall_s if wall_s is None else wall_s
                self._open = _Turn(Streams.of(self._config), wall_s)
                self._replies.forget()
                self._process.begin_turn()
                return self._go_on(self._open, text)

    def answer(self, text: str) -> Result | Question:
        """Answer the question that the turn waits with, up to the next one or to its end.

        Raises:
            ValueError: there is none, or the session has ended.
            SandboxBroken: the sandbox failed.
        """
        with self._using:
            self._require_alive()
            if self._open is None:
                raise ValueError("no question waits for an answer")
            with self._boundary():
                return self._go_on(self._open, text)

    def _go_on(self, turn: _Turn, text: str) -> Result | Question:
        process, lines = self._process, self._lines
        # Before it is sent: the program's own clock starts later, and is never ahead of this one.
        deadline = time.monotonic() + turn.left
        feed = self._sent(_encode(self._kind, text, turn.left))
        unsettled = False  # an interrupt may be left for the next turn
        while True:
            how = communicate(
                process,
                turn.streams,
                wall_s=deadline - time.monotonic(),
                feed=feed,
                until=lines.replies,
            )
            feed = feed if feed is not None and feed.rest else None
            if how == "time" and turn.hit is None:
                turn.hit = "wall_s"
                if feed is None:  # otherwise it does not even read
                    process.tree.interrupt()  # try to get the session back
                    unsettled = self._kind == "python"
                    deadline = time.monotonic() + INTERRUPT_S
                    continue
            if how != "until":
                return self._end(turn)
            try:
                said = self._replies.next()
            except ValueError:
                return self._end(turn)
            if isinstance(said, int):
                if unsettled:
                    unsettled = False
                    feed = self._sent(drivers.SETTLE)
                    deadline = time.monotonic() + INTERRUPT_S
                    continue
                if turn.hit is None and time.monotonic() > deadline:
                    turn.hit = "wall_s"  # it was over too late, or we looked too late to know
                return self._over(turn, said)
            if said is not None:
                turn.left = deadline - time.monotonic()
                if turn.hit is None:
                    return Question(said)
                # Out of time: what it asks is not answered any more, so that it can be interrupted.
                feed = self._sent(_encode("python", "", 0.0))

    def _sent(self, request: bytes) -> Feed | None:
        """What is left of a request when the pipe has taken what it can."""
        feed = Feed(self._lines.requests, memoryview(request), close=False)
        return feed if feed.push() else None

    def _over(self, turn: _Turn, status: int) -> Result:
        """The result of a turn that came to its end."""
        process = self._process
        drain(process, turn.streams)
        process.check()
        if process.limit is not None:
            return self._end(turn)
        self._open = None
        code = None if turn.hit else status
        return result(process, turn.streams, exit_status=code, limit=turn.hit, ended=False)

    def _require_alive(self) -> None:
        if self._closed:
            raise ValueError("the session has ended: start another")

    def _boundary(self) -> boundary:
        return boundary(SandboxBroken, f"a turn of a {self._kind} session")

    def _end(self, turn: _Turn) -> Result:
        """The result of the turn that the session does not survive."""
        process, streams = self._process, turn.streams
        if turn.hit is not None:
            process.end(turn.hit)
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


def _argv(kind: Kind, requests: int, replies: int, library: str) -> list[str]:
    if kind == "python":
        # `-I` without its `-E` where there is a library: it reads the seed of hashes.
        alone = ["-s", "-P"] if library else ["-I"]
        driver = [drivers.REPL, str(requests), str(replies), *([library] if library else [])]
        return ["python3", *alone, "-u", "-c", *driver]
    script = drivers.SHELL.replace("REQUESTS", str(requests)).replace("REPLIES", str(replies))
    return ["bash", "--noprofile", "--norc", "-c", script]


def _encode(kind: Kind, text: str, left: float) -> bytes:
    data = text.encode(errors="replace")
    if kind == "python":
        micros = math.ceil(max(left, 0.0) * 10**6)
        return len(data).to_bytes(4, "big") + micros.to_bytes(8, "big") + data
    return data.replace(b"\0", b"") + b"\0"
