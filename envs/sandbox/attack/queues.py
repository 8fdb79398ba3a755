"""Attacks on what waits in the kernel: bytes in sockets and pipes, requests, notifications."""

from __future__ import annotations

from collections.abc import Callable

from rlagents.envs.sandbox.attack.case import Case, Host, Verdict
from rlagents.envs.sandbox.attack.inside import program, told
from rlagents.envs.sandbox.attack.memory import LIMIT_MB, bounded

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
    return bounded(body, host)


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
    return bounded(body, host)


def _connections(host: Host) -> Verdict:
    """The same over a loopback, where each connection holds mebibytes."""
    body = (
        _SOCKETS
        + """
listening = socket.socket()
listening.bind(("127.0.0.1", 0))
listening.listen(1000)
sent = count = 0
try:
    while count < 400:
        with socket.create_connection(listening.getsockname()) as caller:
            sent += fill(caller)
        count += 1
except OSError:
    pass
say(connections=count, mib=sent // MIB)
time.sleep(0.2)
"""
    )
    return bounded(body, host, network="loopback")


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
    return bounded(body, host)


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
    return bounded(body, host)


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
    return bounded(body, host)


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
    return bounded(body, host)


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


def _case(name: str, what: str, run: Callable[[Host], Verdict], source: str = "ours") -> Case:
    return Case(name=name, source=source, what=what, run=run)


CASES: tuple[Case, ...] = (
    _case("memory_sockets", "full buffers of 4,400 socket pairs", _socket_buffers),
    _case(
        "memory_waiting",
        "connections never accepted, full, their senders gone",
        _waiting_connections,
    ),
    _case("memory_connections", "the same over a loopback", _connections),
    _case("memory_datagrams", "queued messages of senders that are gone", _waiting_datagrams),
    _case("memory_in_flight", "full sockets sent away through sockets", _descriptors_in_flight),
    _case("memory_pipes", "bytes of huge pages in pipes", _pipes_of_huge_pages),
    _case("memory_spliced", "pages of deleted files in sockets", _pages_in_sockets),
    _case("memory_sendfile", "the same by sendfile", _pages_by_sendfile),
    _case("aio", "use up the machine's asynchronous requests", _aio),
    _case("inotify", "use up the user's notification queues", _inotify),
)
