"""The programs of the soak, good and hostile; each knows how it must end."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from rlagents.envs.sandbox import Result, Sandbox

SETTINGS = {
    "wall_s": 20.0,
    "memory_mb": 64,
    "processes": 16,
    "workspace_mb": 4,
    "workspace_files": 200,
    "tmp_mb": 2,
    "output_max_mb": 1,
    "output_kb": 4,
}
FORKS = """
import os, time
made = 0
for _ in range(200):
    try:
        if os.fork() == 0:
            time.sleep(30)
            os._exit(0)
        made += 1
    except OSError:
        break
print(made)
"""
MEMORY = """
held = []
for _ in range(12):
    held.append(b"x" * 2**24)
    for _ in range(100000): pass
print("held", len(held))
"""
DAEMON = """
import os, signal, time
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        for number in range(1, 65):
            try: signal.signal(number, signal.SIG_IGN)
            except (OSError, ValueError): pass
        os.close(1); os.close(2)
        time.sleep(60)
    os._exit(0)
print("left")
"""
DEAF = """
import os, signal, time
signal.signal(signal.SIGINT, signal.SIG_IGN)
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print("deaf", flush=True)
time.sleep(60)
"""
FILL = """
import os
wrote = names = 0
try:
    with open("big", "wb") as file:
        while wrote < 2**24:
            wrote += file.write(b"x" * 2**16)
            file.flush()
except OSError:
    pass
try: os.unlink("big")
except OSError: pass
try:
    for names in range(2000):
        open(f"n{names}", "w").close()
except OSError:
    pass
print(wrote <= 2**22 and names <= 200)
"""


class Unexpected(Exception):
    """A program ended in another way than it must."""


def require(holds: object, result: Any) -> None:
    """Raise `Unexpected` unless it holds."""
    if not holds:
        raise Unexpected(repr(result)[:500])


def _open(tier: str, **settings: Any) -> Sandbox:
    return Sandbox({"tier": tier, **SETTINGS, **settings})


def _once(
    work: Callable[[Sandbox], Result], right: Callable[[Result], bool], **settings: Any
) -> Callable[[str], None]:
    """A program that runs once, and how it must end. The sandbox must work afterwards."""

    def run(tier: str) -> None:
        with _open(tier, **settings) as box:
            result = work(box)
            require(right(result), result)
            after = box.run(["sh", "-c", "echo fine"])
            require(after.stdout == "fine\n", after)

    return run


def _session(tier: str) -> None:
    with _open(tier) as box, box.repl() as python, box.shell() as shell:
        for number in range(3):
            require(python.run(f"x = {number}\nx * 2").stdout == f"{2 * number}\n", number)
            require(shell.run(f"y={number}; echo $((y + 1))").stdout == f"{number + 1}\n", number)
        stopped = python.run("while True: pass", wall_s=0.05)
        require(stopped.limit == "wall_s" and not stopped.ended, stopped)
        require(python.run("x").stdout == "2\n", "state after an interrupt")


def _session_dies(tier: str) -> None:
    with _open(tier) as box:
        python = box.repl()
        gone = python.run("import os\nos._exit(7)")
        require(gone.exit_status == 7 and gone.ended and not python.alive, gone)
        shell = box.shell()
        background = shell.run("sleep 50 & setsid sleep 50 & echo on")
        require(background.stdout == "on\n", background)
        # Nobody closes it: the sandbox must.


def _snapshot(tier: str) -> None:
    with _open(tier) as box:
        box.write("a/b", "one")
        before = box.snapshot()
        box.run("rm -r a; echo two > c; mkdir -p d/e/f; chmod 0 d")
        box.restore(before)
        require([e.path for e in box.files()] == ["a", "a/b"], list(box.files()))
        require(box.read("a/b") == b"one", "a/b")


def _forgotten(tier: str) -> None:
    """Nobody closes it; it goes with its last reference."""
    box = _open(tier)
    session = box.repl()
    require(session.run("1").stdout == "1\n", "session")


PROGRAMS: dict[str, Callable[[str], None]] = {
    "hello": _once(lambda b: b.python("print('hello')"), lambda r: r.stdout == "hello\n"),
    "shell": _once(lambda b: b.run("cat; exit 3", stdin=b"in"), lambda r: r.exit_status == 3),
    "missing": _once(lambda b: b.run(["nosuch"]), lambda r: r.exit_status == 127),
    "error": _once(lambda b: b.python("1/0"), lambda r: "ZeroDivisionError" in r.stderr),
    "session": _session,
    "session dies": _session_dies,
    "snapshot": _snapshot,
    "forgotten": _forgotten,
    "fork bomb": _once(lambda b: b.python(FORKS), lambda r: 3 < int(r.stdout) <= 20),
    "shell bomb": _once(
        lambda b: b.run("f() { f | f & }; f; sleep 20", wall_s=0.2),
        lambda r: r.limit in ("wall_s", "output_max_mb", None),
    ),
    "memory bomb": _once(
        lambda b: b.python(MEMORY), lambda r: r.limit == "memory_mb" and "held" not in r.stdout
    ),
    "flood": _once(lambda b: b.run(["yes"]), lambda r: r.limit == "output_max_mb"),
    "daemon": _once(lambda b: b.python(DAEMON), lambda r: r.stdout == "left\n"),
    "deaf": _once(lambda b: b.python(DEAF, wall_s=0.2), lambda r: r.limit == "wall_s"),
    "timeout": _once(lambda b: b.run("sleep 60", wall_s=0.05), lambda r: r.limit == "wall_s"),
    "kill all": _once(
        lambda b: b.run("sleep 60 & kill -9 -1; kill -9 $$"), lambda r: r.signal == "SIGKILL"
    ),
    "fill": _once(lambda b: b.python(FILL), lambda r: r.stdout == "True\n"),
    "unread input": _once(lambda b: b.run("exit 0", stdin=b"x" * 2**20), lambda r: r.ok),
}
"""Name of a program -> what runs it in a tier, and raises `Unexpected`."""
