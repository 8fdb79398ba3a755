"""Attacks that look for the secret: by paths, links, processes, and everything else."""

from __future__ import annotations

from collections.abc import Callable

from rlagents.envs.sandbox.attack.case import Case, Host, Verdict
from rlagents.envs.sandbox.attack.inside import denied, program


def read(body: str, host: Host, **settings: object) -> Verdict:
    """The verdict on a program none of whose attempts may work."""
    return denied(host, host.open(**settings).python(program(body)))


_TELL = """
def tell(path):
    return attempt(lambda: stolen(open(path, "rb").read(1 << 20)) or "no secret")
"""


def _directly(host: Host) -> Verdict:
    paths = (host.secret_path, host.private_path, host.writable_path)
    body = _TELL + f"say(**{{path: tell(path) for path in {paths!r}}})"
    return read(body, host)


def _by_links(host: Host) -> Verdict:
    body = (
        _TELL
        + f"""
secret, folder = {host.secret_path!r}, os.path.dirname({host.secret_path!r})
said = {{}}
attempt(os.symlink, secret, "link")
attempt(os.symlink, folder, "folder")
attempt(os.symlink, "/proc/self/root" + secret, "magic")
attempt(os.symlink, "../" * 30 + secret.lstrip("/"), "up")
for name in ("link", "folder/answer.txt", "magic", "up"):
    said[name] = tell(name)
made = attempt(os.link, secret, "hard")
said["hard link"] = tell("hard") if made.startswith("ok") else made
made = attempt(os.rename, secret, "moved")
said["moved"] = tell("moved") if made.startswith("ok") else made
say(**said)
"""
    )
    return read(body, host)


def _through_proc(host: Host) -> Verdict:
    body = (
        _TELL
        + f"""
secret, said = {host.secret_path!r}, {{}}
for pid in sorted(p for p in os.listdir("/proc") if p.isdigit()):
    if int(pid) == os.getpid():
        continue
    for way in ("root", "cwd/../../../../../..", "cwd"):
        path = "/proc/%s/%s%s" % (pid, way, secret)
        if (came := tell(path)).startswith("ok"):
            said[path] = came
    for number in (attempt(os.listdir, "/proc/%s/fd" % pid)[3:] or "").strip("[]").split(", "):
        path = "/proc/%s/fd/%s" % (pid, number.strip("'"))
        try:
            kind = os.stat(path).st_mode
        except OSError:
            continue
        if stat.S_ISDIR(kind) and tell(path + "/.." * 20 + secret).startswith("ok"):
            said[path] = "ok"
        if stat.S_ISREG(kind) and "secret" not in tell(path) and tell(path).startswith("ok"):
            said[path] = tell(path)
said["looked through"] = "%d processes" % sum(p.isdigit() for p in os.listdir("/proc"))
say(**said)
"""
    )
    return read(body, host)


def _environments(host: Host) -> Verdict:
    body = """
said = {}
for pid in os.listdir("/proc"):
    if pid.isdigit():
        for name in ("environ", "cmdline", "comm", "stack", "task/%s/environ" % pid):
            path = "/proc/%s/%s" % (pid, name)
            found = attempt(lambda: stolen(open(path, "rb").read()))
            if found.startswith("ok") and found != "ok []":
                said[path] = found
said["own"] = "ok " + repr(found) if (found := stolen(repr(os.environ).encode())) else "clean"
say(**said)
"""
    return read(body, host)


def _memories(host: Host) -> Verdict:
    """The secret stands in our memory too."""
    body = """
mine, said, read = os.getpid(), {"regions": 0}, 0
for pid in [p for p in os.listdir("/proc") if p.isdigit() and int(p) != mine]:
    try:
        areas = open("/proc/%s/maps" % pid).read().splitlines()
        memory = open("/proc/%s/mem" % pid, "rb", 0)
    except OSError as error:
        said["memory of " + pid] = errno.errorcode[error.errno]
        continue
    for line in areas[:400]:
        low, high = (int(x, 16) for x in line.split()[0].split("-"))
        try:
            memory.seek(low)
            found = stolen(memory.read(min(high - low, 8 * MIB)))
        except (OSError, ValueError, OverflowError):
            continue
        said["regions"] += 1
        if found:
            said["memory of " + pid] = "ok %r" % found
for name in ("/dev/mem", "/dev/kmem", "/proc/kcore", "/dev/port"):
    said[name] = attempt(lambda: len(open(name, "rb").read(16)))
say(**said)
"""
    return read(body, host)


def _walk(host: Host) -> Verdict:
    body = """
found, looked, stop = {}, 0, time.time() + 6
heavy = tuple(os.path.realpath(p) for p in ("/usr/lib", "/usr/share", "/usr/include", "/usr/bin",
    "/usr/sbin", "/usr/local/lib", "/usr/src", "/sys", sys.base_prefix + "/lib"))
for top, below, files in os.walk("/"):
    below[:] = [b for b in below if not os.path.realpath(os.path.join(top, b)).startswith(heavy)]
    if top == "/proc":
        below[:] = ["self", "1"]
    if top.count("/") > 12 or time.time() > stop:
        below[:] = []
    for name in files:
        path = os.path.join(top, name)
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
            with os.fdopen(descriptor, "rb", 0) as file:
                if stat.S_ISREG(os.fstat(descriptor).st_mode):
                    looked += 1
                    if stolen(file.read(1 << 16) or b""):
                        found[path] = "ok read"
        except OSError:
            pass
say(looked=looked, **found)
"""
    return read(body, host, wall_s=20.0)


def _case(name: str, what: str, run: Callable[[Host], Verdict], source: str = "1.3") -> Case:
    return Case(name=name, source=source, what=what, run=run)


CASES: tuple[Case, ...] = (
    _case("secret_directly", "read the hidden answer by its path", _directly),
    _case("secret_by_links", "by symbolic and hard links", _by_links),
    _case("secret_by_proc", "through /proc/1/root and every other process", _through_proc),
    _case("secret_in_environments", "in the environments of processes", _environments),
    _case("secret_in_memories", "in the memories of processes", _memories),
    _case("secret_by_walking", "by a walk of everything that can be reached", _walk),
)
