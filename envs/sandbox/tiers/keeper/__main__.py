"""The program that keeps a command without namespaces: started as `python3 -I -S` with this folder.

It stands between us and the command, outside what confines the command. Whatever the command
leaves behind becomes its child (PR_SET_CHILD_SUBREAPER), however often it forked; when the command
ends, when it is told to (SIGTERM) or when we die (PR_SET_PDEATHSIG), it kills them all and only
then ends itself.

Killing without a race: where Landlock can scope signals, the keeper is in a domain of its own and
the command in one below it. `kill(-1)` then reaches exactly what was started here, in one stroke
that no fork escapes, and nothing in there can signal the keeper.

It is given two descriptors: a JSON document that says what to do, and where to say how it went, as
JSON lines. `exit-code` is the command's; `failed` (with `errno`) means that it never ran.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import select
import signal
import sys
import time
from typing import Any

from asked import Asked
from become import LISTENER, become
from kernel import call, pidfd_getfd
from measure import Room, below, tasks

_SET_PDEATHSIG, _SET_SUBREAPER, _NO_NEW_PRIVS = 1, 36, 38
_RESTRICT_SELF = 446
_TICK_YOUNG_S = 0.02
_TICK_S = 0.1
_OVER = 8
"""Processes more than allowed that may be there for a moment."""


def main() -> None:
    """Keep one command; the arguments are the two descriptors."""
    wanted, says = int(sys.argv[1]), int(sys.argv[2])
    signals = _Signals()
    with os.fdopen(wanted, encoding="utf-8") as file:
        spec = json.load(file)
    call("prctl", _SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
    if os.getppid() != spec["parent"]:
        return  # it died before it could be seen to
    scoped = spec["scope"] is not None
    try:
        call("prctl", _SET_SUBREAPER, 1, 0, 0, 0)
        call("prctl", _NO_NEW_PRIVS, 1, 0, 0, 0)
        if scoped:
            call("syscall", _RESTRICT_SELF, spec["scope"], 0)
        said = _keep(spec, signals)
    except OSError as error:
        said = {"failed": str(error), "errno": error.errno}
    finally:  # whatever went wrong here, nothing stays
        _end_all(scoped=scoped)
    os.write(says, json.dumps(said).encode() + b"\n")


class _Signals:
    """Makes signals something to poll for."""

    def __init__(self) -> None:
        self.told_to_end = False
        self.descriptor, writing = os.pipe()
        for end in (self.descriptor, writing):
            os.set_blocking(end, False)
        signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, self._end)
        signal.signal(signal.SIGCHLD, lambda *_: None)

    def _end(self, *_: object) -> None:
        self.told_to_end = True

    def clear(self) -> None:
        with contextlib.suppress(BlockingIOError):
            while os.read(self.descriptor, 4096):
                pass


def _keep(spec: dict[str, Any], signals: _Signals) -> dict[str, Any]:
    """Run the command, see its whole tree to the end, and say how it went."""
    trouble, troubled = os.pipe()
    seen, see = os.pipe()
    room = Room(spec["folders"])
    first = os.fork()
    if first == 0:
        os.close(see)
        become(spec, troubled, seen)
    os.close(troubled)
    os.close(seen)
    _let_go(spec)
    failed, asked = os.read(trouble, 4096), None
    if failed.startswith(LISTENER):
        asked = _asked(first, int(failed[1:]), spec)
        os.close(see)  # go on
        failed = os.read(trouble, 4096)
    status, limit = (None, None) if failed else _wait(first, spec, signals, asked, room)
    _end_all(scoped=spec["scope"] is not None)
    if failed:
        number, _, text = failed.decode(errors="replace").partition(" ")
        return {"failed": text, "errno": int(number)}
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    said: dict[str, Any] = {"cpu_us": int((used.ru_utime + used.ru_stime) * 1e6)}
    if limit := limit or room.over():
        said["limit"] = limit
    if status is not None:
        code = os.waitstatus_to_exitcode(status)
        said["exit-code"] = 128 - code if code < 0 else code
    return said


def _asked(first: int, descriptor: int, spec: dict[str, Any]) -> Asked:
    """What answers the command, once we have its listener."""
    listener = pidfd_getfd(first, descriptor)
    names = {int(number): name for number, name in spec["asks"]["names"].items()}
    inside = [folder[0] for folder in spec["folders"]]
    return Asked(listener, names, most=spec["count"], count=tasks, inside=inside)


def _wait(
    first: int, spec: dict[str, Any], signals: _Signals, asked: Asked | None, room: Room
) -> tuple[int | None, str | None]:
    """Wait until the command ends; its status, or the limit that it went over. Neither: told to."""
    poll = select.poll()
    poll.register(signals.descriptor, select.POLLIN)
    if asked is not None:
        poll.register(asked.listener, select.POLLIN)
    started = time.monotonic()
    due = started + _TICK_YOUNG_S
    while not signals.told_to_end:
        ready = dict(poll.poll(1000 * max(0.0, due - time.monotonic())))
        if asked is not None and asked.listener in ready:
            if ready[asked.listener] & select.POLLIN:
                asked.answer()
            else:  # nobody is left who could ask
                poll.unregister(asked.listener)
        signals.clear()
        while (dead := _reap()) is not None:
            if dead[0] == first:
                return dead[1], None
        if (began := time.monotonic()) >= due:
            if spec["count"] is not None and tasks() > spec["count"] + _OVER:
                return None, "processes"
            if (limit := room.over()) is not None:
                return None, limit
            # Looking takes at most a twentieth of the time, however full the workspace is.
            ended = time.monotonic()
            tick = _TICK_YOUNG_S if ended - started < 1 else _TICK_S
            due = ended + max(tick, 20 * (ended - began))
    return None, None


def _reap() -> tuple[int, int] | None:
    """One that has ended and its status, or None."""
    try:
        pid, status = os.waitpid(-1, os.WNOHANG)
    except ChildProcessError:
        return None
    return (pid, status) if pid else None


def _end_all(*, scoped: bool) -> None:
    """Kill every descendant, and return when there is none."""
    pause = 0.0002
    while True:
        if scoped:
            with contextlib.suppress(OSError):
                os.kill(-1, signal.SIGKILL)
        else:
            _end_seen()
        try:
            while os.waitpid(-1, os.WNOHANG)[0]:
                pause = 0.0002
        except ChildProcessError:
            return
        time.sleep(pause)
        pause = min(2 * pause, 0.02)


def _end_seen() -> None:
    """Stop what can be seen until nothing new comes up, because the stopped do not fork; kill."""
    seen: set[int] = set()
    while new := set(below()) - seen:
        for pid in new:
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGSTOP)
        seen |= new
    for pid in seen:
        with contextlib.suppress(OSError):
            os.kill(pid, signal.SIGKILL)


def _let_go(spec: dict[str, Any]) -> None:
    """Close what is the command's, so that an end that it closes is closed."""
    nothing = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(nothing, descriptor)
    rules = [spec["rules"], spec["scope"]]
    for descriptor in {nothing, *spec["keep"], *rules} - {None}:
        os.close(descriptor)


if __name__ == "__main__":
    main()
