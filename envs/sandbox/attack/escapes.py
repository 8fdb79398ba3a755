"""Attacks that reach for what is outside: sockets, files, processes of the host."""

from __future__ import annotations

import os
from collections.abc import Callable

from rlagents.envs.sandbox.attack.case import Case, Host, Verdict
from rlagents.envs.sandbox.attack.inside import denied, program, silent, told
from rlagents.envs.sandbox.attack.theft import read
from rlagents.envs.sandbox.files import UnsafeFile


def _host_sockets(host: Host) -> Verdict:
    body = f"""
unix, port = {host.unix_path!r}, {host.port}
def reach(family, kind, address, data=b"?"):
    with socket.socket(family, kind) as line:
        line.settimeout(0.5)
        line.connect(address)
        line.send(data)
        return stolen(line.recv(200))
def without_connecting(address):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as line:
        line.settimeout(0.5)
        line.sendto(b"?", address)
        return stolen(line.recv(200))
tcp, udp, inet = socket.SOCK_STREAM, socket.SOCK_DGRAM, socket.AF_INET
say(
    tcp=attempt(reach, inet, tcp, ("127.0.0.1", port)),
    tcp_any=attempt(reach, inet, tcp, ("0.0.0.0", port)),
    tcp_v6=attempt(reach, socket.AF_INET6, tcp, ("::ffff:127.0.0.1", port)),
    udp=attempt(reach, inet, udp, ("127.0.0.1", port)),
    udp_loose=attempt(without_connecting, ("127.0.0.1", port)),
    path=attempt(reach, socket.AF_UNIX, tcp, unix),
    path_by_proc=attempt(reach, socket.AF_UNIX, tcp, "/proc/1/root" + unix),
    abstract=attempt(reach, socket.AF_UNIX, tcp, "\\0" + {host.abstract!r}),
)
"""
    return read(body, host)


def _host_sockets_from_loopback(host: Host) -> Verdict:
    """With a loopback of their own, programs have sockets, but still reach nobody outside."""
    return _both(host, _host_sockets_with(host, network="loopback"), _outside(host, "loopback"))


def _host_sockets_with(host: Host, network: str) -> Verdict:
    body = f"""
said = {{}}
for name, kind in (("tcp", socket.SOCK_STREAM), ("udp", socket.SOCK_DGRAM)):
    with socket.socket(socket.AF_INET, kind) as line:
        line.settimeout(0.5)
        def reach():
            line.connect(("127.0.0.1", {host.port}))
            line.send(b"?")
            return stolen(line.recv(200))
        said[name] = attempt(reach)
say(**said)
"""
    return read(body, host, network=network)


def _outside(host: Host, network: str = "none") -> Verdict:
    """Addresses reserved for documentation: nobody is there, so `ok` would be a way out."""
    body = """
def reach(kind, address):
    with socket.socket(socket.AF_INET, kind) as line:
        line.settimeout(0.3)
        line.connect(address)
        line.send(b"?")
try:
    interfaces = [line.split(":")[0].strip() for line in open("/proc/net/dev").readlines()[2:]]
except OSError:
    interfaces = []
say(
    tcp=attempt(reach, socket.SOCK_STREAM, ("192.0.2.1", 80)),
    udp=attempt(reach, socket.SOCK_DGRAM, ("192.0.2.1", 53)),
    name=attempt(socket.getaddrinfo, "name.invalid", 80),
    interfaces="ok %r" % interfaces if set(interfaces) - {"lo"} else "none but lo",
)
"""
    return read(body, host, network=network)


def _both(host: Host, *verdicts: Verdict) -> Verdict:
    del host
    seen = "; ".join(v.evidence for v in verdicts)
    return Verdict(all(v.contained for v in verdicts), seen)


def _families(host: Host) -> Verdict:
    body = """
said, two = {}, (ctypes.c_int * 2)()
for family in range(3, 64):
    for kind in (1, 2, 3, 5):
        found = libc.socket(family, kind, 0)
        if found >= 0:
            said["family %d" % family] = "ok"
            os.close(found)
for name, family, kind in (("raw", 2, 3), ("raw v6", 10, 3), ("packet", 17, 3), ("netlink", 16, 3),
                           ("kernel crypto", 38, 5), ("vsock", 40, 1)):
    found = libc.socket(family, kind, 255 if kind == 3 and family in (2, 10) else 0)
    said[name] = "ok" if found >= 0 else errno.errorcode[ctypes.get_errno()]
for family in (2, 10, 16, 17, 30, 40):
    # "not supported for pairs" comes from the family's own code: the kernel was reached.
    found = libc.socketpair(family, 1, 0, two)
    came = errno.errorcode[ctypes.get_errno()]
    said["pair of %d" % family] = "ok: " + came if found == 0 or came == "EOPNOTSUPP" else came
say(**said)
"""
    return read(body, host)


def _write_outside(host: Host) -> Verdict:
    """The canaries are looked at from outside too, after every case."""
    body = f"""
def write(path, data=b""):
    # Only what is ours to be spoiled is written to; opening the rest says enough.
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND)
    try:
        os.write(descriptor, data) if data else None
    finally:
        os.close(descriptor)
def make(path):
    os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL))
    os.unlink(path)
said = dict(canary=attempt(write, {host.writable_path!r}, b"attacked"))
said["beside it"] = attempt(make, os.path.dirname({host.writable_path!r}) + "/new")
for folder in ("", "/etc", "/usr", "/usr/bin", "/dev", "/var", "/root", "/home", "/run", "/mnt",
               "/opt", "/boot", "/sys", "/srv", "/media", sys.base_prefix,
               os.path.dirname(os.__file__)):
    said[folder + "/"] = attempt(make, folder + "/rlagents-attack")
for path in ("/etc/passwd", "/etc/ld.so.cache", "/usr/bin/env", sys.executable, os.__file__,
             "/proc/sys/kernel/core_pattern", "/proc/sysrq-trigger", "/proc/sys/vm/drop_caches",
             "/proc/sys/kernel/hostname", "/proc/1/oom_score_adj", "/proc/self/uid_map",
             "/proc/1/uid_map", "/proc/self/setgroups", "/sys/fs/cgroup/cgroup.procs",
             "/proc/sys/net/core/somaxconn", "/proc/sys/net/unix/max_dgram_qlen"):
    said[path] = attempt(write, path)
said["never killed"] = attempt(write, "/proc/self/oom_score_adj", b"-900")
say(**said)
"""
    return read(body, host)


def _outlive_in_files(host: Host) -> Verdict:
    """Leave a file where the host, or another sandbox, would find it."""
    name = f"left-{os.urandom(8).hex()}"
    folders = ("/tmp", "/var/tmp", "/dev/shm", "/dev/mqueue", "/run", "/run/lock", "/dev")
    body = f"""
said = {{}}
for folder in {folders!r}:
    said[folder] = attempt(lambda: open(folder + "/{name}", "w").close())
say(**said)
"""
    said = told(result := host.open().python(program(body)))
    if not said:
        return silent(result)
    outside = [folder for folder in folders if os.path.exists(f"{folder}/{name}")]
    again = "; ".join(f"test -e {folder}/{name} && echo {folder}" for folder in folders)
    inside = host.open().run(again).stdout.split()
    for folder in outside:
        os.unlink(f"{folder}/{name}")
    made = [folder for folder, came in said.items() if came.startswith("ok")]
    seen = f"made in {made}; on the host: {outside}; in another sandbox: {inside}"
    return Verdict(not outside and not inside, seen)


def _signals(host: Host) -> Verdict:
    """Whether the victim lives and runs is looked at from outside, after every case."""
    body = f"""
victim = {host.victim}
said = {{"launcher": attempt(os.kill, {os.getpid()}, 0)}}
for name, pid in (("victim", victim), ("group of the victim", -victim)):
    for number in (signal.SIGSTOP, signal.SIGKILL):
        said["%s %s" % (signal.Signals(number).name, name)] = attempt(os.kill, pid, number)
opened = call("pidfd_open", victim, 0)
said["pidfd"] = opened
if opened.startswith("ok"):
    said["by pidfd"] = call("pidfd_send_signal", int(opened[3:]), 9, 0, 0)
said["owner of a pipe"] = attempt(fcntl.fcntl, 1, fcntl.F_SETOWN, victim)
# The parent and process 1 inside belong to the sandbox and may be signalled: nothing may come
# of it but its end.
attempt(os.kill, 1, signal.SIGSTOP)
attempt(os.kill, 1, signal.SIGKILL)
say(**said)
"""
    result = host.open().python(program(body))
    said = told(result)
    if not said and result.exit_status is None:
        return Verdict(True, f"it ended itself: {result.describe()}")
    return denied(host, result)


def _signal_all(host: Host) -> Verdict:
    body = """
for number in (signal.SIGTERM, signal.SIGKILL):
    attempt(os.kill, -1, number)
attempt(os.kill, 0, signal.SIGKILL)
attempt(os.kill, os.getppid(), signal.SIGKILL)
"""
    result = host.open().python(program(body))
    return Verdict(result.exit_status != 0 or result.ok, f"it {result.describe()}")


def _links_for_us(host: Host) -> Verdict:
    """Have the host read or write through a link in the workspace."""
    box = host.open()
    box.run(
        f"ln -s {host.secret_path} answer; ln -s {os.path.dirname(host.secret_path)} folder; "
        f"ln -s {host.writable_path} result; mkdir real; ln -s real alias; mkfifo pipe; "
        "ln real/none hard 2>/dev/null; echo x > one; ln one two"
    )
    came = []
    for path in (
        "answer",
        "folder/answer.txt",
        "../answer",
        "/etc/passwd",
        "pipe",
        "one",
        "alias/x",
    ):
        try:
            came.append(f"read {path}: {len(box.read(path))} bytes")
        except (UnsafeFile, OSError):
            continue
    for path in ("folder/new", "alias/new", "../new", "real/../../new"):
        try:
            box.write(path, "attacked")
            came.append(f"wrote {path}")
        except (UnsafeFile, OSError):
            continue
    box.write("result", "replaced")  # the link itself gives way to a file
    listed = {entry.path: entry.kind for entry in box.files()}
    if any(path.startswith(("folder/", "alias/")) for path in listed):
        came.append("a listing went through a link")
    seen = "; ".join(came) or f"every way refused, {len(listed)} names listed"
    return Verdict(not came, seen)


def _case(name: str, what: str, run: Callable[[Host], Verdict], source: str = "1.3") -> Case:
    return Case(name=name, source=source, what=what, run=run)


CASES: tuple[Case, ...] = (
    _case("host_sockets", "TCP, UDP, UNIX path and abstract sockets of the host", _host_sockets),
    _case("host_sockets_loopback", "the same with a loopback", _host_sockets_from_loopback, "ours"),
    _case("outside", "TCP, UDP and names outside", _outside),
    _case("families", "raw, packet, netlink and all other kinds of sockets", _families),
    _case("write_outside", "write to files of the host and switches of the kernel", _write_outside),
    _case("outlive_in_files", "leave a file for the next run", _outlive_in_files, "ours"),
    _case("signals", "kill and stop a process of the host", _signals),
    _case("signal_all", "kill -1, the group, the parent", _signal_all),
    _case("links_for_us", "have the host follow a link in the workspace", _links_for_us, "R7"),
)
