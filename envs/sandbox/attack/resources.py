"""Attacks that use up what everybody shares: processes, processor, disk, descriptors, output."""

from __future__ import annotations

import contextlib
from collections.abc import Callable

from rlagents.envs.sandbox.attack.case import Case, Host, Verdict
from rlagents.envs.sandbox.attack.inside import program, silent, told
from rlagents.envs.sandbox.attack.measure import Watch, own_mb
from rlagents.envs.sandbox.files import UnsafeFile

PROCESSES = 32
"""What the attacked sandboxes allow."""
_AROUND = 12
"""Processes that hold a sandbox together, and those that the launcher adds to the bound."""
_MIB = 2**20


def _fork_once(host: Host) -> Verdict:
    body = """
count = 0
try:
    while count < 3000:
        if os.fork() == 0:
            time.sleep(60)
            os._exit(0)
        count += 1
except OSError as error:
    say(forks=count, error=errno.errorcode[error.errno])
else:
    say(forks=count)
"""
    with Watch() as watch:
        result = host.open(processes=PROCESSES).python(program(body))
    forks = told(result).get("forks")
    if forks is None:
        return silent(result)
    seen = f"stopped at {forks} forks; {watch.processes} processes seen from outside"
    return Verdict(max(forks, watch.processes) <= PROCESSES + _AROUND, seen)


def _fork_for_ever(host: Host) -> Verdict:
    body = """
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
while True:
    try:
        os.fork()
    except OSError:
        pass
"""
    with Watch() as watch:
        result = host.open(processes=PROCESSES, wall_s=1.0).python(program(body))
    seen = f"{watch.processes} processes at most, {result.describe()} after {result.wall_s:.1f} s"
    ended = result.limit in ("wall_s", "cpu_s", "memory_mb") and result.wall_s < 6.0
    return Verdict(ended and watch.processes <= PROCESSES + _AROUND, seen)


def _threads(host: Host) -> Verdict:
    body = """
import threading
count = 0
threading.stack_size(65536)
try:
    while count < 3000:
        threading.Thread(target=time.sleep, args=(60,), daemon=True).start()
        count += 1
except RuntimeError:
    pass
say(threads=count)
os._exit(0)
"""
    result = host.open(processes=PROCESSES).python(program(body))
    count = told(result).get("threads")
    if count is None:
        return silent(result)
    return Verdict(count <= PROCESSES + _AROUND, f"stopped at {count} threads")


def _burn(body: str, host: Host) -> Verdict:
    box = host.open(cpu_s=0.5, wall_s=8.0, processes=PROCESSES)
    result = box.python(program(body))
    seen = f"{result.describe()} after {result.wall_s:.1f} s, {result.cpu_s:.1f} s of processor"
    return Verdict(result.limit == "cpu_s" and result.cpu_s < 4.0, seen)


def _burn_many(host: Host) -> Verdict:
    body = """
signal.signal(signal.SIGXCPU, signal.SIG_IGN)
for _ in range(7):
    if os.fork() == 0:
        break
while True:
    pass
"""
    return _burn(body, host)


def _burn_unseen(host: Host) -> Verdict:
    """Children that nobody waits for take the record of their time with them."""
    body = """
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
while True:
    if os.fork() == 0:
        end = time.process_time() + 0.03
        while time.process_time() < end:
            pass
        os._exit(0)
    time.sleep(0.03)
"""
    box = host.open(cpu_s=0.5, wall_s=1.5, processes=PROCESSES)
    result = box.python(program(body))
    seen = f"{result.describe()} after {result.wall_s:.1f} s"
    # Where nobody counts the dead, the wall clock still ends it.
    return Verdict(result.limit in ("cpu_s", "wall_s") and result.wall_s < 5.0, seen)


def _fill(folders: str, allowed_mb: int, host: Host) -> Verdict:
    body = f"""
written = {{}}
for folder in {folders}:
    count = 0
    try:
        for number in range(40):
            with open(os.path.join(folder, "fill%d" % number), "wb", buffering=0) as file:
                for _ in range(8):
                    count += file.write(b"x" * MIB)
    except OSError:
        pass
    if count:
        written[folder] = count // MIB
say(mib=sum(written.values()), where=written)
"""
    box = host.open(workspace_mb=16, tmp_mb=8, file_mb=8, memory_mb=512)
    with Watch() as watch:
        result = box.python(program(body))
    said = told(result)
    if not said:
        ended = result.limit in ("memory_mb", "workspace_mb", "tmp_mb")
        return Verdict(ended and watch.taken_mb < 1024, f"{result.describe()} while filling")
    seen = f"{said['mib']} MiB written: {said['where']}"
    return Verdict(said["mib"] <= allowed_mb, seen)


def _fill_workspace(host: Host) -> Verdict:
    return _fill("[os.getcwd()]", 16, host)


def _fill_tmp(host: Host) -> Verdict:
    return _fill("[os.environ.get('TMPDIR', '/tmp'), '/tmp', '/var/tmp', '/dev/shm']", 16, host)


def _fill_everywhere(host: Host) -> Verdict:
    """Every folder that can be written to, but for those that are meant for it."""
    folders = """[
    top for top, below, _ in os.walk("/")
    if (below.__setitem__(slice(None), [
        b for b in below if os.path.join(top, b) not in ("/proc", "/sys", "/usr/share", "/usr/lib")
    ]) or True) and os.access(top, os.W_OK)
    and not any((top + "/").startswith(d + "/") for d in (os.getcwd(), "/tmp", "/dev/shm"))
]"""
    return _fill(folders, 0, host)


def _many_files(folder: str, most: int, host: Host) -> Verdict:
    body = f"""
made = 0
for top in {folder}:
    try:
        for number in range(40000):
            os.close(os.open("%s/e%d" % (top, number), os.O_CREAT | os.O_WRONLY))
            made += 1
            if made % 500 == 0:
                say(files=made)
    except OSError:
        pass
    if made >= 40000:
        break
say(files=made)
"""
    box = host.open(workspace_files=2000, memory_mb=64)
    result = box.python(program(body))
    made = told(result).get("files")
    if made is None:
        return silent(result)
    seen = f"stopped at {made:,} files ({result.describe()})"
    return Verdict(made <= most, seen)


def _many_files_workspace(host: Host) -> Verdict:
    return _many_files("[os.getcwd()]", 2000, host)


def _many_files_elsewhere(host: Host) -> Verdict:
    """Names hold memory of the kernel, also where no byte is written."""
    return _many_files("['/tmp', '/dev/shm', '/dev', '/var/tmp', '/run']", 39_000, host)


def _one_big_file(host: Host) -> Verdict:
    body = """
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
said = {}
for name, size in (("big", 20 * MIB), ("sparse", 1 << 40)):
    descriptor = os.open(name, os.O_CREAT | os.O_RDWR)
    said[name] = attempt(os.ftruncate, descriptor, size)
    said[name + " allocated"] = attempt(os.posix_fallocate, descriptor, 0, size)
    said[name + " written"] = attempt(os.pwrite, descriptor, b"x", size - 1)
say(**said)
"""
    box = host.open(file_mb=8, workspace_mb=64)
    said = told(result := box.python(program(body)))
    if not said:
        return silent(result)
    sizes = {entry.path: entry.size for entry in box.files()}
    with contextlib.suppress(UnsafeFile):
        box.read("sparse")
        sizes["sparse"] = max(sizes.get("sparse", 0), 0)
    largest = max(sizes.values(), default=0)
    return Verdict(largest <= 8 * _MIB, f"largest file {largest:,} bytes; {said}")


def _descriptors(host: Host) -> Verdict:
    body = """
count = 0
try:
    while count < 20000:
        os.dup(0)
        count += 1
except OSError:
    pass
say(count=count, raised=attempt(resource.setrlimit, resource.RLIMIT_NOFILE, (4096, 4096)))
"""
    said = told(result := host.open(open_files=128).python(program(body)))
    if not said:
        return silent(result)
    fine = said["count"] <= 128 and not said["raised"].startswith("ok")
    return Verdict(fine, f"stopped at {said['count']}; raising the limit: {said['raised']}")


def _raise_limits(host: Host) -> Verdict:
    body = """
said = {}
for name in sorted(n for n in dir(resource) if n.startswith("RLIMIT_")):
    which = getattr(resource, name)
    soft, hard = resource.getrlimit(which)
    if hard != resource.RLIM_INFINITY:
        more = attempt(resource.setrlimit, which, (hard + 1, hard + 1))
        if more.startswith("ok") and resource.getrlimit(which)[1] > hard:
            said[name] = "ok"
said["nice"] = "ok" if attempt(os.nice, -5).startswith("ok") else "denied"
real = attempt(os.sched_setscheduler, 0, os.SCHED_FIFO, os.sched_param(1))
said["real time"] = "ok" if real.startswith("ok") else "denied"
say(**said)
"""
    said = told(result := host.open().python(program(body)))
    if not said:
        return silent(result)
    worked = [name for name, came in said.items() if came == "ok"]
    return Verdict(not worked, f"allowed: {worked}" if worked else "none could be raised")


def _flood(body: str, host: Host) -> Verdict:
    before = own_mb()
    result = host.open(output_kb=16, output_max_mb=4, wall_s=8.0).python(program(body))
    grown, kept = own_mb() - before, len(result.stdout) + len(result.stderr)
    seen = f"{result.describe()} after {result.wall_s:.2f} s, {kept:,} characters kept"
    fine = result.limit == "output_max_mb" and kept <= 40 * 1024 and grown < 64
    return Verdict(fine, f"{seen}, we grew by {grown} MiB")


def _flood_stdout(host: Host) -> Verdict:
    return _flood("block = b'x' * 65536\nwhile True:\n    os.write(1, block)\n", host)


def _flood_both(host: Host) -> Verdict:
    body = """
out = 1 + (os.fork() == 0)
os.fork()
while True:
    os.write(out, b"\\x1b[2J\\xff" * 4096)
"""
    return _flood(body, host)


def _case(name: str, what: str, run: Callable[[Host], Verdict], source: str = "1.3") -> Case:
    return Case(name=name, source=source, what=what, run=run)


CASES: tuple[Case, ...] = (
    _case("fork_bomb", "3,000 children that stay", _fork_once),
    _case("fork_bomb_growing", "every child forks for ever", _fork_for_ever),
    _case("thread_bomb", "3,000 threads", _threads, "ours"),
    _case("burn_processor", "8 processes that ignore the signal of the limit", _burn_many, "ours"),
    _case("burn_unseen", "children whose time nobody counts", _burn_unseen, "ours"),
    _case("fill_workspace", "320 MiB into the workspace", _fill_workspace),
    _case("fill_tmp", "320 MiB into /tmp and /dev/shm each", _fill_tmp),
    _case("fill_everywhere", "320 MiB into every other folder, / and /dev too", _fill_everywhere),
    _case("many_files", "40,000 empty files in the workspace", _many_files_workspace),
    _case("many_files_elsewhere", "40,000 empty files in /tmp and others", _many_files_elsewhere),
    _case("big_file", "a file over the limit, and one of 1 TiB that is a hole", _one_big_file),
    _case("descriptors", "20,000 open descriptors", _descriptors, "ours"),
    _case("raise_limits", "raise the limits and the priority", _raise_limits, "ours"),
    _case("flood_stdout", "endless output", _flood_stdout),
    _case("flood_both", "endless output on both streams, from many processes", _flood_both, "ours"),
)
