"""Every limit of the configuration ends or stops what goes over it, and is named."""

from __future__ import annotations

import pytest

from rlagents.envs.sandbox import Result, Sandbox, UnsafeFile
from tests.envs.sandbox.conftest import Open

MIB = 2**20
HOLD = "held = b'x' * ({mib} * 2**20)\nimport time\ntime.sleep(30)\n"
FORK = """
import os, time
made = 0
try:
    while made < 300:
        if os.fork() == 0:
            time.sleep(30)
            os._exit(0)
        made += 1
except OSError as error:
    print(made, error.errno)
"""
THREADS = """
import threading
made, wait = 0, threading.Event()
try:
    while made < 300:
        threading.Thread(target=wait.wait, daemon=True).start()
        made += 1
except RuntimeError:
    print(made)
"""


def ended_by(result: Result, limit: str) -> bool:
    return result.limit == limit and result.exit_status is None and result.ended and not result.ok


def test_wall_time(opened: Open) -> None:
    box = opened(wall_s=0.3)
    slow = box.run("echo begun; sleep 30; echo never")
    assert ended_by(slow, "wall_s") and slow.stdout == "begun\n"
    assert 0.3 <= slow.wall_s < 3
    assert slow.describe() == "ended by the limit wall_s"
    assert box.run("sleep 0.4", wall_s=10).ok
    deaf = box.run("trap '' INT TERM HUP; setsid sleep 30 & while :; do sleep 1; done")
    assert ended_by(deaf, "wall_s")


def test_cpu_time_of_one_process(opened: Open) -> None:
    result = opened(cpu_s=0.5).python("while True: pass")
    assert ended_by(result, "cpu_s")
    assert 0.5 < result.cpu_s < 3


def test_cpu_time_of_the_whole_tree(opened: Open) -> None:
    """No process reaches the limit."""
    one = "python3 -c 'import time\nwhile time.process_time() < 0.4: pass'"
    result = opened(cpu_s=1.0).run(f"for i in 1 2 3 4 5 6 7 8; do {one} & done; wait")
    assert ended_by(result, "cpu_s")
    assert 1.0 < result.cpu_s < 3


def test_cpu_time_of_processes_that_follow_one_another(opened: Open) -> None:
    one = "python3 -c 'import time\nwhile time.process_time() < 0.2: pass'"
    result = opened(cpu_s=1.0).run(f"while :; do {one}; done")
    assert ended_by(result, "cpu_s")


def test_memory_of_one_process(opened: Open) -> None:
    result = opened(memory_mb=64).python(HOLD.format(mib=200))
    assert ended_by(result, "memory_mb")
    assert result.peak_memory > 64 * MIB


def test_memory_of_the_whole_tree(opened: Open) -> None:
    """Six processes that hold 40 MiB each, none of which is over."""
    program = HOLD.format(mib=40).replace("\n", "; ", 1)
    result = opened(memory_mb=128).run(
        f'for i in 1 2 3 4 5 6; do python3 -c "{program}" & done; wait'
    )
    assert ended_by(result, "memory_mb")
    assert 128 * MIB < result.peak_memory < 300 * MIB


def test_a_runaway_allocation_is_a_memory_error(opened: Open) -> None:
    result = opened(memory_mb=64).python("b'x' * 2**40")
    assert result.exit_status == 1 and "MemoryError" in result.stderr


def test_memory_below_the_limit_is_fine(opened: Open) -> None:
    result = opened(memory_mb=128).python("held = b'x' * 2**26; import time; time.sleep(0.2)")
    assert result.ok
    assert 64 * MIB < result.peak_memory < 128 * MIB


def test_processes(opened: Open) -> None:
    box = opened(processes=16)
    made, number = box.python(FORK).stdout.split()
    assert 8 <= int(made) <= 20 and number == "11"
    assert 8 <= int(box.python(THREADS).stdout) <= 20
    assert box.run("echo fine").stdout == "fine\n"


def test_open_files(opened: Open) -> None:
    script = "held = []\ntry:\n while len(held) < 500: held.append(open('/dev/null'))\n"
    result = opened(open_files=32).python(script + "except OSError as e: print(len(held), e.errno)")
    count, number = result.stdout.split()
    assert 25 <= int(count) <= 32 and number == "24"


def test_the_size_of_a_file(opened: Open) -> None:
    box = opened(file_mb=1, workspace_mb=8)
    result = box.run("head -c 3000000 /dev/zero > big; wc -c < big")
    assert result.stdout == f"{MIB}\n"
    assert box.run("exec head -c 3000000 /dev/zero > big").signal == "SIGXFSZ"


def test_the_size_of_the_workspace(opened: Open) -> None:
    box = opened(workspace_mb=2)
    result = box.run("for i in 1 2 3 4; do head -c 1000000 /dev/zero > f$i; done; cat f* | wc -c")
    assert "No space left" in result.stderr
    assert 1.9 * MIB < int(result.stdout) <= 2 * MIB
    with pytest.raises(UnsafeFile, match="No space left"):
        box.write("more", b"x" * 10**6)
    assert "more" not in [e.path for e in box.files()]
    assert box.run("rm f1 && echo room > f5 && cat f5").stdout == "room\n"


def test_the_number_of_files(opened: Open) -> None:
    box = opened(workspace_files=50)
    result = box.run("i=0; while [ $i -lt 80 ] && touch f$i; do i=$((i+1)); done; ls | wc -l")
    assert 45 <= int(result.stdout) <= 50
    assert "No space left" in result.stderr


@pytest.mark.parametrize("folder", ["/tmp", "/dev/shm"])
def test_the_size_of_other_writable_folders(opened: Open, folder: str) -> None:
    result = opened(tmp_mb=1).run(f"head -c 3000000 /dev/zero > {folder}/f; wc -c < {folder}/f")
    assert int(result.stdout) <= MIB
    assert "No space left" in result.stderr


def test_nothing_else_can_be_written_to(box: Sandbox) -> None:
    script = """
import os
writable = []
for line in open("/proc/self/mountinfo"):
    where, options = line.split()[4:6]
    if "rw" in options.split(","):
        writable.append(where)
print(sorted(w for w in writable if os.path.isdir(w)))
for folder in ("/", "/etc", "/usr", "/usr/bin", "/dev", "/dev/pts", "/proc", "/proc/sys/kernel"):
    try:
        open(folder + "/probe", "w")
        print(folder)
    except OSError:
        pass
"""
    assert box.python(script).stdout == "['/box', '/dev/pts', '/dev/shm', '/tmp']\n"


def test_long_output_keeps_its_head_and_its_tail(opened: Open) -> None:
    box = opened(output_kb=1)
    text = "".join(f"{i:07d}\n" for i in range(1000))
    result = box.run("seq -f %07.0f 0 999; seq -f %07.0f 0 999 >&2")
    mark = f"\n[... {len(text) - 1024:,} bytes left out ...]\n"
    assert result.ok
    assert result.stdout == text[:512] + mark + text[-512:]
    assert result.stderr == result.stdout


def test_output_that_just_fits_is_whole(opened: Open) -> None:
    box = opened(output_kb=1)
    assert box.run("printf %1024s").stdout == " " * 1024
    assert (
        box.run("printf %1025s").stdout == " " * 512 + "\n[... 1 bytes left out ...]\n" + " " * 512
    )


@pytest.mark.parametrize("to", ["", ">&2"])
def test_a_flood_of_output_ends_the_command(opened: Open, to: str) -> None:
    box = opened(output_max_mb=1, output_kb=4)
    result = box.run(f"yes {to}")
    assert ended_by(result, "output_max_mb")
    text = result.stderr if to else result.stdout
    assert text.startswith("y\ny\n") and "bytes left out" in text and len(text) < 4200
    assert box.run("echo fine").stdout == "fine\n"


def test_limits_are_those_of_a_command_not_of_the_sandbox(opened: Open) -> None:
    box = opened(cpu_s=1.0, output_max_mb=1)
    for _ in range(3):
        result = box.python(
            "import time\nwhile time.process_time() < 0.5: pass\nprint('x' * 600000)"
        )
        assert result.ok, result.describe()


def test_the_first_reason_counts(opened: Open) -> None:
    result = opened(output_max_mb=1, wall_s=5).run("trap '' TERM; yes & sleep 30")
    assert result.limit == "output_max_mb"
