"""What a sandbox promises for one command: its result, its surroundings, its files."""

from __future__ import annotations

import os
import stat
import subprocess
from pathlib import Path

import pytest

from rlagents.envs.sandbox import Sandbox, UnsafeFile, interpreter
from rlagents.errors import ConfigError
from tests.envs.sandbox.conftest import AsUser, Open

BURN = "import time\nwhile time.process_time() < {seconds}: pass\n"


def test_every_field_of_a_result(box: Sandbox, tier: str) -> None:
    result = box.run("echo out; echo err >&2; sleep 0.2; exit 3")
    assert (result.stdout, result.stderr) == ("out\n", "err\n")
    assert (result.exit_status, result.signal, result.limit) == (3, None, None)
    assert result.ended and not result.ok
    assert result.wall_s >= 0.2
    assert 0 < result.cpu_s < 0.2
    assert 2**20 < result.peak_memory < 64 * 2**20
    assert result.tier == tier
    assert result.output == "out\nerr\n"
    assert result.describe() == "exit status 3"


def test_cpu_time_is_that_of_all_processes_also_of_short_ones(box: Sandbox) -> None:
    burn = f"python3 -c '{BURN.format(seconds=0.15)}'"
    result = box.run(f"{burn} & {burn} & wait")
    assert 0.3 < result.cpu_s < 1.0


@pytest.mark.parametrize(
    ("command", "status", "name"),
    [
        (["true"], 0, None),
        (["sh", "-c", "exit 255"], 255, None),
        (["sh", "-c", "kill -9 $$"], None, "SIGKILL"),
        (["sh", "-c", "kill -TERM $$"], None, "SIGTERM"),
        (["sh", "-c", "kill -SEGV $$"], None, "SIGSEGV"),
    ],
)
def test_how_it_ended(
    box: Sandbox, command: list[str], status: int | None, name: str | None
) -> None:
    result = box.run(command)
    assert (result.exit_status, result.signal, result.limit) == (status, name, None)
    assert result.ok == (status == 0)


@pytest.mark.parametrize("command", [["no-such-program"], ["/box/neither"], ["/etc"]])
def test_a_program_that_is_not_there_is_the_commands_failure(
    box: Sandbox, command: list[str]
) -> None:
    result = box.run(command)
    assert result.exit_status == 127
    assert command[0] in result.stderr and "bwrap" not in result.stderr


def test_words_like_bubblewraps_own_are_only_output(box: Sandbox) -> None:
    result = box.run("echo 'bwrap: execvp gone: No such file' >&2; exit 1")
    assert (result.exit_status, result.stderr) == (1, "bwrap: execvp gone: No such file\n")


def test_large_input_arrives_whole(box: Sandbox) -> None:
    result = box.run(["sha256sum"], stdin=bytes(range(256)) * 4096)
    want = "fbbab289f7f94b25736c58be46a994c441fd02552cc6022352e3d86d2fab7c83"
    assert result.stdout.split()[0] == want


def test_input_that_nobody_reads_is_no_failure(box: Sandbox) -> None:
    assert box.run("exit 0", stdin=b"x" * 2**20).ok
    assert box.run("head -c 3", stdin=b"x" * 2**20).stdout == "xxx"
    assert box.run("cat").stdout == ""


def test_much_on_both_streams_at_once(opened: Open) -> None:
    box = opened(output_kb=2048)
    write = "sys.stdout.write('o' * 1024); sys.stderr.write('e' * 1024)"
    result = box.python(f"import sys\nfor _ in range(1024): {write}")
    assert result.ok
    assert result.stdout == "o" * 2**20
    assert result.stderr == "e" * 2**20


def test_bytes_that_are_no_text_are_replaced(box: Sandbox) -> None:
    assert box.run(r"printf 'a\377b\303\251'").stdout == "a�bé"


def test_python_in_and_out_is_unicode(box: Sandbox) -> None:
    assert box.python("print('héllo → \U0001f600')").stdout == "héllo → \U0001f600\n"
    assert "SyntaxError" in box.python("print(").stderr


def test_the_environment_is_what_was_asked_for(
    opened: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("API_KEY", "secret-in-our-environment")
    box = opened(env={"COLOUR": "green", "LANG": "C"})
    lines = box.run(["env"], env={"ONLY": "here"}).stdout.splitlines()
    found = dict(line.split("=", 1) for line in lines)
    assert (found["COLOUR"], found["LANG"], found["ONLY"]) == ("green", "C", "here")
    assert found["HOME"] == box.where
    assert "API_KEY" not in found
    assert "ONLY" not in box.run(["env"]).stdout


def test_the_workspace_is_home_and_working_folder(box: Sandbox) -> None:
    assert box.run("pwd; echo $HOME").stdout == f"{box.where}\n{box.where}\n"
    assert box.run("echo new > a && mkdir b && ls").stdout == "a\nb\n"
    assert box.run("cat a").stdout == "new\n"


def test_only_the_packages_asked_for_can_be_imported(opened: Open) -> None:
    bare = opened().python("import numpy")
    assert bare.exit_status == 1 and "ModuleNotFoundError" in bare.stderr
    box = opened(packages=["numpy"])
    assert box.python("import numpy; print(numpy.arange(4).sum())").stdout == "6\n"
    for other in ("torch", "ray", "pytest", "rlagents", "pip"):
        assert "ModuleNotFoundError" in box.python(f"import {other}").stderr
    changed = box.run("python3 -c 'import numpy; open(numpy.__file__, \"a\")'")
    assert "OSError" in changed.stderr or "PermissionError" in changed.stderr


def test_packages_go_where_the_interpreter_has_a_folder_for_them() -> None:
    """Also where it is the system's: below /usr no folder can be made."""
    found = interpreter.packages_dir()
    if interpreter.prefix() is None:
        assert os.path.isdir(found)
    call = [interpreter.executable(), "-I", "-c", "import sys; print(*sys.path, sep='\\n')"]
    assert found in subprocess.run(call, capture_output=True, text=True).stdout.splitlines()


def test_a_package_that_is_not_installed_is_an_error_of_the_configuration(opened: Open) -> None:
    with pytest.raises(ConfigError, match=r"sandbox\.packages: 'nunpy' .*'numpy'"):
        opened(packages=["nunpy"])


def test_readonly_files_and_folders(opened: Open, tmp_path: Path) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "a.txt").write_text("shared")
    (tmp_path / "one.txt").write_text("single")
    for path in (folder / "a.txt", tmp_path / "one.txt"):
        path.chmod(0o644)
    folder.chmod(0o777)
    one = str(tmp_path / "one.txt")
    box = opened(readonly={"/data": str(folder), "/opt/one.txt": one})
    assert box.run("cat /data/a.txt /opt/one.txt").stdout == "sharedsingle"
    refused = box.run("echo x > /data/b; echo x >> /data/a.txt; rm /data/a.txt; touch /opt/two")
    assert refused.stderr.count("cannot") == 4
    assert (folder / "a.txt").read_text() == "shared"
    assert [p.name for p in folder.iterdir()] == ["a.txt"]


SERVE = """
import socket
server = socket.create_server(("127.0.0.1", 0))
client = socket.create_connection(server.getsockname(), timeout=5)
client.sendall(b"ping")
print(server.accept()[0].recv(4).decode())
"""


def test_loopback_only_where_it_was_asked_for(opened: Open) -> None:
    assert opened(network="loopback").python(SERVE).stdout == "ping\n"
    assert opened().python(SERVE).exit_status == 1


def test_write_and_read(box: Sandbox) -> None:
    box.write("a/b/c.txt", "text é")
    box.write("run.sh", "#!/bin/sh\necho ran", mode=0o755)
    assert box.run("cat a/b/c.txt; ./run.sh").stdout == "text éran\n"
    box.run("printf '\\000\\001' > raw; ln -s raw link; ln raw twin; mkfifo pipe")
    assert box.read("a/b/c.txt") == "text é".encode()
    for name in ("link", "twin", "raw", "pipe", "a"):
        with pytest.raises(UnsafeFile):
            box.read(name)
    with pytest.raises(FileNotFoundError):
        box.read("nothing")
    with pytest.raises(UnsafeFile):
        box.write("../out", "x")
    kinds = {e.path: e.kind for e in box.files()}
    assert kinds["a/b/c.txt"] == "file" and kinds["pipe"] == "other" and kinds["link"] == "link"


def test_restoring_puts_back_everything(box: Sandbox) -> None:
    odd = ["new\nline", "-rf", "tab\t", "ü", "sp ace", "'\"$x`"]
    make = """
import os
for name in ODD: open(name, "w").write("odd")
os.mkdir("d"); os.mkdir("d/deep"); open("d/deep/f", "w").write("deep")
os.chmod("d/deep/f", 0o640); os.chmod("d/deep", 0o510); os.mkdir("empty")
open("twin1", "w").write("twin"); os.link("twin1", "twin2")
os.symlink("d/deep/f", "good"); os.symlink("/nowhere", "bad"); os.mkfifo("fifo")
with open("sparse", "wb") as file: file.truncate(2**25)
os.utime("twin1", (10**9, 10**9)); os.chmod("twin1", 0o4755)
""".replace("ODD", repr(odd))
    look = """
import os, stat
for folder, dirs, files in sorted(os.walk(".")):
    for name in sorted(dirs + files):
        path = os.path.join(folder, name); s = os.lstat(path)
        kind = stat.S_IFMT(s.st_mode)
        extra = os.readlink(path) if kind == stat.S_IFLNK else ""
        # A folder's size in tmpfs is a detail; a link's mode and time are nobody's.
        size = 0 if kind == stat.S_IFDIR else s.st_size
        mtime = int(s.st_mtime) if name.startswith("twin") else 0
        print(ascii(path), oct(s.st_mode), size, s.st_nlink, s.st_blocks // 64, mtime, extra)
"""
    assert box.python(make).ok
    before = box.python(look)
    assert before.stdout.count("\n") == len(odd) + 10
    snapshot = box.snapshot()
    assert len(snapshot.tar) < 2**20, "the hole is not in it"
    wreck = "chmod 700 d/deep; rm -rf -- * ; mkdir -p d/deep/x; chmod 0 d/deep/x; echo more > more"
    box.run(wreck)
    assert box.python(look).stdout != before.stdout
    for _ in range(2):
        box.restore(snapshot)
        assert box.python(look).stdout == before.stdout


def test_a_snapshot_opens_in_another_sandbox(opened: Open) -> None:
    first, second = opened(), opened()
    first.write("a", "one")
    second.write("b", "two")
    second.restore(first.snapshot())
    assert [e.path for e in second.files()] == ["a"]
    assert second.run("cat a; echo changed > a").stdout == "one"
    assert first.read("a") == b"one"


def test_an_unreadable_workspace_can_still_be_restored(box: Sandbox) -> None:
    box.write("a", "one")
    snapshot = box.snapshot()
    box.run("mkdir -p d/e; touch d/e/f; chmod 0 d/e d; chmod 0 .")
    box.restore(snapshot)
    assert [e.path for e in box.files()] == ["a"]
    mode = box.python("import os; print(oct(os.stat('.').st_mode))").stdout.strip()
    assert stat.S_ISDIR(int(mode, 8))


def test_as_an_ordinary_user(as_user: AsUser) -> None:
    done = as_user(
        "from rlagents.envs.sandbox import Sandbox\n"
        "with Sandbox({'packages': ['numpy'], 'memory_mb': 64}) as box:\n"
        "    print(box.tier, box.python('import numpy; print(numpy.arange(3).sum())').stdout)\n"
        "    print(box.run('id -u; echo kept > a').stdout, box.read('a'))\n"
        "    print(box.python('x = [b\"x\" * 2**20 for _ in range(300)]').limit)\n"
        "    print(box.run('sleep 9', wall_s=0.1).limit)\n"
        "    before = box.snapshot(); box.run('rm a'); box.restore(before); print(box.read('a'))\n"
        "    with box.repl() as session:\n"
        "        print(session.run('x = 1').exit_status, session.run('x + 1').stdout)\n"
    )
    assert done.stderr == ""
    want = r"user 3 1000 b'kept\n' memory_mb wall_s b'kept\n' 0 2"
    assert " ".join(done.stdout.split()) == want
