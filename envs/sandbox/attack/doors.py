"""Attacks on the kernel's larger doors, and on rights that a program must not have or get."""

from __future__ import annotations

import platform
from collections.abc import Callable

from rlagents.envs.sandbox.attack.case import Case, Host, Verdict
from rlagents.envs.sandbox.attack.inside import denied, program, silent, told


def _try(body: str, host: Host) -> Verdict:
    return denied(host, host.open().python(program(body)))


def _namespaces(host: Host) -> Verdict:
    body = """
said = {}
kinds = dict(user=0x10000000, mount=0x20000, net=0x40000000, pid=0x20000000, ipc=0x8000000,
             uts=0x4000000, cgroup=0x2000000, time=0x80)
def apart(name, *arguments):
    # In a child: a namespace that one gets changes what follows.
    pid = os.fork()
    if pid == 0:
        os._exit(0 if call(name, *arguments).startswith("ok") else 1)
    return "ok" if os.waitpid(pid, 0)[1] == 0 else "denied"
for kind, flag in kinds.items():
    said["unshare " + kind] = apart("unshare", flag)
    said["unshare user and " + kind] = apart("unshare", flag | 0x10000000)
for flags in (0x10000000, 0x10000000 | 0x20000):
    made = call("clone", flags | 17, 0, 0, 0, 0)
    if made == "ok 0":
        os._exit(0)
    said["clone %x" % flags] = made
words = struct.pack("8Q", 0x10000000, 0, 0, 0, 17, 0, 0, 0)
made = call("clone3", words, len(words))
if made == "ok 0":
    os._exit(0)
said["clone3"] = made
for kind in ("user", "mnt", "net", "pid", "ipc", "uts", "cgroup", "time"):
    opened = attempt(os.open, "/proc/1/ns/" + kind, os.O_RDONLY)
    if opened.startswith("ok"):
        said["setns " + kind] = apart("setns", int(opened[3:]), 0)
say(**said)
"""
    return _try(body, host)


def _mounts(host: Host) -> Verdict:
    body = """
os.makedirs("m", exist_ok=True)
say(
    tmpfs=call("mount", b"none", b"m", b"tmpfs", 0, 0),
    bind=call("mount", b"/", b"m", b"", 4096, 0),
    proc=call("mount", b"proc", b"m", b"proc", 0, 0),
    remount=call("mount", b"", b"/", b"", 32, 0),
    writable_usr=call("mount", b"", b"/usr", b"", 32 | 4096, 0),
    overlay=call("mount", b"o", b"m", b"overlay", 0, b"lowerdir=/usr"),
    umount=call("umount2", b"/proc", 2),
    umount_tmp=call("umount2", b"/tmp", 2),
    pivot_root=call("pivot_root", b"m", b"m"),
    chroot=call("chroot", b"m"),
    open_tree=call("open_tree", -100, b"/", 1),
    fsopen=call("fsopen", b"tmpfs", 0),
    fsmount=call("fsmount", 0, 0, 0),
    move_mount=call("move_mount", -100, b"/", -100, b"m", 0),
    mount_setattr=call("mount_setattr", -100, b"/usr", 0, struct.pack("4Q", 0, 1, 0, 0), 32),
)
"""
    return _try(body, host)


def _others(host: Host) -> Verdict:
    body = """
if (child := os.fork()) == 0:
    time.sleep(30)
    os._exit(0)
word = ctypes.create_string_buffer(16)
class Part(ctypes.Structure):
    _fields_ = [("base", ctypes.c_void_p), ("length", ctypes.c_size_t)]
part = Part(ctypes.addressof(word), 16)
pidfd = call("pidfd_open", child, 0)
number = int(pidfd[3:]) if pidfd.startswith("ok") else -1
said = dict(
    attach=call("ptrace", 16, child, 0, 0),
    seize=call("ptrace", 0x4206, child, 0, 0),
    trace_me=call("ptrace", 0, 0, 0, 0),
    read=call("process_vm_readv", child, ctypes.byref(part), 1, ctypes.byref(part), 1, 0),
    write=call("process_vm_writev", child, ctypes.byref(part), 1, ctypes.byref(part), 1, 0),
    compare=call("kcmp", child, os.getpid(), 0, 0, 0),
    take_descriptor=call("pidfd_getfd", number, 1, 0),
    take_of_first="none",
    advise=call("process_madvise", number, ctypes.byref(part), 1, 4, 0),
)
first = call("pidfd_open", 1, 0)
if first.startswith("ok"):
    for wanted in range(64):
        came = call("pidfd_getfd", int(first[3:]), wanted, 0)
        if came.startswith("ok"):
            said["take_of_first"] = came
os.kill(child, 9)
say(**said)
"""
    return _try(body, host)


def _large_doors(host: Host) -> Verdict:
    body = """
big = ctypes.create_string_buffer(4096)
say(
    io_uring=call("io_uring_setup", 8, big),
    bpf=call("bpf", 0, big, 120),
    keyctl=call("keyctl", 0, -3, 1),
    add_key=call("add_key", b"user", b"x", b"y", 1, -3),
    request_key=call("request_key", b"user", b"x", b"", -3),
    userfaultfd=call("userfaultfd", 0),
    userfaultfd_user=call("userfaultfd", 1),
    perf=call("perf_event_open", struct.pack("IIQ", 1, 112, 0) + bytes(96), 0, -1, -1, 0),
    by_handle=call("open_by_handle_at", -100, struct.pack("Ii", 8, 1) + bytes(8), 0),
    init_module=call("init_module", big, 16, b""),
    finit_module=call("finit_module", 0, b"", 0),
    delete_module=call("delete_module", b"x", 0),
    kexec=call("kexec_load", 0, 0, 0, 0),
    swapon=call("swapon", b"x", 0),
    reboot=call("reboot", 0, 0, 0, 0).replace("EINVAL", "ok but for its magic numbers"),
    clock=call("settimeofday", 0, 0),
    log=call("syslog", 3, big, 4096),
    acct=call("acct", b"x"),
    fanotify=call("fanotify_init", 0, 0),
    no_randomness=call("personality", 0x0040000),
    splice=call("splice", 0, 0, 1, 0, 1, 0),
    tee=call("tee", 0, 1, 1, 0),
)
"""
    return _try(body, host)


def _terminals(host: Host) -> Verdict:
    body = """
import termios
said = {}
for name, request in (("TIOCSTI", 0x5412), ("TIOCLINUX", 0x541c)):
    for high in (0, 1 << 32):
        for number in (0, 1, 2):
            found = libc.ioctl(number, ctypes.c_ulong(request | high), b"x")
            came = "ok" if found >= 0 else errno.errorcode[ctypes.get_errno()]
            said["%s %d %d" % (name, number, high > 0)] = came
said["controlling terminal"] = attempt(os.open, "/dev/tty", os.O_RDWR)
said["console"] = attempt(os.open, "/dev/console", os.O_RDWR)
try:
    ours, theirs = os.openpty()  # a terminal of its own is fine; to type into it is not
    found = libc.ioctl(theirs, ctypes.c_ulong(0x5412), b"x")
    said["own TIOCSTI"] = "ok" if found >= 0 else errno.errorcode[ctypes.get_errno()]
except OSError:
    pass
say(**said)
"""
    return _try(body, host)


def _socket_buffers(host: Host) -> Verdict:
    body = """
one, two = socket.socketpair()
said = {}
for name, option in (("SO_SNDBUF", 7), ("SO_RCVBUF", 8), ("SO_SNDBUFFORCE", 32),
                     ("SO_RCVBUFFORCE", 33)):
    def enlarge():
        before = one.getsockopt(1, 7), one.getsockopt(1, 8)
        one.setsockopt(1, option, 1 << 26)
        if (one.getsockopt(1, 7), one.getsockopt(1, 8)) == before:
            raise OSError(errno.EINVAL, "no change")
    said[name] = attempt(enlarge)
reading, writing = os.pipe()
before = fcntl.fcntl(writing, 1032)
said["F_SETPIPE_SZ"] = attempt(fcntl.fcntl, writing, 1031, 1 << 20)
say(**said)
"""
    return _try(body, host)


def _rights(host: Host) -> Verdict:
    body = """
said, sets = {}, (ctypes.c_uint32 * 6)()
head = (ctypes.c_uint32 * 2)(0x20080522, 0)
if libc.capget(head, sets) or any(sets):
    said["capabilities"] = "ok %r" % list(sets)
bounding = [n for n in range(41) if libc.prctl(23, n, 0, 0, 0) == 1]
said["bounding set"] = "ok %r" % bounding if bounding else "empty"
said["new privileges"] = "no" if libc.prctl(39, 0, 0, 0, 0) == 1 else "ok may be gained"
said["filter"] = "on" if libc.prctl(21, 0, 0, 0, 0) == 2 else "ok off"
for name, function, value in (("setuid", os.setuid, 0), ("setgid", os.setgid, 0),
                              ("setgroups", os.setgroups, [0])):
    before = (os.getuid(), os.getgid(), os.getgroups())
    came = attempt(function, value)
    said[name] = came if (os.getuid(), os.getgid(), os.getgroups()) != before else "denied"
import shutil, subprocess
shutil.copy(sys.executable, "mine")
os.chmod("mine", 0o6755)
asked = "import os; print(os.geteuid() != os.getuid() or os.getegid() != os.getgid())"
out = subprocess.run(["./mine", "-I", "-c", asked], capture_output=True, text=True).stdout
said["own setuid program"] = "ok" if "True" in out else "no effect"
said["chown"] = attempt(os.chown, "mine", 0, 0) if os.getuid() else "denied"
said["device"] = attempt(os.mknod, "disk", 0o600 | stat.S_IFBLK, os.makedev(8, 0))
made = attempt(os.mknod, "zero", 0o600 | stat.S_IFCHR, os.makedev(1, 5))
said["open own device"] = attempt(open, "zero", "rb") if made.startswith("ok") else made
said["file capability"] = attempt(os.setxattr, "mine", "security.capability",
    struct.pack("<5I", 0x02000001, 1 << 21, 0, 0, 0))
usual = ("null", "zero", "full", "random", "urandom", "tty", "ptmx", "console")
devices = []
for top, _, names in os.walk("/dev"):
    for name in names:
        path = os.path.join(top, name)
        known = top == "/dev" and name in usual or top == "/dev/pts"
        if not known and not os.path.islink(path) and os.access(path, os.R_OK | os.W_OK):
            devices.append(path)
said["devices"] = "ok %r" % devices if devices else "only the harmless"
say(**said)
"""
    return _try(body, host)


def _false_ends(host: Host) -> Verdict:
    """A result's limit is what was measured, whatever status the program ends with."""
    came = []
    for status in (152, 137, 159, 255, 128):
        box = host.open()
        result = box.python(f"import os; os._exit({status})")
        came.append(f"{status}: {result.describe()}")
        if result.limit is not None:
            return Verdict(False, f"ending with status {status} reads as {result.describe()}")
    body = """
first = call("pidfd_open", 1, 0)
for number in range(64):
    for pidfd in (first,):
        came = call("pidfd_getfd", int(first[3:]), number, 0) if first.startswith("ok") else ""
        if came.startswith("ok"):
            attempt(os.write, int(came[3:]), struct.pack("Q", 1))
    try:
        held = os.open("/proc/1/fd/%d" % number, os.O_WRONLY | os.O_NONBLOCK)
        os.write(held, struct.pack("Q", 1))
        os.write(held, b'{"exit-code": 0}\\n')
    except OSError:
        pass
time.sleep(0.2)
os._exit(7)
"""
    result = host.open().python(program(body))
    return Verdict(result.exit_status == 7, f"{'; '.join(came)}; forged: {result.describe()}")


def _old_doors(host: Host) -> Verdict:
    """The 32-bit calls have numbers of their own, which a filter may have forgotten."""
    if platform.machine() != "x86_64":
        return Verdict(True, f"{platform.machine()} has none")
    body = """
said = {}
def run(code):
    pid = os.fork()
    if pid == 0:
        at = libc.mmap(None, 4096, 7, 0x22, -1, 0)
        ctypes.memmove(at, code, len(code))
        found = ctypes.CFUNCTYPE(ctypes.c_int)(at)()
        os._exit(0 if found >= 0 else min(-found, 125))
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    return "ok" if status == 0 else "signal %d" % -status if status < 0 else errno.errorcode[status]
def old(number, first, second=0):
    # push rbx; mov eax, number; mov ebx, first; mov ecx, second; int 0x80; pop rbx; ret
    words = b"\\xb8" + struct.pack("<i", number) + b"\\xbb" + struct.pack("<I", first)
    return b"\\x53" + words + b"\\xb9" + struct.pack("<I", second) + b"\\xcd\\x80\\x5b\\xc3"
def x32(number, first):
    # mov eax, number | x32; mov edi, first; syscall; ret
    words = b"\\xb8" + struct.pack("<I", number | 0x40000000) + b"\\xbf" + struct.pack("<I", first)
    return words + b"\\x0f\\x05\\xc3"
said["getpid"] = "works" if (came := run(old(20, 0))) == "ok" else came
said["unshare"] = run(old(310, 0x10000000))
said["memfd_create"] = run(old(356, 0, 0))
said["socket netlink"] = run(old(359, 16, 3))
said["inotify_init"] = run(old(291, 0))
said["x32 unshare"] = run(x32(272, 0x10000000))
say(**said)
"""
    return _try(body, host)


def _core_dumps(host: Host) -> Verdict:
    """Start a program of root's on the host.

    A pattern that begins with a pipe does for every crash, unless the size limit is just 1.
    """
    body = """
pattern = open("/proc/sys/kernel/core_pattern").read().strip()
soft, hard = resource.getrlimit(resource.RLIMIT_CORE)
if (pid := os.fork()) == 0:
    os.kill(os.getpid(), signal.SIGSEGV)
dumped = os.WCOREDUMP(os.waitpid(pid, 0)[1])
say(pattern=pattern, limit=hard, dumped=dumped, files=os.listdir("."))
"""
    said = told(result := host.open().python(program(body)))
    if not said:
        return silent(result)
    fine = said["limit"] == 1 and not said["dumped"] and not said["files"]
    return Verdict(fine, f"{said}")


def _kernel_talk(host: Host) -> Verdict:
    """What the host's hardware and kernel say of themselves that helps an attacker."""
    body = """
said = {}
for name in ("/proc/kmsg", "/proc/kcore", "/proc/kpagecount", "/proc/kpageflags", "/proc/slabinfo",
             "/proc/timer_list", "/proc/iomem_", "/sys/kernel/debug", "/sys/kernel/tracing/trace",
             "/sys/firmware/acpi/tables", "/proc/keys_", "/proc/1/pagemap_"):
    if os.path.isdir(name):
        came = attempt(os.listdir, name)
        said[name] = "empty" if came == "ok []" else came
    else:
        came = attempt(lambda: open(name, "rb").read(64))
        said[name] = "empty" if came == "ok b''" else came
first = attempt(lambda: open("/proc/kallsyms").readline().split()[0])
said["addresses"] = first if first.strip("ok '0") else "hidden"
say(**said)
"""
    return _try(body, host)


def _case(name: str, what: str, run: Callable[[Host], Verdict], source: str = "1.3") -> Case:
    return Case(name=name, source=source, what=what, run=run)


CASES: tuple[Case, ...] = (
    _case("namespaces", "make and enter namespaces", _namespaces),
    _case("mounts", "mount, unmount, change the root", _mounts),
    _case("other_processes", "trace and read other processes, take their descriptors", _others),
    _case("large_doors", "io_uring, BPF, keys, page faults, modules, clocks", _large_doors),
    _case("terminals", "type into a terminal", _terminals, "ours"),
    _case("buffers", "enlarge buffers of sockets and pipes", _socket_buffers, "ours"),
    _case("rights", "capabilities, setuid programs, devices", _rights, "ours"),
    _case("false_ends", "a status that reads as a limit, or is forged", _false_ends, "ours"),
    _case("old_doors", "the system calls of 32-bit programs", _old_doors, "ours"),
    _case("core_dumps", "crash, to start the host's handler of crashes", _core_dumps, "ours"),
    _case("kernel_talk", "logs, tables and addresses of the kernel", _kernel_talk, "ours"),
)
