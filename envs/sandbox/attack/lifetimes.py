"""Attacks on the end of things: processes that would outlive their run, and launchers that die."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping

from rlagents.envs.sandbox import choice, proctree, slots
from rlagents.envs.sandbox.attack.case import Case, Host, Verdict
from rlagents.envs.sandbox.attack.host import LiveHost
from rlagents.envs.sandbox.attack.inside import program, told
from rlagents.envs.sandbox.attack.leftovers import CLEAN_UP_S, Mark, mark, notes, wait_until_gone
from rlagents.envs.sandbox.attack.measure import Watch

_ANSWER_S = 30.0


def _processes_left(before: Mark) -> tuple[float, list[str]]:
    seconds, found = wait_until_gone(before, ())
    return seconds, [thing for thing in found if thing.startswith("process")]


def _ended_with_its_run(body: str, host: Host, *, wall_s: float, at_most_s: float) -> Verdict:
    box = host.open(processes=32)
    before = mark()
    result = box.python(program(body), wall_s=wall_s)
    seconds, found = _processes_left(before)
    seen = f"{result.describe()} after {result.wall_s:.2f} s, all gone {seconds:.2f} s later"
    if found:
        seen = f"{result.describe()}; still there: {found}"
    return Verdict(not found and result.wall_s < at_most_s, seen)


def _daemon(host: Host) -> Verdict:
    body = """
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        for number in range(3):
            os.close(number)
        os.execve("/bin/sleep", ["[kworker/0:1]", "120"], {})
    os._exit(0)
time.sleep(0.2)
"""
    return _ended_with_its_run(body, host, wall_s=10.0, at_most_s=5.0)


def _holds_output(host: Host) -> Verdict:
    """A child that keeps the output open must not keep the run open."""
    body = """
if os.fork() == 0:
    os.setsid()
    time.sleep(120)
say(done=1)
"""
    return _ended_with_its_run(body, host, wall_s=10.0, at_most_s=5.0)


def _stubborn(host: Host) -> Verdict:
    body = """
def deaf():
    for number in range(1, 65):
        try:
            signal.signal(number, signal.SIG_IGN)
        except (OSError, ValueError):
            pass
deaf()
for _ in range(6):
    if os.fork() == 0:
        os.setsid()
        os.setpgid(0, 0) if os.getpgid(0) != os.getpid() else None
        while True:
            time.sleep(1)
while True:
    try:
        time.sleep(1)
    except BaseException:
        pass
"""
    return _ended_with_its_run(body, host, wall_s=1.0, at_most_s=4.0)


def _relay(host: Host) -> Verdict:
    """Processes that fork and end as fast as they can, so that a list of them is always old."""
    body = """
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
for _ in range(4):
    if os.fork() == 0:
        os.setsid()
        while True:
            try:
                if os.fork():
                    os._exit(0)
            except OSError:
                pass
while True:
    time.sleep(1)
"""
    return _ended_with_its_run(body, host, wall_s=1.0, at_most_s=4.0)


def _session_bomb(host: Host) -> Verdict:
    box = host.open(processes=32, wall_s=1.0)
    with Watch() as watch, box.shell() as shell:
        result = shell.run("bomb() { bomb | bomb & }; bomb; while :; do :; done")
        seen = f"{watch.processes} processes; {result.describe()}"
        fine = result.limit is not None
    return Verdict(fine and watch.processes <= 48, seen)


def _session_memory(host: Host) -> Verdict:
    """A job in the background grows between the turns, when nobody waits for anything."""
    box = host.open(memory_mb=128)
    with box.repl() as repl, Watch() as watch:
        body = """
if os.fork() == 0:
    held = []
    time.sleep(0.3)
    while len(held) < 40:
        held.append(b"x" * (32 * MIB))
        time.sleep(0.01)
    time.sleep(30)
"""
        first = repl.run(program(body))
        deadline, after = time.monotonic() + 6.0, None
        while time.monotonic() < deadline and repl.alive:
            after = repl.run("import time; time.sleep(0.05)")
    limit = after.limit if after is not None else first.limit
    seen = f"session ended by {limit}, {watch.taken_mb} MiB taken"
    return Verdict(limit == "memory_mb" and watch.taken_mb < 1024, seen)


def _neighbour(host: Host) -> Verdict:
    """A bomb in one sandbox, and another one beside it that wants to work (trap 4)."""
    bomb = (
        "import os\nwhile True:\n    try:\n        os.fork()\n    except OSError:\n        pass\n"
    )
    first, second = host.open(processes=48), host.open(processes=16)
    came = []
    with first.shell() as shell:
        first.write("bomb.py", bomb)
        shell.run("python3 -I bomb.py >/dev/null 2>&1 &")
        for number in range(3):
            result = second.python(
                f"import subprocess\nprint(subprocess.run(['echo', '{number}'], "
                "capture_output=True, text=True).stdout)",
                wall_s=20.0,
            )
            came.append(result.stdout.strip() if result.ok else result.describe())
    return Verdict(came == ["0", "1", "2"], f"the neighbour said {came}")


def _locked_out(host: Host) -> Verdict:
    """Forbid everybody the workspace: that is the agent's doing, and must not look like ours."""
    box = host.open()
    box.run("mkdir -p a/b; echo x > a/b/c; chmod 000 a/b/c a/b a; chmod 000 .")
    came = []
    for what in (
        lambda: box.run("echo x").describe(),
        lambda: f"{len(box.snapshot().tar)} bytes packed",
        lambda: f"{sum(1 for _ in box.files())} names",
    ):
        with contextlib.suppress(PermissionError):
            came.append(what())
    box.restore(host.open().snapshot())
    return Verdict(len(came) >= 2, f"afterwards: {came}")


def _spoiled_snapshot(host: Host) -> Verdict:
    """Names so long and deep that an archive of them would be enormous."""
    body = """
os.chdir("/box") if os.path.isdir("/box") else None
for depth in range(1500):
    try:
        os.mkdir("d" * 255)
        os.chdir("d" * 255)
    except OSError:
        break
say(depth=depth)
"""
    box = host.open()
    result = box.python(program(body))
    empty = host.open().snapshot()
    box.restore(empty)
    rest = list(box.files())
    return Verdict(not rest, f"{told(result)}; {len(rest)} names after putting it back")


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
            _, found = _processes_left(before)
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


def _case(name: str, what: str, run: object, source: str = "1.3") -> Case:
    assert callable(run)
    return Case(name=name, source=source, what=what, run=run)


CASES: tuple[Case, ...] = (
    _case("daemon", "a daemon that outlives its run", _daemon),
    _case("holds_output", "a child that keeps the output open", _holds_output, "ours"),
    _case("stubborn", "ignore every signal, in sessions of their own", _stubborn),
    _case("relay", "processes that replace themselves all the time", _relay, "ours"),
    _case("session_bomb", "a fork bomb in a session", _session_bomb, "ours"),
    _case("session_memory", "a session's job takes memory between turns", _session_memory, "ours"),
    _case("neighbour", "a bomb in one sandbox, work in another", _neighbour, "trap 4"),
    _case("locked_out", "forbid everybody the workspace", _locked_out, "ours"),
    _case("spoiled_snapshot", "names too long and deep for an archive", _spoiled_snapshot, "ours"),
    _case("launcher_killed", "kill -9 and Ctrl-C of the launcher", _launcher_killed),
    _case("launcher_killed_early", "the same while commands start", _launcher_killed_early, "ours"),
)
