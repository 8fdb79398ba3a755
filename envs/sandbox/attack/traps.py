"""The ten traps of building such a sandbox, each as a case that finds it again."""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from rlagents.envs.sandbox.attack.case import Case, Host, Verdict
from rlagents.envs.sandbox.attack.inside import denied, program, silent, told
from rlagents.envs.sandbox.files import UnsafeFile


def _first_environment(host: Host) -> Verdict:
    body = """
found = attempt(lambda: open("/proc/1/environ", "rb").read())
parent = attempt(lambda: open("/proc/%d/environ" % os.getppid(), "rb").read())
given = {n.partition("=")[0] for n in found[5:-1].split("\\\\x00") if n}
given -= {"PWD", "OLDPWD", "SHLVL", "_"}  # a shell on the way sets them
say(
    first="clean" if not (found.startswith("ok") and given) else found,
    parent="clean" if not stolen(parent.encode()) else "ok " + parent,
    own=sorted(os.environ),
    mine="ok" if stolen(repr(os.environ).encode()) else "clean",
)
"""
    return denied(host, host.open().python(program(body)))


def _inherited(host: Host) -> Verdict:
    """Ours are marked to be inherited, in case that is all that keeps them out."""
    body = """
found = {}
for number in os.listdir("/proc/self/fd"):
    try:
        found[int(number)] = os.readlink("/proc/self/fd/" + number)
    except OSError:  # the one that reads the folder
        continue
extra = {n: link for n, link in found.items() if n > 2}
said = {"extra": "ok %r" % extra if extra else "none"}
for number, link in extra.items():
    said["read %d" % number] = attempt(lambda: stolen(os.pread(number, 200, 0)))
say(**said)
"""
    with contextlib.ExitStack() as exits:
        for path in (host.secret_path, os.path.dirname(host.secret_path)):
            opened = os.open(path, os.O_RDONLY)
            exits.callback(os.close, opened)
            os.set_inheritable(opened, True)
        box = host.open()
        once = denied(host, box.python(program(body)))
        with box.shell() as shell:
            box.write("look.py", program(body))
            kept = denied(host, shell.run("python3 -I look.py"))
    fine = once.contained and kept.contained
    return Verdict(fine, f"command: {once.evidence}; session: {kept.evidence}")


def _offered(host: Host) -> Verdict:
    """A folder is offered read-only: nothing of it may be changed.

    A file that only its owner may read stays closed where programs run as somebody else.
    """
    body = f"""
secret, private = "/data/answer.txt", "/data/private.txt"
try:
    where = os.stat(secret) and "/data"
except OSError:
    where = {os.path.dirname(host.secret_path)!r}
said = dict(
    write=attempt(open, where + "/writable.txt", "a"),
    make=attempt(open, where + "/new", "w"),
    remove=attempt(os.unlink, where + "/writable.txt"),
    mode=attempt(os.chmod, where + "/answer.txt", 0o666),
    up=attempt(os.listdir, where + "/../../root/.ssh"),
)
private = attempt(lambda: open(where + "/private.txt").read(1) and 0)
if private.startswith("ok") and {os.geteuid()}:
    private = "as its owner offered it"
said["private"] = private
say(**said)
"""
    folder = os.path.dirname(host.secret_path)
    return denied(host, host.open(readonly={"/data": folder}).python(program(body)))


def _own_user(host: Host) -> Verdict:
    """Another sandbox's processes are not to be seen, signalled or counted with ours."""
    body = "import os; print(sorted(int(p) for p in os.listdir('/proc') if p.isdigit()))"
    first, second = host.open(), host.open()
    with first.shell() as shell:
        shell.run("for i in 1 2 3 4 5 6; do sleep 50 & done")
        result = second.python(body)
    pids = [int(p) for p in result.stdout.strip("[]\n").split(",") if p.strip()]
    return Verdict(0 < len(pids) <= 4, f"{len(pids)} processes seen beside six of a neighbour")


def _tree_memory(host: Host) -> Verdict:
    """No process of these goes over a limit for single processes."""
    body = """
for _ in range(10):
    if os.fork() == 0:
        held = b"x" * (40 * MIB)
        time.sleep(5)
        os._exit(0)
time.sleep(5)
"""
    result = host.open(memory_mb=128).python(program(body))
    seen = f"{result.describe()} after {result.wall_s:.2f} s at {result.peak_memory >> 20} MiB"
    return Verdict(result.limit == "memory_mb", seen)


def _interpreter(host: Host) -> Verdict:
    body = """
say(version=sys.version, packages=[p for p in sys.path if "site-packages" in p and os.path.isdir(p)
    and any(not n.startswith("_") for n in os.listdir(p))],
    ours=attempt(__import__, "rlagents"), ray=attempt(__import__, "ray"))
"""
    said = told(result := host.open().python(program(body)))
    if not said:
        return silent(result)
    fine = said["version"] == sys.version and not said["ours"].startswith("ok")
    fine = fine and not said["ray"].startswith("ok")
    return Verdict(fine, f"the same Python: {said['version'] == sys.version}; ours: {said['ours']}")


def _own_proc(host: Host) -> Verdict:
    body = """
say(
    descriptors=len(os.listdir("/proc/self/fd")),
    maps=len(open("/proc/self/maps").read()),
    reopened=attempt(lambda: open("/proc/self/fd/0").close()),
    name=open("/proc/self/comm").read(),
)
"""
    said = told(result := host.open().python(program(body)))
    if not said:
        return silent(result)
    fine = said["descriptors"] > 0 and said["maps"] > 0 and bool(said["name"])
    return Verdict(fine, f"programs can look at themselves: {said}")


def _plain_file(host: Host) -> Verdict:
    """A rule for folders on a plain file is an error with Landlock."""
    box = host.open(readonly={"/data/one.txt": __file__})
    body = f"""
for path in ("/data/one.txt", {__file__!r}):
    try:
        print(len(open(path, "rb").read()))
        break
    except OSError:
        pass
"""
    result = box.python(body)
    size = str(os.path.getsize(__file__))
    return Verdict(result.stdout.strip() == size, f"{result.describe()}: {result.output.strip()}")


def _reading_results(host: Host) -> Verdict:
    box = host.open()
    body = """
os.mkfifo("submission.csv")
os.close(os.open("hole", os.O_CREAT | os.O_WRONLY))
attempt(os.truncate, "hole", 1 << 40)
attempt(os.truncate, "hole", 60 * MIB)
os.symlink("/etc/passwd", "link")
with open("one", "w") as file:
    file.write("x")
os.link("one", "two")
home = os.getcwd()
for depth in range(1200):
    try:
        os.mkdir("d")
    except OSError:
        break
    os.chdir("d")
os.chdir(home)
open("name\\nwith\\x1b[2Jescapes\\udcff", "w").close()
say(depth=depth)
"""
    said = told(result := box.python(program(body)))
    if not said:
        return silent(result)
    came, began = [], time.monotonic()
    for name in ("submission.csv", "hole", "link", "one", "d"):
        with contextlib.suppress(UnsafeFile, OSError):
            came.append(f"{name}: {len(box.read(name))} bytes")
    with contextlib.suppress(UnsafeFile):
        listed = sum(1 for _ in box.files())
        came.append(f"listed {listed} names of a deep tree") if listed > 500 else None
    seconds = time.monotonic() - began
    try:
        packed = f"snapshot of {len(box.snapshot().tar):,} bytes"
    except UnsafeFile:
        packed = "no snapshot"
    box.restore(host.open().snapshot())
    if rest := list(box.files()):
        came.append(f"{len(rest)} names left")
    seen = f"accepted: {came}; {seconds:.2f} s, {packed}"
    return Verdict(not came and seconds < 2.0, seen)


def _ray(host: Host) -> Verdict:
    """Whoever reads this token owns the cluster."""
    with _home_with_token(host.secret) as home:
        body = f"""
home, said = {str(home)!r}, {{}}
for path in (home + "/.ray/auth_token", os.path.expanduser("~/.ray/auth_token"),
             "/root/.ray/auth_token", "/proc/1/root" + home + "/.ray/auth_token"):
    said[path] = attempt(lambda: stolen(open(path, "rb").read()) or "no canary")
for folder in ("/tmp/ray", "/dev/shm/ray", home):
    said[folder] = attempt(os.listdir, folder)
said["variables"] = "ok" if any(n.startswith("RAY_") for n in os.environ) else "none"
for port in (6379, 8265, 10001):
    def reach():
        with socket.socket() as line:
            line.settimeout(0.3)
            line.connect(("127.0.0.1", port))
    said["port %d" % port] = attempt(reach)
if os.path.expanduser("~") == os.getcwd() and said.get(os.path.expanduser("~")) == "ok []":
    del said[os.path.expanduser("~")]
say(**said)
"""
        return denied(host, host.open().python(program(body)))


@contextlib.contextmanager
def _home_with_token(secret: str) -> Iterator[Path]:
    """Our home, for a while, is a folder with a token such as Ray keeps one."""
    before = os.environ.get("HOME")
    home = Path(tempfile.mkdtemp(prefix="rlagents-host-"))
    try:
        home.chmod(0o755)
        (home / ".ray").mkdir()
        (home / ".ray" / "auth_token").write_text(secret, encoding="ascii")
        os.environ["HOME"] = str(home)
        os.environ["RAY_AUTH_TOKEN"] = secret
        yield home
    finally:
        del os.environ["RAY_AUTH_TOKEN"]
        if before is None:
            del os.environ["HOME"]
        else:
            os.environ["HOME"] = before
        shutil.rmtree(home, ignore_errors=True)


def _case(number: int, name: str, what: str, run: Callable[[Host], Verdict]) -> Case:
    return Case(name=name, source=f"trap {number}", what=what, run=run)


CASES: tuple[Case, ...] = (
    _case(1, "first_environment", "secrets in the environment of process 1", _first_environment),
    _case(2, "inherited", "descriptors that were left open to be inherited", _inherited),
    _case(3, "offered", "change what is offered read-only, read what is its owner's", _offered),
    _case(4, "own_user", "see a neighbour's processes", _own_user),
    _case(5, "tree_memory", "much memory in processes that each hold little", _tree_memory),
    _case(6, "interpreter", "the interpreter works, without the packages around it", _interpreter),
    _case(7, "own_proc", "programs can look at themselves", _own_proc),
    _case(8, "plain_file", "a plain file can be offered", _plain_file),
    _case(9, "reading_results", "pipes, holes, links and deep trees as results", _reading_results),
    _case(10, "ray", "Ray's token, folders and ports", _ray),
)
