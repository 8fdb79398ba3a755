"""`gvisor` keeps the promises of every tier, and frees what gVisor leaves behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from rlagents.envs.sandbox import Sandbox, slots
from rlagents.envs.sandbox.choice import TABLE, cached_problem
from rlagents.envs.sandbox.tiers.base import program
from rlagents.errors import SandboxBroken
from tests.envs.sandbox import contract

pytestmark = pytest.mark.skipif(
    cached_problem("gvisor") is not None, reason=f"gvisor: {cached_problem('gvisor')}"
)
TIGHT = {
    "tier": "gvisor",
    "processes": 24,
    "memory_mb": 128,
    "workspace_mb": 8,
    "workspace_files": 100,
    "cpu_s": 2.0,
    "wall_s": 20.0,
}


def test_commands_and_files() -> None:
    with Sandbox({"tier": "gvisor"}) as box:
        contract.commands(box, "gvisor")


def test_sessions() -> None:
    with Sandbox({"tier": "gvisor"}) as box:
        contract.sessions(box)


def test_limits() -> None:
    with Sandbox(TIGHT) as box:
        contract.limits(box)


def test_the_kernel_is_not_the_hosts_and_the_packages_are_those_asked_for() -> None:
    with Sandbox({"tier": "gvisor", "packages": ["numpy"]}) as box:
        assert box.run("uname -r").stdout.strip() != os.uname().release
        assert box.python("import numpy; print(numpy.arange(4).sum())").stdout == "6\n"
        assert box.python("import pytest").exit_status == 1


def test_memory_of_the_guest_is_seen_though_no_process_of_the_host_shows_it() -> None:
    with Sandbox({"tier": "gvisor"}) as box:
        held = box.python("import time; x = b'x' * (200 << 20); time.sleep(0.5)")
    assert 200 * 2**20 < held.peak_memory < 300 * 2**20


def test_two_boxes_at_once_are_strangers() -> None:
    with Sandbox({"tier": "gvisor"}) as one, Sandbox({"tier": "gvisor"}) as other:
        one.write("mine", "1")
        with one.shell() as first, other.shell() as second:
            assert first.run("cat mine").stdout == "1"
            assert not second.run("cat mine").ok


def test_nothing_is_left_after_limits_and_close() -> None:
    with Sandbox({"tier": "gvisor"}) as box:
        box.run("true")
        before = len(os.listdir("/proc/self/fd"))
        for wall_s in (0.1, 0.3, 0.5):
            assert box.run("sleep 60", wall_s=wall_s).limit == "wall_s"
        assert len(os.listdir("/proc/self/fd")) == before
        folder = box._box._folder  # type: ignore[attr-defined]
    assert not folder.exists()
    assert _children_named("runsc") == []


def test_a_killed_owner_leaves_nothing_after_the_reaper() -> None:
    program = (
        "import os\n"
        "from rlagents.envs.sandbox import Sandbox\n"
        "box = Sandbox({'tier': 'gvisor'})\n"
        "shell = box.shell()\n"
        "shell.run('sleep 300 &')\n"
        "print(box._box._folder, *shell._process.tree.pids(), flush=True)\n"
        "os.kill(os.getpid(), 9)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL
    folder, *pids = done.stdout.split()
    assert pids
    deadline = time.monotonic() + 2.0
    while any(_lives(pid) for pid in pids):  # they die with their owner, before any reaper
        assert time.monotonic() < deadline
    assert Path(folder).exists()
    slots.reap({k: c for tier in TABLE.values() for k, c in tier.cleaners.items()})
    assert not Path(folder).exists()


def test_where_runsc_is_missing_the_message_says_so() -> None:
    asks = "from rlagents.envs.sandbox.choice import TABLE; print(TABLE['gvisor'].problem())"
    hide = 'mount --bind /dev/null "$0" && exec "$@"'
    runsc = program("runsc")
    assert runsc is not None
    command = ["unshare", "--mount", "sh", "-c", hide, runsc, sys.executable, "-c", asks]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "apt-get install runsc" in done.stdout


def test_what_is_offered_can_be_read_and_not_written(tmp_path: Path) -> None:
    offered = tmp_path / "data.txt"
    offered.write_text("seen")
    with Sandbox({"tier": "gvisor", "readonly": {"/data/in.txt": str(offered)}}) as box:
        assert box.run("cat /data/in.txt").stdout == "seen"
        assert not box.run("echo more >> /data/in.txt").ok
    assert offered.read_text() == "seen"
    with pytest.raises(SandboxBroken, match="does not exist"):
        Sandbox({"tier": "gvisor", "readonly": {"/data": str(tmp_path / "nothing")}})


def _children_named(name: str) -> list[str]:
    """Of this process, dead ones too."""
    found = []
    for file in Path("/proc/self/task").glob("*/children"):
        for pid in file.read_text().split():
            about = Path(f"/proc/{pid}/stat").read_text()
            if f"({name}" in about:
                found.append(about)
    return found


def _lives(pid: str) -> bool:
    try:
        return ") Z" not in Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
