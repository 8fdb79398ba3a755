"""What every tier with a workspace, sessions and limits of its own must do, in a few commands."""

from __future__ import annotations

from rlagents.envs.sandbox import Sandbox

FORKS = """
import os, time
count = 0
try:
    while count < 300:
        if os.fork() == 0:
            time.sleep(9)
            os._exit(0)
        count += 1
except OSError:
    pass
print(count)
"""
CHILDREN = """
import os, time
for _ in range(6):
    if os.fork() == 0:
        held = b"x" * (60 << 20)
        time.sleep(9)
        os._exit(0)
time.sleep(9)
"""
MANY = """
count = 0
try:
    for count in range(1000):
        open(f"f{count}", "w").close()
except OSError:
    pass
print(count)
"""


def commands(box: Sandbox, tier: str) -> None:
    """Results, streams, files, snapshots."""
    done = box.run("echo out; echo err >&2; exit 3", env={"SEEN": "yes"})
    assert (done.stdout, done.stderr, done.exit_status) == ("out\n", "err\n", 3)
    assert (done.tier, done.signal, done.limit) == (tier, None, None)
    assert box.run(["cat"], stdin=b"x" * 200_000).stdout.count("x") > 60_000
    missing = box.run(["no-such-program"])
    assert missing.exit_status == 127 and "no-such-program" in missing.stderr
    assert box.run("kill -9 $$").signal == "SIGKILL"
    assert box.run("exit 128").exit_status == 128
    assert box.python("import os; print(os.getcwd(), os.getuid() != 0)").stdout == "/box True\n"
    box.write("a/b.txt", "one")
    assert box.run("cat a/b.txt; printf two > c").stdout == "one"
    assert box.read("c") == b"two"
    then = box.snapshot()
    box.run("rm -r a; printf three > c; touch d")
    box.restore(then)
    assert sorted(e.path for e in box.files()) == ["a", "a/b.txt", "c"]
    assert box.read("c") == b"two"


def sessions(box: Sandbox) -> None:
    """State between turns, interrupts, ends."""
    with box.shell() as shell:
        assert shell.run("x=3; cd /tmp; echo now").stdout == "now\n"
        assert shell.run("echo $x $PWD; false").stdout == "3 /tmp\n"
        late = shell.run("sleep 60", wall_s=0.3)
        assert (late.limit, late.ended) == ("wall_s", False)
        assert shell.run("echo $x").stdout == "3\n"
        assert shell.run("exit 4").exit_status == 4 and not shell.alive
    with box.repl() as python:
        assert python.run("y = 6\ny * 7").stdout == "42\n"
        assert "ZeroDivisionError" in python.run("1 / 0").stderr
        assert python.run("while True: pass", wall_s=0.3).limit == "wall_s"
        assert python.run("y").stdout == "6\n"


def limits(box: Sandbox) -> None:
    """Of a box with 24 processes, 128 MiB, 100 files in 8 MiB, and one second of processor."""
    assert box.run("sleep 60", wall_s=1.5).limit == "wall_s"
    assert box.python("while True: pass").limit == "cpu_s"
    assert 5 < int(box.python(FORKS).stdout) <= 24
    assert box.python(CHILDREN).limit == "memory_mb"
    assert int(box.python(MANY).stdout) <= 100
    box.run("rm -f f*")
    full = box.run("head -c 20000000 /dev/zero > big")
    assert not full.ok and len(box.read("big")) <= 8 * 2**20
    assert box.run("true").ok is True
