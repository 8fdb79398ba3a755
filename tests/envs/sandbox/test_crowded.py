"""An agent that uses up what it may have is answered; it can't make the sandbox look broken."""

from __future__ import annotations

from tests.envs.sandbox.conftest import Open

HOLD = """
import os, signal, time
held = 0
while held < 300:
    try:
        if os.fork() == 0:
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            time.sleep(60)
            os._exit(0)
    except OSError:
        break
    held += 1
held
"""


def test_a_session_that_holds_all_processes_leaves_none_for_the_rest(opened: Open) -> None:
    box = opened(processes=16)
    holder = box.repl()
    assert 10 <= int(holder.run(HOLD).stdout) <= 24
    refused = box.run("true")
    assert (refused.limit, refused.exit_status) == ("processes", None)
    other = box.repl().run("1")
    assert (other.limit, other.ended) == ("processes", True)
    assert holder.run("1 + 1").stdout == "2\n"
    holder.close()
    assert box.run("echo again").stdout == "again\n"


def test_going_back_to_a_snapshot_empties_what_is_not_part_of_it(opened: Open) -> None:
    box = opened()
    box.write("kept", "1")
    before = box.snapshot()
    assert box.run("rm kept; touch new /tmp/left /dev/shm/left; mkdir /tmp/more").ok
    box.restore(before)
    assert box.run("ls /box /tmp /dev/shm").stdout.split() == [
        "/box:", "kept", "/dev/shm:", "/tmp:"
    ]  # fmt: skip
