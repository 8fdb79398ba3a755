"""Attacks on the end of things: processes that would outlive their run, workspaces spoiled."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable

from rlagents.envs.sandbox.attack.case import Case, Host, Verdict
from rlagents.envs.sandbox.attack.inside import program, told
from rlagents.envs.sandbox.attack.leftovers import Mark, mark, wait_until_gone
from rlagents.envs.sandbox.attack.measure import Watch


def processes_left(before: Mark) -> tuple[float, list[str]]:
    """Seconds until the processes made since are gone, and those that stay."""
    seconds, found = wait_until_gone(before, ())
    return seconds, [thing for thing in found if thing.startswith("process")]


def _ended_with_its_run(body: str, host: Host, *, wall_s: float, at_most_s: float) -> Verdict:
    box = host.open(processes=32)
    before = mark()
    result = box.python(program(body), wall_s=wall_s)
    seconds, found = processes_left(before)
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


def _case(name: str, what: str, run: Callable[[Host], Verdict], source: str = "1.3") -> Case:
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
)
