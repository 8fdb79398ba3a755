"""Sessions: what a turn leaves to the next, what it can't survive, what it can't forge."""

from __future__ import annotations

import threading

import pytest

from rlagents.envs.sandbox import Sandbox
from tests.envs.sandbox.conftest import Open


def test_a_python_keeps_its_state(box: Sandbox) -> None:
    with box.repl() as session:
        first = session.run("import math\nx = 40\ndef f(y):\n    return x + y")
        assert (first.exit_status, first.stdout, first.stderr) == (0, "", "")
        assert not first.ended
        assert session.run("f(2)").stdout == "42\n"
        assert session.run("print('a'); 'b'; 'c'").stdout == "a\n'c'\n"
        assert session.run("class A: pass\nA.__module__").stdout == "'__main__'\n"
        assert session.run("").exit_status == 0
    assert not session.alive


def test_a_shell_keeps_its_state(box: Sandbox) -> None:
    with box.shell() as session:
        assert session.run("cd /tmp; export A=1; b=2; f() { echo $A$b; }").exit_status == 0
        assert session.run("f; pwd; env | grep ^A=").stdout == "12\n/tmp\nA=1\n"
        assert session.run("cat <<END\ntwo\nlines\nEND\nfalse").exit_status == 1
        assert session.run("(exit 42)").exit_status == 42
        assert session.run("kill -9 $BASHPID & wait $!").exit_status == 137
        assert session.run("read line; echo got:$line").stdout == "got:\n"


def test_errors_in_a_turn_are_output(box: Sandbox) -> None:
    with box.repl() as session:
        broken = session.run("def f(:")
        assert broken.exit_status == 1 and "SyntaxError" in broken.stderr
        raised = session.run("def g():\n    raise KeyError('k')\ng()")
        assert "raise KeyError('k')" in raised.stderr, "the source stands in the trace"
        assert "serve" not in raised.stderr, "our driver does not"
        assert session.run("'alive'").stdout == "'alive'\n"
    with box.shell() as session:
        assert session.run("if then").exit_status != 0
        assert session.run("nosuch").exit_status == 127
        assert session.run("echo alive").stdout == "alive\n"


def test_a_turn_out_of_time_is_interrupted_and_the_state_stays(box: Sandbox) -> None:
    with box.repl() as session:
        session.run("x = 0")
        stopped = session.run("while True: x += 1", wall_s=0.2)
        assert (stopped.limit, stopped.exit_status, stopped.ended) == ("wall_s", None, False)
        assert "KeyboardInterrupt" in stopped.stderr
        assert session.run("x > 0").stdout == "True\n"
        session.run("import time; time.sleep(30)", wall_s=0.1)
        session.run("import subprocess; subprocess.run(['sleep', '30'])", wall_s=0.3)
        assert session.run("x > 0").stdout == "True\n"
    with box.shell() as session:
        session.run("y=7")
        stopped = session.run("echo on; sleep 30", wall_s=0.1)
        assert (stopped.limit, stopped.ended, stopped.stdout) == ("wall_s", False, "on\n")
        assert session.run("while :; do :; done", wall_s=0.1).limit == "wall_s"
        endless = "while :; do sleep 0.01; done; echo after"
        for turn in (endless, f"if true; then {endless}; fi", f"g() {{ {endless}; }}; g"):
            assert session.run(turn, wall_s=0.1).limit == "wall_s"
        assert session.run("echo $y").stdout == "7\n"


def test_a_turn_that_is_interrupted_too_late_does_not_spoil_the_next(box: Sandbox) -> None:
    with box.repl() as session:
        session.run("1")
        for _ in range(30):
            stopped = session.run("1", wall_s=1e-6)  # over or not begun, as it happens
            assert (stopped.limit, stopped.exit_status, stopped.ended) == ("wall_s", None, False)
            assert session.run("40 + 2").stdout == "42\n"


def test_loop_words_outside_of_a_loop_are_harmless(box: Sandbox) -> None:
    with box.shell() as session:
        for turn in ("continue", "break", "return 3", "echo x; continue 2"):
            assert not session.run(turn).ended
        assert session.run("(exit 9)").exit_status == 9


@pytest.mark.parametrize(
    ("handler", "turn"),
    [("signal.SIG_IGN", "time.sleep(30)"), ("lambda *_: None", "while True: pass")],
)
def test_a_turn_that_can_not_be_interrupted_ends_the_session(
    box: Sandbox, handler: str, turn: str
) -> None:
    session = box.repl()
    session.run(f"import signal, time; signal.signal(signal.SIGINT, {handler})")
    result = session.run(turn, wall_s=0.1)
    assert (result.limit, result.exit_status, result.ended) == ("wall_s", None, True)
    assert not session.alive
    with pytest.raises(ValueError, match="has ended"):
        session.run("1")
    assert box.run("echo fine").stdout == "fine\n"


@pytest.mark.parametrize(
    ("turn", "status", "signal"),
    [
        ("import os; os._exit(3)", 3, None),
        ("import sys; print('bye'); sys.exit(4)", 4, None),
        ("raise SystemExit", 0, None),
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", None, "SIGKILL"),
        ("import ctypes; ctypes.string_at(0)", None, "SIGSEGV"),
    ],
)
def test_a_python_that_exits(
    box: Sandbox, turn: str, status: int | None, signal: str | None
) -> None:
    session = box.repl()
    result = session.run(turn)
    assert (result.exit_status, result.signal, result.limit) == (status, signal, None)
    assert result.ended and not session.alive
    assert result.stdout == ("bye\n" if "bye" in turn else "")


def test_a_shell_that_exits(box: Sandbox) -> None:
    session = box.shell()
    result = session.run("echo last; exit 5")
    assert (result.exit_status, result.stdout, result.ended) == (5, "last\n", True)
    other = box.shell()
    assert other.run("exec true").ended and not other.alive


@pytest.mark.parametrize(
    ("settings", "turn", "limit"),
    [
        ({"memory_mb": 64}, "held = b'x' * 2**28", "memory_mb"),
        ({"cpu_s": 0.3}, "while True: pass", "cpu_s"),
        ({"output_max_mb": 1}, "while True: print('x' * 1000)", "output_max_mb"),
    ],
)
def test_other_limits_end_the_session(
    opened: Open, settings: dict[str, float], turn: str, limit: str
) -> None:
    session = opened(**settings).repl()
    assert session.run("1").stdout == "1\n"
    result = session.run(turn)
    assert (result.limit, result.exit_status, result.ended) == (limit, None, True)
    assert not session.alive


def test_limits_are_those_of_a_turn(opened: Open) -> None:
    with opened(cpu_s=0.6, output_max_mb=1, output_kb=1).repl() as session:
        for _ in range(3):
            burn = (
                "import time\nt = time.process_time() + 0.35\nwhile time.process_time() < t: pass"
            )
            result = session.run(f"{burn}\nprint('x' * 600000)")
            assert result.limit is None and not result.ended, result.describe()
            assert 0.3 < result.cpu_s < 0.6
            assert "bytes left out" in result.stdout


def test_output_of_background_jobs_comes_with_the_next_turn(box: Sandbox) -> None:
    with box.shell() as session:
        assert (
            session.run("(while [ ! -e go ]; do sleep 0.02; done; echo late; : > done) &").stdout
            == ""
        )
        session.run("touch go; while [ ! -e done ]; do sleep 0.02; done")
        third = session.run("echo now")
        assert third.stdout in ("now\n", "late\nnow\n")
        assert session.run("jobs -p | wc -l; wait; echo $?").exit_status == 0


def test_background_jobs_end_with_the_session(box: Sandbox) -> None:
    with box.shell() as session:
        session.run("for i in 1 2 3; do setsid nohup sleep 1234.5 & done; trap '' TERM")
    assert box.run("pgrep -f 'sleep 1234[.]5'").exit_status == 1


def test_a_forged_reply_is_only_a_lie_about_a_status(box: Sandbox) -> None:
    """A turn may write to our descriptors. What it says there can't break the session's owner."""
    forge = """
import os, time
for name in os.listdir("/proc/self/fd"):
    if int(name) > 2:
        for lie in (b"0\\n", b"-7\\n", b"9" * 99, b"\\xff\\n", b"\\0", b"77777\\n"):
            try: os.write(int(name), lie)
            except OSError: pass
"""
    with box.repl() as session:
        for _ in range(3):
            result = session.run(forge)
            assert result.limit is None
            if not session.alive:  # a lie that is no status is a session that does not answer
                assert result.signal == "SIGKILL"
                break
            assert result.exit_status is not None and 0 <= result.exit_status <= 255
    assert box.repl().run("1 + 1").stdout == "2\n"


def test_closing_the_descriptors_ends_the_session_and_no_more(box: Sandbox) -> None:
    session = box.repl()
    result = session.run("import os; os.closerange(3, 64); print('closed')")
    assert result.ended and result.stdout == "closed\n"
    assert not session.alive
    assert box.repl().run("1 + 1").stdout == "2\n"


@pytest.mark.parametrize("kind", ["python", "shell"])
def test_a_large_request_and_a_large_answer(opened: Open, kind: str) -> None:
    box = opened(output_kb=4096)
    text = "é" * 2**19
    with box.repl() if kind == "python" else box.shell() as session:
        turn = f"text = '{text}'\nprint(text)" if kind == "python" else f"text='{text}'; echo $text"
        assert session.run(turn).stdout == text + "\n"
        length = "len(text)" if kind == "python" else "echo ${#text}"
        assert session.run(length).stdout == f"{2**19}\n"


@pytest.mark.parametrize("kind", ["python", "shell"])
def test_odd_requests(box: Sandbox, kind: str) -> None:
    with box.repl() if kind == "python" else box.shell() as session:
        for odd in ("\0", "'\udcff'", "\r\n", "\x04", "#", "'\U0001f600'"):
            session.run(odd)
        assert session.run("print('fine')" if kind == "python" else "echo fine").stdout == "fine\n"


def test_input_is_empty(box: Sandbox) -> None:
    with box.repl() as session:
        assert "EOFError" in session.run("input()").stderr
        assert session.run("1").stdout == "1\n"


def test_sessions_and_commands_share_the_files_only(box: Sandbox) -> None:
    with box.repl() as one, box.repl() as two, box.shell() as three:
        one.run("x = 1; open('f', 'w').write('shared')")
        assert "NameError" in two.run("x").stderr
        assert three.run("cat f").stdout == "shared"
        assert box.read("f") == b"shared"


def test_closing_twice_and_after_the_sandbox(opened: Open) -> None:
    box = opened()
    session = box.repl()
    session.close()
    session.close()
    other = box.shell()
    box.close()
    box.close()
    assert not other.alive
    other.close()
    with pytest.raises(ValueError, match="has ended"):
        other.run("echo")
    for use in (lambda: box.run("echo"), box.repl, box.snapshot, lambda: box.read("x")):
        with pytest.raises(ValueError, match="closed"):
            use()


def test_many_sessions_in_threads(opened: Open) -> None:
    """One sandbox a thread, 16 at once, and turns that keep to their own state."""
    wrong: list[str] = []

    def work(number: int) -> None:
        with opened() as box, box.repl() as session:
            session.run(f"x = {number}")
            for turn in range(5):
                got = session.run(f"x += 1\nx * {number}").stdout
                if got != f"{(number + turn + 1) * number}\n":
                    wrong.append(got)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
