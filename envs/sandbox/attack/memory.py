"""Attacks on memory, above all on memory that no process's resident size shows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from rlagents.envs.sandbox.attack.case import Case, Host, Verdict
from rlagents.envs.sandbox.attack.inside import program, told
from rlagents.envs.sandbox.attack.measure import NOISE_MB, Watch
from rlagents.envs.sandbox.result import Result

LIMIT_MB = 128
"""What the attacked sandboxes allow; the attacks try for more than a gibibyte."""
_OWN_MB = 64
"""Workspace, /tmp and /dev/shm of an attacked sandbox, which do not count as its memory."""


def taken(body: str, host: Host, limit_mb: int = LIMIT_MB, **settings: Any) -> tuple[int, Result]:
    """Memory in MiB that the machine lost to a program, and how the program ended.

    When much was lost it is tried again and the lesser counts: another program of the machine can
    have taken it once.
    """
    least: tuple[int, Result] | None = None
    for _ in range(2):
        box = host.open(memory_mb=limit_mb, workspace_mb=32, tmp_mb=16, wall_s=6.0, **settings)
        with Watch() as watch:
            result = box.python(program(body))
        box.close()
        if least is None or watch.taken_mb < least[0]:
            least = (watch.taken_mb, result)
        if least[0] <= limit_mb + _OWN_MB + NOISE_MB:
            break
    assert least is not None
    return least


def bounded(body: str, host: Host, limit_mb: int = LIMIT_MB, **settings: Any) -> Verdict:
    """The verdict on a program that tries for more than a gibibyte."""
    lost, result = taken(body, host, limit_mb, **settings)
    said = f"; it says {told(result)}" if told(result) else ""
    seen = f"took {lost} MiB with a limit of {limit_mb}, {result.describe()}{said}"
    return Verdict(lost <= limit_mb + _OWN_MB + NOISE_MB, seen)


def _one(host: Host) -> Verdict:
    return bounded("held = []\nwhile len(held) < 48:\n    held.append(b'x' * (64 * MIB))\n", host)


def _children(host: Host) -> Verdict:
    body = """
for _ in range(12):
    if os.fork() == 0:
        held = b"x" * (200 * MIB)
        time.sleep(5)
        os._exit(0)
time.sleep(5)
"""
    return bounded(body, host, 256)


def _unreadable(host: Host) -> Verdict:
    """Processes that forbid others to look at them (trap 7 turned around)."""
    body = """
libc.prctl(4, 0, 0, 0, 0)
for _ in range(12):
    if os.fork() == 0:
        libc.prctl(4, 0, 0, 0, 0)
        held = b"x" * (120 * MIB)
        time.sleep(4)
        os._exit(0)
time.sleep(4)
"""
    return bounded(body, host)


def _shared_then_dropped(opened: str, host: Host) -> Verdict:
    """Pages of a shared mapping stay when the process that touched them lets go of them."""
    body = f"""
whole = 1400 * MIB
made = libc.mmap(None, whole, 3, {opened}, 0)
if made in (None, ctypes.c_void_p(-1).value):
    say(error=errno.errorcode[ctypes.get_errno()])
    raise SystemExit
for at in range(0, whole, 8 * MIB):
    ctypes.memset(made + at, 1, 8 * MIB)
    libc.madvise(made + at, 8 * MIB, mmap.MADV_DONTNEED)
    say(mib=at // MIB)
time.sleep(0.2)
"""
    # Addresses are bounded too: a limit that leaves room for the mapping.
    return bounded(body, host, 256)


def _shared_anonymous(host: Host) -> Verdict:
    return _shared_then_dropped("0x21, -1", host)


def _shared_zero(host: Host) -> Verdict:
    return _shared_then_dropped("0x01, os.open('/dev/zero', os.O_RDWR)", host)


def _memory_files(host: Host) -> Verdict:
    body = """
held = 0
for number in range(20):
    made = call("memfd_create", b"x%d" % number, 0)
    if not made.startswith("ok"):
        break
    try:
        for _ in range(64):
            held += os.write(int(made[3:]), b"x" * MIB)
    except OSError:
        pass
secret = call("memfd_secret", 0)
segments = 0
libc.shmat.restype = ctypes.c_void_p
for number in range(20):
    made = call("shmget", 0, 64 * MIB, 0o1600)
    if not made.startswith("ok"):
        break
    at = libc.shmat(int(made[3:]), None, 0)
    ctypes.memset(at, 1, 64 * MIB)
    libc.shmdt(ctypes.c_void_p(at))
    libc.shmctl(int(made[3:]), 0, None)
    segments += 64
say(memfd_mib=held // MIB, memfd_secret=secret, segments_mib=segments)
time.sleep(0.2)
"""
    return bounded(body, host)


def _grow_between_looks(host: Host) -> Verdict:
    """One memory that hops from process to process faster than anybody reads a list of them."""
    body = """
if os.uname().machine != "x86_64":
    say(skipped=os.uname().machine)
    raise SystemExit
whole = 1200 * MIB
data = libc.mmap(None, whole, 3, 0x22, -1, 0)
# loop: clone(CLONE_VM | SIGCHLD); the parent exits; the child touches 32 pages and loops.
code = bytes.fromhex(
    "48bb" + struct.pack("<Q", data).hex() + "49bc" + struct.pack("<Q", data + whole).hex()
    + "b838000000" "bf11010000" "31f6" "31d2" "4d31d2" "4d31c0" "0f05"
    + "85c0" "7409" "b83c000000" "31ff" "0f05"
    + "b920000000" "4c39e3" "730e" "c60301" "4881c300100000" "ffc9" "75ed" "ebc3"
)
at = libc.mmap(None, 4096, 7, 0x22, -1, 0)
ctypes.memmove(at, code, len(code))
if os.fork() == 0:
    ctypes.CFUNCTYPE(None)(at)()
    os._exit(0)
time.sleep(4)
"""
    return bounded(body, host, 256)


def _huge_pages(host: Host) -> Verdict:
    body = """
held = 0
while held < 1024:
    made = libc.mmap(None, 2 * MIB, 3, 0x40022, -1, 0)
    if made in (None, ctypes.c_void_p(-1).value):
        break
    ctypes.memset(made, 1, 2 * MIB)
    held += 2
say(mib=held)
"""
    result = host.open(memory_mb=LIMIT_MB).python(program(body))
    held = told(result).get("mib", -1)
    return Verdict(held == 0, f"{held} MiB of the machine's reserved huge pages")


def _areas(host: Host) -> Verdict:
    """Each piece of a process's address space is a record of the kernel's; 65,530 are allowed."""
    body = """
for _ in range(20):
    if os.fork() == 0:
        made = libc.mmap(None, 260 * MIB, 0, 0x22, -1, 0)
        for number in range(0, 65000, 2):
            if libc.mprotect(made + 4096 * number, 4096, 1):
                break
        time.sleep(1)
        os._exit(0)
time.sleep(1.5)
"""
    return bounded(body, host, 512)


def _case(name: str, what: str, run: Callable[[Host], Verdict], source: str = "ours") -> Case:
    return Case(name=name, source=source, what=what, run=run)


CASES: tuple[Case, ...] = (
    _case("memory_bomb", "one process takes 3 GiB", _one, "1.3"),
    _case("memory_children", "12 children take 200 MiB each", _children, "1.3"),
    _case("memory_unreadable", "processes that nobody may look at", _unreadable),
    _case("memory_shared", "a shared mapping, each page let go of once written", _shared_anonymous),
    _case("memory_zero", "the same through /dev/zero", _shared_zero),
    _case("memory_files", "memfd and System V segments", _memory_files),
    _case("memory_hopping", "memory that hops between short-lived processes", _grow_between_looks),
    _case("memory_huge_pages", "the machine's reserved huge pages", _huge_pages),
    _case("memory_areas", "65,000 pieces of address space in 20 processes", _areas),
)
