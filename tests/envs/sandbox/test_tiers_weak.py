"""The tiers without namespaces, `landlock` and `none`: what they offer, hold and leave behind."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from rlagents.envs.sandbox import Sandbox, SandboxConfig, UnsafeFile, slots
from rlagents.envs.sandbox.choice import cached_problem
from rlagents.envs.sandbox.command import execute
from rlagents.envs.sandbox.process import Streams
from rlagents.envs.sandbox.result import Result
from rlagents.envs.sandbox.tiers import folders, landlock
from rlagents.envs.sandbox.tiers.keeper import asked
from rlagents.envs.sandbox.tiers.kept import CLEANERS, Confinement, KeptBox
from rlagents.envs.sandbox.tiers.layout import PREFIX
from rlagents.errors import ConfigError, SandboxBroken

WEAK = ["landlock", "none"]
CLEAN_S = 2.0
COMETS = """
import os, time
for _ in range(4):
    if os.fork() == 0:
        break
end = time.monotonic() + 20
while time.monotonic() < end:
    if os.fork():
        os._exit(0)
    os.setsid()
"""
"""Processes that never have the same number for long, each in a session of its own."""


def require(tier: str) -> None:
    if (problem := cached_problem(tier)) is not None:
        pytest.skip(f"tier {tier!r} can't be had here: {problem}")


@pytest.fixture(scope="module", params=WEAK)
def tier(request: pytest.FixtureRequest) -> str:
    require(request.param)
    return request.param


@pytest.fixture(scope="module")
def box(tier: str) -> Iterator[Sandbox]:
    with Sandbox({"tier": tier, "processes": 24, "workspace_mb": 8, "file_mb": 4}) as opened:
        yield opened


@pytest.fixture
def held() -> Iterator[Sandbox]:
    require("landlock")
    with Sandbox({"tier": "landlock"}) as opened:
        yield opened


def running(word: str) -> list[str]:
    """Processes with a word in their command line."""
    found = []
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            words = Path(f"/proc/{name}/cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if word.encode() in words:
            found.append(name)
    return found


def gone_in_time(word: str) -> bool:
    deadline = time.monotonic() + CLEAN_S
    while running(word):
        if time.monotonic() > deadline:
            return False
    return True


def test_a_result_names_its_tier(box: Sandbox, tier: str) -> None:
    done = box.run("echo out; echo err >&2; exit 3")
    assert (done.stdout, done.stderr, done.exit_status) == ("out\n", "err\n", 3)
    assert done.tier == box.tier == tier


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV, signal.SIGTERM])
def test_a_signal_is_not_an_exit_status(box: Sandbox, number: signal.Signals) -> None:
    done = box.run(f"kill -{number.value} $$")
    assert (done.exit_status, done.signal) == (None, number.name)


def test_a_program_that_is_not_there_is_the_commands_failure(box: Sandbox) -> None:
    done = box.run(["no-such-program"])
    assert done.exit_status == 127
    assert "no-such-program: No such file or directory" in done.stderr


def test_python_has_the_packages_of_the_configuration_and_no_others(tier: str) -> None:
    with Sandbox({"tier": tier, "packages": ["msgspec"]}) as box:
        assert box.python("import msgspec; print(msgspec.json.encode([1]).decode())").stdout == (
            "[1]\n"
        )
        assert "ModuleNotFoundError" in box.python("import pytest").stderr


def test_files_go_in_and_out_and_snapshots_bring_them_back(tier: str) -> None:
    with Sandbox({"tier": tier}) as box:
        box.write("a/run.sh", "echo hello")
        assert box.run("chmod 750 a/run.sh && ./a/run.sh").stdout == "hello\n"
        before = box.snapshot()
        box.run("rm -r a; mkdir -p new/x; chmod 000 new")
        box.restore(before)
        assert [(e.path, e.kind) for e in box.files()] == [("a", "dir"), ("a/run.sh", "file")]
        assert box.run("stat -c %a a/run.sh").stdout == "750\n"
        box.run("ln -s /etc/hostname link")
        with pytest.raises(UnsafeFile):
            box.read("link")


def test_sessions_keep_their_state_and_outlive_a_turn_that_takes_too_long(box: Sandbox) -> None:
    with box.shell() as shell:
        assert shell.run("x=3; cd ..").ok
        assert shell.run("sleep 30", wall_s=0.2).limit == "wall_s"
        assert shell.run("echo $x").stdout == "3\n"
    with box.repl() as python:
        assert python.run("n = 20\nn + 1").stdout == "21\n"
        assert python.run("while True: pass", wall_s=0.2).limit == "wall_s"
        assert python.run("n").stdout == "20\n"


def test_the_environment_and_descriptors_are_clean(box: Sandbox) -> None:
    with open(os.devnull) as kept:
        os.set_inheritable(kept.fileno(), True)
        program = (
            "import json, os\nprint(json.dumps(list(os.environ)))\nfor n in range(3, 256):\n"
            "    try: os.fstat(n)\n    except OSError: continue\n    print('open', n)"
        )
        done = box.python(program)
    ours = "HOME LANG LC_CTYPE OMP_NUM_THREADS PATH PYTHONDONTWRITEBYTECODE TERM TMPDIR USER"
    assert done.stdout.splitlines()[1:] == []
    assert set(json.loads(done.stdout)) <= set(ours.split())


def test_each_command_has_an_empty_folder_for_temporary_files(box: Sandbox) -> None:
    first = box.run("echo $TMPDIR; mkdir -p $TMPDIR/a/b; chmod 000 $TMPDIR/a")
    second = box.run("echo $TMPDIR; ls $TMPDIR")
    assert first.stdout != second.stdout
    assert len(second.stdout.splitlines()) == 1
    assert not os.path.exists(first.stdout.strip())


def test_a_program_can_not_lock_its_sandbox(tier: str) -> None:
    with Sandbox({"tier": tier}) as box:
        assert box.run('rmdir "$TMPDIR"; ln -s / "$TMPDIR"; chmod 000 "$TMPDIR/.." "$HOME"')
        assert box.run('echo $(ls -A "$TMPDIR" "$HOME")').ok
        assert list(box.files()) == []


@pytest.mark.parametrize(
    ("command", "limit"),
    [
        ("sleep 30", "wall_s"),
        ("while :; do :; done", "cpu_s"),
        ("yes", "output_max_mb"),
        ("for i in 1 2 3 4 5 6; do head -c 3M /dev/zero > $i; done; sleep 9", "workspace_mb"),
        ("i=0; while [ $i -lt 400 ]; do : > $i; i=$((i+1)); done; sleep 9", "workspace_files"),
        ("head -c 3M /dev/zero > $TMPDIR/x; sleep 9", "tmp_mb"),
    ],
)
def test_limits_end_a_command_and_are_named(tier: str, command: str, limit: str) -> None:
    small = {
        "wall_s": 15.0,
        "cpu_s": 0.5 if limit == "cpu_s" else 10.0,
        "workspace_mb": 8,
        "workspace_files": 200,
        "tmp_mb": 2,
        "file_mb": 4,
    }
    with Sandbox({"tier": tier, **small}) as box:
        done = box.run(command, wall_s=0.3 if limit == "wall_s" else None)
        assert (done.limit, done.exit_status) == (limit, None)
        assert box.run("rm -rf ./* && echo ok").stdout == "ok\n"  # and it can be cleared


def test_memory_is_that_of_all_processes_together(tier: str) -> None:
    child = "import time; x = bytearray(60 << 20); time.sleep(20)"
    program = f"for i in 1 2 3 4; do python3 -I -c '{child}' & done; wait"
    with Sandbox({"tier": tier, "memory_mb": 128}) as box:
        assert box.run(program).limit == "memory_mb"


def test_one_file_can_not_be_larger_than_allowed(box: Sandbox) -> None:
    assert box.run("head -c 6M /dev/zero > large; stat -c %s large").stdout == f"{4 << 20}\n"
    assert box.run("rm large").ok


def test_forks_are_refused_beyond_the_bound(box: Sandbox) -> None:
    program = """
import os, signal
count = 0
try:
    while count < 200:
        if os.fork() == 0:
            signal.pause()
        count += 1
except OSError as error:
    print(count, error.errno)
"""
    count, number = map(int, box.python(program).stdout.split())
    assert (number, 16 <= count <= 32) == (11, True)


def test_nothing_outlives_a_command(box: Sandbox) -> None:
    word = f"86{os.getpid()}"
    script = f"(setsid sh -c 'trap \"\" TERM INT HUP; sleep {word} & sleep {word}' &); sleep 0.1"
    assert box.run(script).ok
    assert running(word) == []


def test_nothing_outlives_a_command_that_is_ended(box: Sandbox) -> None:
    word = f"87{os.getpid()}"
    script = f"trap '' TERM INT HUP; (setsid sleep {word} &); while :; do sleep {word}; done"
    assert box.run(script, wall_s=0.3).limit == "wall_s"
    assert running(word) == []


def test_comets_are_ended(box: Sandbox, tier: str) -> None:
    program = f"marker = 'comet-{tier}'\n{COMETS}"
    argv = ["python3", "-I", "-c", program]
    began = time.monotonic()
    assert box.run(argv).exit_status == 0
    assert time.monotonic() - began < 10
    assert running(program) == []


def test_comets_are_ended_without_landlock(tmp_path: Path) -> None:
    # As on kernels that can't scope signals: by stopping and killing what is seen. That is a race
    # which several of them together can draw out for long on a busy machine.
    assert "range(4)" in COMETS
    argv = ["python3", "-I", "-c", COMETS.replace("range(4)", "range(1)") + f"# {tmp_path}"]
    assert alone(Confinement(), argv).exit_status == 0
    assert running(argv[-1]) == []


def test_the_whole_tree_ends_with_its_keeper(box: Sandbox) -> None:
    word = f"88{os.getpid()}"
    shell = box.shell()
    shell.run(f"(setsid sleep {word} &); sleep {word} &")
    shell._process.check()  # what the watchdog does
    os.kill(shell._process.started.popen.pid, signal.SIGKILL)
    with pytest.raises(SandboxBroken, match="keeper"):
        for _ in range(50):
            shell.run("sleep 0.05")
    shell.close()
    if os.geteuid() != 0:
        assert running(word) == []
    assert gone_in_time(word) or box.tier == "none"


def test_a_killed_worker_leaves_nothing_after_the_reaper(tier: str) -> None:
    word = f"89{os.getpid()}"
    program = (
        "import sys\nfrom rlagents.envs.sandbox import Sandbox\n"
        f"box = Sandbox({{'tier': {tier!r}}})\nshell = box.shell()\n"
        f"shell.run('(setsid sleep {word} &); sleep {word} &')\n"
        "shell.run('mkdir -p a/b; chmod 000 a')\nprint(box.where, flush=True)\nsys.stdin.read()\n"
    )
    worker = subprocess.Popen(
        [sys.executable, "-c", program],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(p or "." for p in sys.path)},
    )
    assert worker.stdout is not None and worker.stdin is not None
    with worker:
        where = worker.stdout.readline().strip()
        assert running(word)
        worker.kill()
    assert gone_in_time(word)
    assert os.path.isdir(where)
    slots.reap(CLEANERS)
    assert not os.path.exists(os.path.dirname(where))


def test_closing_removes_what_is_hard_to_remove(tier: str) -> None:
    deep = "import os\nfor _ in range(1500): os.mkdir('d' * 100); os.chdir('d' * 100)"
    with Sandbox({"tier": tier}) as box:
        base = os.path.dirname(box.where)
        outside = f"/tmp/outside-{tier}-{os.getpid()}"
        Path(outside).write_text("kept")
        try:
            box.python(deep)
            box.run(f"mkdir -p c/d; touch c/d/e; chmod 000 c/d c; ln -s {outside} l; ln -s / r")
            box.run("mkfifo f; touch \"$(printf 'a\\nb\\377')\"")
            box.close()
            assert not os.path.exists(base)
            assert Path(outside).read_text() == "kept"
        finally:
            os.unlink(outside)


def test_the_cleaner_removes_only_folders_of_sandboxes(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    with pytest.raises(SandboxBroken, match="not a folder of a sandbox"):
        folders.remove(str(tmp_path / "mine"))
    link = tmp_path / f"{PREFIX}link"
    link.symlink_to(tmp_path / "mine")
    (tmp_path / "mine" / "file").touch()
    folders.remove(str(link))
    assert (tmp_path / "mine" / "file").exists() and not link.is_symlink()
    folders.remove(str(tmp_path / f"{PREFIX}never-there"))


def test_landlock_hides_files_of_the_host(held: Sandbox) -> None:
    secret = Path(f"/tmp/secret-{os.getpid()}")
    secret.write_text("canary")
    secret.chmod(0o666)
    try:
        program = (
            f"cat {secret}; echo changed > {secret}; rm -f {secret}; ln -s {secret} l; cat l; "
            f"ln {secret} h; cat h; cat /proc/$PPID/environ /proc/1/cmdline; ls /tmp /root /home; "
            f"cat /proc/self/root{secret}; cat /etc/passwd; truncate -s 0 {secret}"
        )
        done = held.run(program)
        assert done.stdout == ""
        assert secret.read_text() == "canary"
    finally:
        secret.unlink()


def test_landlock_reaches_no_socket_of_the_host(held: Sandbox) -> None:
    program = """
import socket, sys
port, path, packets = int(sys.argv[1]), sys.argv[2], sys.argv[3]
def attempt(what, action):
    try:
        action()
    except OSError:
        return
    print(what)
attempt("tcp", lambda: socket.create_connection(("127.0.0.1", port), 1))
attempt("udp", lambda: socket.socket(type=socket.SOCK_DGRAM).sendto(b"x", ("127.0.0.1", port)))
attempt("unix", lambda: socket.socket(socket.AF_UNIX).connect(path))
attempt("abstract", lambda: socket.socket(socket.AF_UNIX).connect(chr(0) + path))
attempt("netlink", lambda: socket.socket(socket.AF_NETLINK, socket.SOCK_RAW))
for kind in (socket.SOCK_DGRAM, socket.SOCK_RAW, socket.SOCK_SEQPACKET, socket.SOCK_STREAM):
    attempt(f"pair {kind}", lambda: socket.socketpair(type=kind)[0].sendto(b"x", packets))
a, b = socket.socketpair()
a.send(b"y")
print("still", b.recv(1))
"""
    folder = f"/tmp/sockets-{os.getpid()}"
    os.mkdir(folder, mode=0o755)
    stream, packets = f"{folder}/stream", f"{folder}/packets"
    with (
        socket.create_server(("127.0.0.1", 0)) as tcp,
        socket.socket(socket.AF_UNIX) as unix,
        socket.socket(socket.AF_UNIX) as abstract,
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as datagrams,
    ):
        unix.bind(stream)
        abstract.bind("\0" + stream)
        datagrams.bind(packets)
        for path in (stream, packets):
            os.chmod(path, 0o666)
        for server in (unix, abstract):
            server.listen()
        port = str(tcp.getsockname()[1])
        done = held.run(["python3", "-I", "-c", program, port, stream, packets])
        for path in (stream, packets):
            os.unlink(path)
        os.rmdir(folder)
    assert done.stdout == "still b'y'\n", done.stderr


def test_landlock_signals_and_changes_nobody_outside(held: Sandbox) -> None:
    with subprocess.Popen(["sleep", "60"]) as victim:
        pid = victim.pid
        program = f"""
import ctypes, os, resource, signal
def attempt(what, action):
    try:
        action()
    except OSError:
        return
    print(what)
for number in (signal.SIGSTOP, signal.SIGKILL):
    attempt("kill", lambda: os.kill({pid}, number))
attempt("pidfd", lambda: signal.pidfd_send_signal(os.pidfd_open({pid}), signal.SIGKILL))
attempt("prlimit", lambda: resource.prlimit({pid}, resource.RLIMIT_CPU, (1, 1)))
attempt("affinity", lambda: os.sched_setaffinity({pid}, {{0}}))
attempt("nice", lambda: os.setpriority(os.PRIO_PROCESS, {pid}, 19))
attempt("nice of a user", lambda: os.setpriority(os.PRIO_USER, 0, 19))
attempt("its memory", lambda: open("/proc/{pid}/mem", "rb"))
"""
        done = held.python(program)
        try:
            assert done.stdout == "", done.stderr
            assert done.ok
            assert victim.poll() is None
        finally:
            victim.kill()


def test_what_landlock_can_not_give_is_refused() -> None:
    require("landlock")
    with pytest.raises(ConfigError, match=r"sandbox\.network: 'loopback'"):
        landlock.Landlock().open(SandboxConfig(tier="landlock", network="loopback"))
    with pytest.raises(ConfigError, match=r"sandbox\.readonly: /data"):
        landlock.Landlock().open(SandboxConfig(tier="landlock", readonly={"/data": "/etc"}))


def test_what_is_offered_can_be_read_but_not_written() -> None:
    require("landlock")
    with folder_of_all() as offered:
        with Sandbox({"tier": "landlock", "readonly": {offered: offered}}) as box:
            done = box.run(f"cat {offered}/file; echo no > {offered}/file; rm {offered}/file")
            assert done.stdout == "offered"
        assert Path(offered, "file").read_text() == "offered"


def test_a_user_s_own_files_outside_keep_their_mode_and_dates(tmp_path: Path) -> None:
    """What an ordinary user's tier does about calls that Landlock does not watch."""
    require("landlock")
    mine = tmp_path / "mine"
    mine.touch(mode=0o644)
    before = mine.stat()
    asks = landlock.questions((*asked.COUNTED, *asked.CHANGES))
    script = f"""
chmod 000 {mine}; python3 -I -c 'import os; os.utime("{mine}", (1, 1))'
echo x > inside; chmod 751 inside; ln -s {mine} link; chmod 000 link
cd $TMPDIR; mkdir d; chmod 700 d; cp {mine} /dev/null; python3 -I -c '
import os
os.chmod("{mine}", 0, dir_fd=os.open("/usr", os.O_PATH))
'
cd "$HOME"; touch -d 2001-01-01 inside; stat -c "%a %y" inside | cut -c1-14
"""
    done = alone(Confinement(asks=asks), ["sh", "-c", script])
    assert done.stdout == "751 2001-01-01\n", done.stderr
    assert done.stderr.count("not permitted") == 4
    after = mine.stat()
    assert (after.st_mode, after.st_mtime_ns) == (before.st_mode, before.st_mtime_ns)


def test_a_user_s_forks_are_counted_exactly() -> None:
    require("landlock")
    program = """
import threading, time
count = 0
try:
    for _ in range(100):
        threading.Thread(target=time.sleep, args=(5,), daemon=True).start()
        count += 1
except RuntimeError:
    print(count)
"""
    config = SandboxConfig(tier="none", processes=16)
    confinement = Confinement(asks=landlock.questions(asked.COUNTED))
    done = alone(confinement, ["python3", "-I", "-c", program], config)
    assert int(done.stdout) == 15  # and the first


def alone(confinement: Confinement, argv: list[str], config: SandboxConfig | None = None) -> Result:
    """Run a command as the user that we are."""
    config = config or SandboxConfig(tier="none")
    slot = slots.take(CLEANERS)
    box = KeptBox("none", config, slot, drop=False, confine=lambda _: confinement)
    try:
        return execute(box, argv, Streams.of(config), wall_s=20)
    finally:
        box.close()


@contextlib.contextmanager
def folder_of_all() -> Iterator[str]:
    """A folder that everybody can reach, with a file."""
    path = os.path.realpath(f"/var/tmp/offered-{os.getpid()}")
    os.mkdir(path)
    os.chmod(path, 0o755)
    Path(path, "file").write_text("offered")
    try:
        yield path
    finally:
        os.unlink(os.path.join(path, "file"))
        os.rmdir(path)
