"""Attacks on memory, above all on memory that no process's resident size shows."""

from __future__ import annotations

from rlagents.envs.sandbox.attack.case import Case, Host, Verdict
from rlagents.envs.sandbox.attack.inside import program, told
from rlagents.envs.sandbox.attack.measure import NOISE_MB, Watch
from rlagents.envs.sandbox.result import Result

LIMIT_MB = 128
"""What the attacked sandboxes allow; the attacks try for more than a gibibyte."""
_OWN_MB = 64
"""Workspace, /tmp and /dev/shm of an attacked sandbox, which do not count as its memory."""


def _taken(body: str, host: Host, limit_mb: int = LIMIT_MB) -> tuple[int, Result]:
    """Memory in MiB that the machine lost to a program, and how the program ended.

    When much was lost it is tried again and the lesser counts: another program of the machine can
    have taken it once.
    """
    least: tuple[int, Result] | None = None
    for _ in range(2):
        box = host.open(memory_mb=limit_mb, workspace_mb=32, tmp_mb=16, wall_s=6.0)
        with Watch() as watch:
            result = box.python(program(body))
        box.close()
        if least is None or watch.taken_mb < least[0]:
            least = (watch.taken_mb, result)
        if least[0] <= limit_mb + _OWN_MB + NOISE_MB:
            break
    assert least is not None
    return least


def _bounded(body: str, host: Host, limit_mb: int = LIMIT_MB) -> Verdict:
    taken, result = _taken(body, host, limit_mb)
    said = f"; it says {told(result)}" if told(result) else ""
    seen = f"took {taken} MiB with a limit of {limit_mb}, {result.describe()}{said}"
    return Verdict(taken <= limit_mb + _OWN_MB + NOISE_MB, seen)


def _one(host: Host) -> Verdict:
    return _bounded("held = []\nwhile len(held) < 48:\n    held.append(b'x' * (64 * MIB))\n", host)


def _children(host: Host) -> Verdict:
    body = """
for _ in range(12):
    if os.fork() == 0:
        held = b"x" * (200 * MIB)
        time.sleep(5)
        os._exit(0)
time.sleep(5)
"""
    return _bounded(body, host, 256)


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
    return _bounded(body, host)


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
    return _bounded(body, host, 256)


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
    return _bounded(body, host)


_SOCKETS = """
def fill(to):
    sent = 0
    to.setblocking(False)
    try:
        while True:
            sent += to.send(b"x" * 65536)
    except OSError:
        return sent
"""


def _socket_buffers(host: Host) -> Verdict:
    """Both ways of many pairs, in many processes: nothing of it is anybody's resident memory."""
    body = (
        _SOCKETS
        + """
for _ in range(40):
    if os.fork() == 0:
        pairs = []
        try:
            while len(pairs) < 110:
                pairs.append(socket.socketpair())
                for end in pairs[-1]:
                    fill(end)
        except OSError:
            pass
        time.sleep(4)
        os._exit(0)
time.sleep(4)
"""
    )
    return _bounded(body, host)


def _waiting_connections(host: Host) -> Verdict:
    """What was sent to a connection that nobody has accepted stays, though the sender is gone."""
    body = (
        _SOCKETS
        + """
listening = socket.socket(socket.AF_UNIX)
listening.bind("waiting.sock")
listening.listen(4096)
sent = count = 0
try:
    while count < 8000:
        with socket.socket(socket.AF_UNIX) as caller:
            caller.setblocking(False)
            caller.connect("waiting.sock")
            sent += fill(caller)
        count += 1
except OSError:
    pass
say(connections=count, mib=sent // MIB)
time.sleep(0.2)
"""
    )
    return _bounded(body, host)


def _waiting_datagrams(host: Host) -> Verdict:
    """A queue holds the messages of many senders that are gone."""
    body = """
for part in range(40):
    if os.fork() == 0:
        held = []
        try:
            for number in range(14):
                name = "d%d.%d" % (part, number)
                held.append(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM))
                held[-1].bind(name)
                for _ in range(11):
                    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
                        sender.setblocking(False)
                        sender.sendto(b"x" * 190000, name)
        except OSError:
            os._exit(0)
        time.sleep(3)
        os._exit(0)
try:
    while True:
        os.wait()
except ChildProcessError:
    pass
"""
    return _bounded(body, host)


def _descriptors_in_flight(host: Host) -> Verdict:
    """Full sockets sent away through sockets: no process has them open any more."""
    body = (
        _SOCKETS
        + """
line, far = socket.socketpair()
keep, sent, count = [line, far], 0, 0
try:
    while count < 4000:
        pair = socket.socketpair()
        for end in pair:
            sent += fill(end)
        if count % 100 == 99:
            line, far = socket.socketpair()
            keep += [line, far]
        socket.send_fds(line, [b"x"], [end.fileno() for end in pair])
        for end in pair:
            end.close()
        count += 1
except OSError as error:
    pass
say(pairs=count, mib=sent // MIB)
time.sleep(0.2)
"""
    )
    return _bounded(body, host)


def _pipes_of_huge_pages(host: Host) -> Verdict:
    """A byte in a pipe keeps the whole page that it was given from, of 2 MiB if need be."""
    body = """
class Part(ctypes.Structure):
    _fields_ = [("base", ctypes.c_void_p), ("length", ctypes.c_size_t)]

huge, pipes, held, came = 2 * MIB, [], 0, "none"
for _ in range(48):
    try:
        pipes.append(os.pipe())
    except OSError:
        break
    for _ in range(16):
        made = libc.mmap(None, 2 * huge, 3, 0x22, -1, 0)
        at = (made + huge - 1) // huge * huge
        libc.madvise(at, huge, 14)
        ctypes.memset(at, 1, huge)
        came = call("vmsplice", pipes[-1][1], ctypes.byref(Part(at, 1)), 1, 0)
        libc.munmap(made, 2 * huge)
        held += 2 * came.startswith("ok")
    if not came.startswith("ok"):
        break
say(mib=held, vmsplice=came)
time.sleep(0.2)
"""
    return _bounded(body, host)


def _pages_in_sockets(host: Host) -> Verdict:
    """A byte in a socket keeps the page of the file that it was spliced from."""
    body = """
source = os.open("pages", os.O_RDWR | os.O_CREAT)
reading, writing = os.pipe()
pairs, pages, error, stop = [], 0, None, time.time() + 4.5
try:
    while len(pairs) < 110 and time.time() < stop:
        pairs.append(socket.socketpair())
        end = pairs[-1][0]
        end.setblocking(False)
        while True:
            os.ftruncate(source, 0)
            os.pwrite(source, b"x" * 65536, 0)
            for number in range(16):
                os.splice(source, writing, 1, offset_src=4096 * number)
            try:
                moved = os.splice(reading, end.fileno(), 16, flags=2)
            except BlockingIOError:
                moved = 0
            pages += moved
            if moved < 16:
                os.read(reading, 16 - moved)
                break
except OSError as failed:
    error = errno.errorcode[failed.errno]
say(pages=pages, mib=pages * 4096 // MIB, error=error)
time.sleep(0.2)
"""
    return _bounded(body, host)


def _pages_by_sendfile(host: Host) -> Verdict:
    body = """
source = os.open("pages", os.O_RDWR | os.O_CREAT)
pairs, pages, error = [], 0, None
try:
    while len(pairs) < 14:
        pairs.append(socket.socketpair())
        end = pairs[-1][0]
        end.setblocking(False)
        try:
            while True:
                os.ftruncate(source, 0)
                os.pwrite(source, b"x" * 4096, 0)
                pages += os.sendfile(end.fileno(), source, 0, 1)
        except BlockingIOError:
            pass
except OSError as failed:
    error = errno.errorcode[failed.errno]
say(pages=pages, mib_a_process=pages * 4096 // MIB, error=error)
"""
    result = host.open(memory_mb=LIMIT_MB).python(program(body))
    pages = told(result).get("pages", 0)
    seen = f"{pages} pages held by {pages} bytes in uncounted sockets; {result.describe()}"
    return Verdict(pages < 2000, seen)


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
    return _bounded(body, host, 256)


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
    return _bounded(body, host, 512)


def _aio(host: Host) -> Verdict:
    body = """
context, made = ctypes.c_ulong(0), 0
for events in (4000, 100, 1):
    while made < 200:
        context.value = 0
        if not call("io_setup", events, ctypes.byref(context)).startswith("ok"):
            break
        made += 1
say(contexts=made)
"""
    result = host.open().python(program(body))
    made = told(result).get("contexts", -1)
    return Verdict(made == 0, f"{made} queues, of a number that all programs of the machine share")


def _inotify(host: Host) -> Verdict:
    body = """
made = 0
while made < 1000 and call("inotify_init1", 0).startswith("ok"):
    made += 1
say(queues=made)
"""
    result = host.open().python(program(body))
    made = told(result).get("queues", -1)
    return Verdict(made == 0, f"{made} queues, of 128 that all programs of a user share")


def _case(name: str, what: str, run: object, source: str = "ours") -> Case:
    assert callable(run)
    return Case(name=name, source=source, what=what, run=run)


CASES: tuple[Case, ...] = (
    _case("memory_bomb", "one process takes 3 GiB", _one, "1.3"),
    _case("memory_children", "12 children take 200 MiB each", _children, "1.3"),
    _case("memory_unreadable", "processes that nobody may look at", _unreadable),
    _case("memory_shared", "a shared mapping, each page let go of once written", _shared_anonymous),
    _case("memory_zero", "the same through /dev/zero", _shared_zero),
    _case("memory_files", "memfd and System V segments", _memory_files),
    _case("memory_sockets", "full buffers of 4,400 socket pairs", _socket_buffers),
    _case(
        "memory_waiting",
        "connections never accepted, full, their senders gone",
        _waiting_connections,
    ),
    _case("memory_datagrams", "queued messages of senders that are gone", _waiting_datagrams),
    _case("memory_in_flight", "full sockets sent away through sockets", _descriptors_in_flight),
    _case("memory_pipes", "bytes of huge pages in pipes", _pipes_of_huge_pages),
    _case("memory_spliced", "pages of deleted files in sockets", _pages_in_sockets),
    _case("memory_sendfile", "the same by sendfile", _pages_by_sendfile),
    _case("memory_hopping", "memory that hops between short-lived processes", _grow_between_looks),
    _case("memory_huge_pages", "the machine's reserved huge pages", _huge_pages),
    _case("memory_areas", "65,000 pieces of address space in 20 processes", _areas),
    _case("aio", "use up the machine's asynchronous requests", _aio),
    _case("inotify", "use up the user's notification queues", _inotify),
)
