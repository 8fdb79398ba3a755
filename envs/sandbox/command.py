"""One command from its start to its end."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rlagents.envs.sandbox.process import Feed, Process, Streams, communicate, finish
from rlagents.envs.sandbox.result import Result
from rlagents.envs.sandbox.shield import shielded
from rlagents.envs.sandbox.tiers.base import Box
from rlagents.envs.sandbox.watchdog import watchdog
from rlagents.errors import SandboxBroken, boundary


def execute(
    box: Box,
    argv: Sequence[str],
    streams: Streams,
    *,
    wall_s: float,
    stdin: bytes = b"",
    env: Mapping[str, str] | None = None,
    running: set[Process] | None = None,
) -> Result:
    """Run a command in a workspace and wait until everything it started is gone.

    Args:
        streams: where its output goes, and how much of it.
        wall_s: seconds.
        running: it stands there meanwhile; whoever ends it there ends the command.

    Raises:
        SandboxBroken: the sandbox failed.
    """
    with boundary(SandboxBroken, f"running {argv[0]!r}"):
        mine: set[Process] = set()

        def begin() -> Process:
            started = box.start(argv, env=env or {}, stdin=bool(stdin))
            for those in (mine, running):
                if those is not None:
                    those.add(started)
            return started

        try:
            process = shielded(begin, free=_end)
            into = process.started.stdin
            feed = None if into is None else Feed(into, memoryview(stdin), close=True)
            if communicate(process, streams, wall_s=wall_s, feed=feed) == "time":
                process.end("wall_s")
            return finish(process, streams)
        finally:
            for started in mine:
                if running is not None:
                    running.discard(started)
                _end(started)


def _end(process: Process) -> None:
    watchdog.forget(process)
    process.close()
