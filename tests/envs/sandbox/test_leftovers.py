"""Nothing stays behind, however a command, its caller or this process ends."""

from __future__ import annotations

import contextlib
import gc
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from rlagents.bench.soak_sandbox import Count, maker, orphans, taken
from rlagents.envs.sandbox import Sandbox, proctree, slots
from rlagents.envs.sandbox.choice import TABLE
from tests.envs.sandbox.conftest import ROOT, AsUser, Open

HOSTILE = "trap '' INT TERM HUP; setsid sleep 600 & setsid nohup sleep 600 & sleep 600"
GONE_S = 2.0


def mine() -> tuple[int, int, int]:
    """Processes, descriptors and slots held: of this process, whatever others do meanwhile."""
    count: Count = taken()
    return count.processes, count.descriptors, count.slots


def held_slots(pid: int) -> list[Path]:
    links = []
    for name in os.listdir(f"/proc/{pid}/fd"):
        with contextlib.suppress(FileNotFoundError):
            links.append(Path(os.readlink(f"/proc/{pid}/fd/{name}")))
    return [link for link in links if link.parent == slots.folder()]


@pytest.fixture(autouse=True)
def nothing_left(tier: str) -> object:
    """Around every test: what this process has is the same as before."""
    with Sandbox({"tier": tier}) as box, box.repl() as session:  # threads and caches stand
        session.run("1")
    before = mine()
    yield
    gc.collect()
    assert soon(lambda: mine() == before), f"{mine()} instead of {before}"


def soon(holds: Callable[[], bool], within_s: float = GONE_S) -> bool:
    deadline = time.monotonic() + within_s
    while not holds():
        if time.monotonic() > deadline:
            return False
        threading.Event().wait(0.01)
    return True


def ctrl_c() -> None:
    main = threading.main_thread().ident
    assert main is not None
    signal.pthread_kill(main, signal.SIGINT)


def below(pid: int) -> list[tuple[int, int | None]]:
    """The processes under one, each with what makes its number its own."""
    return [(p, proctree.start_time(p)) for p in proctree.descendants(pid)]


def alive(processes: list[tuple[int, int | None]]) -> list[int]:
    """Those that run. The dead may lie about: their next parent buries them when it likes."""
    same = [p for p, began in processes if began and proctree.start_time(p) == began]
    return [p for p in same if proctree.dead(p) is None]


def test_after_success_failure_and_limits(tier: str) -> None:
    with Sandbox({"tier": tier, "output_max_mb": 1, "memory_mb": 64}) as box:
        for command in ("true", "exit 3", "nosuch", "yes", "kill -9 $$", "setsid sleep 600 &"):
            box.run(command)
        box.run(HOSTILE, wall_s=0.1)
        box.python("x = b'x' * 2**28")
        assert len(held_slots(os.getpid())) == 1
    assert os.getpid() not in [maker(group) for group in orphans()]


def test_a_command_leaves_no_process_behind(box: Sandbox) -> None:
    before = len(proctree.descendants(os.getpid()))
    assert box.run("setsid sleep 600 & (setsid sleep 600 &) & echo left").stdout == "left\n"
    assert len(proctree.descendants(os.getpid())) == before
    assert box.run("pgrep sleep").exit_status == 1


def test_an_exception_in_the_block(tier: str) -> None:
    with pytest.raises(ZeroDivisionError), Sandbox({"tier": tier}) as box:
        box.repl().run("x = 1")
        box.shell().run("setsid sleep 600 &")
        raise ZeroDivisionError


def test_nobody_closes_it(tier: str) -> None:
    box = Sandbox({"tier": tier})
    assert box.repl().run("1").stdout == "1\n"
    box.shell().run("setsid sleep 600 &")
    del box


def test_it_can_not_be_made(tier: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from rlagents.errors import SandboxBroken

    with pytest.raises(SandboxBroken, match="does not exist"):
        Sandbox({"tier": tier, "readonly": {"/data": "/no/such/place"}})


@pytest.mark.parametrize("after_s", [0.0, 0.003, 0.006, 0.01, 0.015, 0.02, 0.03, 0.05, 0.2])
def test_ctrl_c_in_a_command(tier: str, after_s: float) -> None:
    """Wherever it comes: while one is made, while a command starts, while it runs."""
    began = threading.Event()

    def interrupt() -> None:
        began.wait()
        threading.Event().wait(after_s)
        ctrl_c()

    thread = threading.Thread(target=interrupt)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        began.set()
        with Sandbox({"tier": tier}) as box:
            box.run(HOSTILE)
    thread.join()


@pytest.mark.parametrize("after_s", [0.0, 0.005, 0.01, 0.02, 0.1])
def test_ctrl_c_in_a_session(tier: str, after_s: float) -> None:
    with Sandbox({"tier": tier}) as box:
        timer = threading.Timer(after_s, ctrl_c)
        with pytest.raises(KeyboardInterrupt):
            timer.start()
            with box.shell() as session:
                session.run(HOSTILE)
        timer.join()
        assert box.run("echo fine").stdout == "fine\n"


def test_closing_while_another_thread_runs_a_command(opened: Open) -> None:
    box = opened()
    results: list[object] = []
    thread = threading.Thread(target=lambda: results.append(box.run(f"touch on; {HOSTILE}")))
    thread.start()
    assert soon(lambda: "on" in [e.path for e in box.files()])
    box.close()
    thread.join(GONE_S)
    assert not thread.is_alive()
    (result,) = results
    assert getattr(result, "signal", None) == "SIGKILL"


def test_a_thread_that_started_a_session_may_end(box: Sandbox) -> None:
    """To the kernel a parent is a thread, and what is told to die with its parent would die."""
    sessions = []
    thread = threading.Thread(target=lambda: sessions.append(box.repl()))
    thread.start()
    thread.join()
    threading.Event().wait(0.1)
    with sessions[0] as session:
        assert session.run("1 + 1").stdout == "2\n"


def test_sixteen_threads(opened: Open) -> None:
    box = opened(processes=200)
    wrong: list[str] = []

    def work(number: int) -> None:
        for turn in range(3):
            got = box.run(["echo", f"{number} {turn}"]).stdout
            if got != f"{number} {turn}\n":
                wrong.append(got)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def _in_a_child(tier: str, inherited: Sandbox) -> None:
    with Sandbox({"tier": tier, "memory_mb": 64}) as box, box.repl() as session:
        assert session.run("1 + 1").stdout == "2\n"
        assert box.python("x = b'x' * 2**28").limit == "memory_mb", "it has a watchdog"
    assert inherited.run("cat kept").stdout == "kept"
    inherited.close()  # its copy is not the owner


def test_a_forked_process_has_its_own_and_spares_its_parents(tier: str, box: Sandbox) -> None:
    box.write("kept", "kept")
    with box.repl() as session:
        session.run("x = 41")
        context = multiprocessing.get_context("fork")
        child = context.Process(target=_in_a_child, args=(tier, box))
        child.start()
        child.join(30)
        assert child.exitcode == 0
        if (pid := os.fork()) == 0:
            sys.stdout = sys.stderr = open(os.devnull, "w")  # noqa: SIM115
            box.close()
            os._exit(0)
        os.waitpid(pid, 0)
        assert session.run("x + 1").stdout == "42\n"
        assert box.run("cat kept").stdout == "kept"


OTHER = """
import sys, time
from rlagents.envs.sandbox import Sandbox
box = Sandbox({"tier": sys.argv[1]})
session = box.shell()
print(session.run("trap '' TERM HUP; setsid sleep 600 & setsid nohup sleep 600 & echo on").stdout)
sys.stdout.flush()
END
"""


def start_other(tier: str, end: str) -> tuple[subprocess.Popen[str], list[tuple[int, int | None]]]:
    """Another process with a sandbox, and all that is in it."""
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    code = OTHER.replace("END", end)
    other = subprocess.Popen(
        [sys.executable, "-c", code, tier], stdout=subprocess.PIPE, text=True, env=env
    )
    assert other.stdout is not None and other.stdout.readline() == "on\n"
    processes = below(other.pid)[1:]
    assert len(processes) >= 4
    return other, processes


def test_a_process_that_ends_without_closing(tier: str) -> None:
    other, processes = start_other(tier, "time.sleep(0.1)")
    with other:
        assert other.wait(20) == 0
    assert soon(lambda: not alive(processes)), alive(processes)
    Sandbox({"tier": tier}).close()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGSEGV])
def test_a_process_that_is_killed(tier: str, number: signal.Signals) -> None:
    """The kernel ends its processes; the next sandbox, or the reaper, removes the rest."""
    other, processes = start_other(tier, "time.sleep(600)")
    with other:
        (slot,) = held_slots(other.pid)
        other.send_signal(number)
        other.wait(20)
        assert soon(lambda: not alive(processes)), alive(processes)
    slots.reap({k: c for t in TABLE.values() for k, c in t.cleaners.items()})
    Sandbox({"tier": tier}).close()  # buries those dead that came to us
    assert slot.stat().st_size == 0 or slot_taken_again(slot)
    assert other.pid not in [maker(group) for group in orphans()]


def slot_taken_again(slot: Path) -> bool:
    """By a test that runs beside this one."""
    import fcntl

    with slot.open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return slot.stat().st_size == 0


def test_as_an_ordinary_user(as_user: AsUser) -> None:
    done = as_user(
        "import os\n"
        "from rlagents.bench.soak_sandbox import taken\n"
        "from rlagents.envs.sandbox import Sandbox\n"
        "def use():\n"
        "    with Sandbox() as box:\n"
        "        box.run('setsid sleep 600 & sleep 600', wall_s=0.1)\n"
        "        box.repl().run('1'); box.shell().run('sleep 600 &')\n"
        "use(); before = taken(); use(); after = taken()\n"
        "print(before.processes, after.processes, after.descriptors - before.descriptors)\n"
    )
    assert (done.stdout, done.stderr) == ("0 0 0\n", "")
