"""Attacks on the launcher: whatever ends it, nothing of its sandboxes stays."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping

from rlagents.envs.sandbox import choice, proctree, slots
from rlagents.envs.sandbox.attack.case import Case, Host, Verdict
from rlagents.envs.sandbox.attack.host import LiveHost
from rlagents.envs.sandbox.attack.leftovers import CLEAN_UP_S, mark, notes, wait_until_gone
from rlagents.envs.sandbox.attack.lifetimes import processes_left

_ANSWER_S = 30.0


def _launcher_killed(host: Host) -> Verdict:
    source = """
import json, sys, threading, time
from rlagents.envs.sandbox import Sandbox
from rlagents.envs.sandbox.attack.host import held_slots
box = Sandbox({"tier": sys.argv[1], "wall_s": 100})
shell, repl = box.shell(), box.repl()
shell.run("sleep 100 & setsid sleep 100 &")
def tell():
    while not any(entry.path == "up" for entry in box.files()):
        time.sleep(0.01)
    print(json.dumps(sorted(held_slots())), flush=True)
threading.Thread(target=tell).start()
try:
    box.run("setsid sleep 100 & touch up; sleep 100")
finally:
    shell.close(), repl.close(), box.close()
"""
    assert isinstance(host, LiveHost)
    came = []
    for number in (signal.SIGKILL, signal.SIGINT):
        before = mark()
        with _child(source, host.tier) as child:
            noted = notes(json.loads(_line(child)))
            below = [p for p in proctree.descendants(child.pid) if p != child.pid]
            child.send_signal(number)
            child.wait(timeout=_ANSWER_S)
        count = len(below)
        _bury(below)
        if number == signal.SIGKILL:
            # The kernel ends the processes; what else there was goes with the next start.
            _, found = processes_left(before)
            slots.reap(_cleaners())
            found += wait_until_gone(before, noted)[1]
        else:
            _, found = wait_until_gone(before, noted)
        came.append((signal.Signals(number).name, count, found))
    seen = "; ".join(f"{name}: {count} processes, left: {found}" for name, count, found in came)
    # Without processes to be killed there was nothing to see.
    return Verdict(all(count and not found for _, count, found in came), seen)


def _launcher_killed_early(host: Host) -> Verdict:
    """Killed while a command is being started, at twelve moments of the first 24 ms."""
    source = """
import os, signal, sys, time
from rlagents.envs.sandbox import Sandbox
with Sandbox({"tier": sys.argv[1]}) as box:  # once, for what a process does once
    box.run("true")
for number in range(12):
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        box = Sandbox({"tier": sys.argv[1], "wall_s": 25})
        os.write(writing, b"x")
        box.run("sleep 25")
        os._exit(0)
    os.close(writing)
    os.read(reading, 1)
    os.close(reading)
    time.sleep(0.002 * number)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
print("done", flush=True)
sys.stdin.read()
"""
    assert isinstance(host, LiveHost)
    before = mark()
    with _child(source, host.tier) as child:
        _line(child)
        deadline = time.monotonic() + CLEAN_UP_S
        while (found := _below(child.pid)) and time.monotonic() < deadline:
            time.sleep(0.02)
        slots.reap(_cleaners())
        deadline = time.monotonic() + CLEAN_UP_S
        while (after := _below(child.pid)) and time.monotonic() < deadline:
            time.sleep(0.02)
        for pid in after:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
    _bury([pid for pid, _ in mark().processes - before.processes])
    seen = f"{len(found)} processes lived on, {len(after)} after the reaper"
    return Verdict(not after, f"12 launchers killed while starting: {seen}")


def _below(pid: int) -> list[int]:
    """Living processes below one."""
    return [p for p in proctree.descendants(pid) if p != pid and _state(p) not in ("Z", "X", "")]


def _state(pid: int) -> str:
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
            return file.read().rpartition(")")[2].split()[0]
    except OSError:
        return ""


@contextlib.contextmanager
def _child(source: str, tier: str) -> Iterator[subprocess.Popen[str]]:
    """A process like this one, which the attack ends."""
    child = subprocess.Popen(
        [sys.executable, "-c", source, tier],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(p or os.getcwd() for p in sys.path)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    with child:
        try:
            yield child
        finally:
            child.kill()


def _line(child: subprocess.Popen[str]) -> str:
    """What the child says when it is ready.

    Raises:
        TimeoutError: it says nothing.
    """
    assert child.stdout is not None
    ready, _, _ = select.select([child.stdout], [], [], _ANSWER_S)
    line = child.stdout.readline() if ready else ""
    if not line:
        raise TimeoutError("the process to be killed did not get ready")
    return line


def _bury(pids: list[int]) -> None:
    """Orphans that came to us only because their parent was killed on purpose."""
    deadline = time.monotonic() + CLEAN_UP_S
    while pids and time.monotonic() < deadline:
        for pid in list(pids):
            try:
                if os.waitpid(pid, os.WNOHANG)[0]:
                    pids.remove(pid)
            except ChildProcessError:  # not ours yet, or gone
                if proctree.start_time(pid) is None:
                    pids.remove(pid)
        time.sleep(0.005)


def _cleaners() -> Mapping[str, slots.Cleaner]:
    found: dict[str, slots.Cleaner] = {}
    for tier in choice.TABLE.values():
        found |= tier.cleaners
    return found


def _case(name: str, what: str, run: Callable[[Host], Verdict], source: str = "1.3") -> Case:
    return Case(name=name, source=source, what=what, run=run)


CASES: tuple[Case, ...] = (
    _case("launcher_killed", "kill -9 and Ctrl-C of the launcher", _launcher_killed),
    _case("launcher_killed_early", "the same while commands start", _launcher_killed_early, "ours"),
)
