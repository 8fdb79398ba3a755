"""The program that keeps a command without namespaces: started as `python3 -I -S keeper.py`.

It stands between us and the command, outside what confines the command. Whatever the command
leaves behind becomes its child (PR_SET_CHILD_SUBREAPER), however often it forked; when the command
ends, when it is told to (SIGTERM) or when we die (PR_SET_PDEATHSIG), it kills them all and only
then ends itself.

Killing without a race: where Landlock can scope signals, the keeper is in a domain of its own and
the command in one below it. `kill(-1)` then reaches exactly what was started here, in one stroke
that no fork escapes, and nothing in there can signal the keeper.

It is given two descriptors: a JSON document that says what to do, and where to say how it went, as
JSON lines. `exit-code` is the command's; `failed` (with `errno`) means that it never ran.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import resource
import select
import signal
import stat
import sys
import time
from typing import Any

sys.path.append(os.path.dirname(os.path.abspath(__file__)))  # `-I` leaves it out
from asked import Asked

_SET_PDEATHSIG, _SET_DUMPABLE, _SET_SECCOMP, _SET_SUBREAPER, _NO_NEW_PRIVS = 1, 4, 22, 36, 38
_FILTER_MODE = 2
_RESTRICT_SELF = 446
_PIDFD_GETFD = 438
_SECCOMP = {"x86_64": 317, "aarch64": 277}
_NEW_LISTENER = 8
_NEWNS = 0x20000
_NOSUID, _NODEV, _BIND, _REC, _PRIVATE = 0x2, 0x4, 0x1000, 0x4000, 0x40000
_SPARE_PROCESSES = 512
_TICK_S = 0.1
_CLEARING_S = 5.0
_OVER = 8
"""Processes more than allowed that may be there for a moment."""
_LISTENER = b"+"

_libc = ctypes.CDLL(None, use_errno=True)


def main() -> None:
    """Keep one command; the arguments are the two descriptors."""
    wanted, says = int(sys.argv[1]), int(sys.argv[2])
    signals = _Signals()
    with os.fdopen(wanted, encoding="utf-8") as file:
        spec = json.load(file)
    _call("prctl", _SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
    if os.getppid() != spec["parent"]:
        return  # it died before it could be seen to
    scoped = spec["scope"] is not None
    try:
        _call("prctl", _SET_SUBREAPER, 1, 0, 0, 0)
        _call("prctl", _NO_NEW_PRIVS, 1, 0, 0, 0)
        if scoped:
            _call("syscall", _RESTRICT_SELF, spec["scope"], 0)
        said = _keep(spec, signals)
    except OSError as error:
        said = {"failed": str(error), "errno": error.errno}
    finally:  # whatever went wrong here, nothing stays
        _end_all(scoped=scoped)
    os.write(says, json.dumps(said).encode() + b"\n")


class _Signals:
    """Makes signals something to poll for."""

    def __init__(self) -> None:
        self.told_to_end = False
        self.descriptor, writing = os.pipe()
        for end in (self.descriptor, writing):
            os.set_blocking(end, False)
        signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, self._end)
        signal.signal(signal.SIGCHLD, lambda *_: None)

    def _end(self, *_: object) -> None:
        self.told_to_end = True

    def clear(self) -> None:
        with contextlib.suppress(BlockingIOError):
            while os.read(self.descriptor, 4096):
                pass


def _keep(spec: dict[str, Any], signals: _Signals) -> dict[str, Any]:
    """Run the command, see its whole tree to the end, and say how it went."""
    trouble, troubled = os.pipe()
    seen, see = os.pipe()
    first = os.fork()
    if first == 0:
        os.close(see)
        _become(spec, troubled, seen)
    os.close(troubled)
    os.close(seen)
    _let_go(spec)
    failed, asked = os.read(trouble, 4096), None
    if failed.startswith(_LISTENER):
        asked = _asked(first, int(failed[1:]), spec)
        os.close(see)  # go on
        failed = os.read(trouble, 4096)
    status, limit = (None, None) if failed else _wait(first, spec, signals, asked)
    _end_all(scoped=spec["scope"] is not None)
    if failed:
        number, _, text = failed.decode(errors="replace").partition(" ")
        return {"failed": text, "errno": int(number)}
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    said: dict[str, Any] = {"cpu_us": int((used.ru_utime + used.ru_stime) * 1e6)}
    if limit := limit or _overfull(spec):
        said["limit"] = limit
    if status is not None:
        code = os.waitstatus_to_exitcode(status)
        said["exit-code"] = 128 - code if code < 0 else code
    return said


def _asked(first: int, descriptor: int, spec: dict[str, Any]) -> Asked:
    """What answers the command, once we have its listener."""
    process = os.pidfd_open(first)
    listener = _libc.syscall(_PIDFD_GETFD, process, descriptor, 0)
    number = ctypes.get_errno()
    os.close(process)
    if listener < 0:
        raise OSError(number, f"pidfd_getfd: {os.strerror(number)}")
    names = {int(number): name for number, name in spec["asks"]["names"].items()}
    inside = [folder[0] for folder in spec["folders"]]
    return Asked(listener, names, most=spec["count"], count=_tasks, inside=inside)


def _wait(
    first: int, spec: dict[str, Any], signals: _Signals, asked: Asked | None
) -> tuple[int | None, str | None]:
    """Wait until the command ends; its status, or the limit that it went over. Neither: told to."""
    poll = select.poll()
    poll.register(signals.descriptor, select.POLLIN)
    if asked is not None:
        poll.register(asked.listener, select.POLLIN)
    due = time.monotonic() + _TICK_S
    # What was left too full must have the time to be cleared.
    cleared_by = time.monotonic() + (0.0 if _overfull(spec) is None else _CLEARING_S)
    while not signals.told_to_end:
        ready = dict(poll.poll(1000 * max(0.0, due - time.monotonic())))
        if asked is not None and asked.listener in ready:
            if ready[asked.listener] & select.POLLIN:
                asked.answer()
            else:  # nobody is left who could ask
                poll.unregister(asked.listener)
        signals.clear()
        while (ended := _reap()) is not None:
            if ended[0] == first:
                return ended[1], None
        if (began := time.monotonic()) >= due:
            if spec["count"] is not None and _tasks() > spec["count"] + _OVER:
                return None, "processes"
            if began > cleared_by and (limit := _overfull(spec)) is not None:
                return None, limit
            # Looking takes at most a fiftieth of the time, however full the workspace is.
            took = time.monotonic() - began
            due = time.monotonic() + max(_TICK_S, 50 * took)
    return None, None


def _reap() -> tuple[int, int] | None:
    """One that has ended and its status, or None."""
    try:
        pid, status = os.waitpid(-1, os.WNOHANG)
    except ChildProcessError:
        return None
    return (pid, status) if pid else None


def _end_all(*, scoped: bool) -> None:
    """Kill every descendant, and return when there is none."""
    pause = 0.0002
    while True:
        if scoped:
            with contextlib.suppress(OSError):
                os.kill(-1, signal.SIGKILL)
        else:
            _end_seen()
        try:
            while os.waitpid(-1, os.WNOHANG)[0]:
                pause = 0.0002
        except ChildProcessError:
            return
        time.sleep(pause)
        pause = min(2 * pause, 0.02)


def _end_seen() -> None:
    """Stop what can be seen until nothing new comes up, because the stopped do not fork; kill."""
    seen: set[int] = set()
    while new := set(_below()) - seen:
        for pid in new:
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGSTOP)
        seen |= new
    for pid in seen:
        with contextlib.suppress(OSError):
            os.kill(pid, signal.SIGKILL)


def _below() -> list[int]:
    """All descendants, as seen now."""
    found: list[int] = []
    waiting = [os.getpid()]
    while waiting:
        pid = waiting.pop()
        with contextlib.suppress(OSError):
            for thread in os.listdir(f"/proc/{pid}/task"):
                with open(f"/proc/{pid}/task/{thread}/children", encoding="ascii") as file:
                    below = [int(c) for c in file.read().split()]
                found += below
                waiting += below
    return found


def _tasks() -> int:
    """Processes and threads below."""
    return sum(_threads(pid) for pid in _below())


def _threads(pid: int) -> int:
    try:
        return os.stat(f"/proc/{pid}/task").st_nlink - 2
    except OSError:
        return 0


def _overfull(spec: dict[str, Any]) -> str | None:
    """The limit that the files of a folder are over."""
    for path, most_bytes, most_files, key_bytes, key_files in spec["folders"]:
        try:
            folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        except OSError:
            continue
        size, files = _measure(folder, most_bytes, most_files)
        if files > most_files:
            return key_files
        if size > most_bytes:
            return key_bytes
    return None


def _measure(folder: int, most_bytes: int, most_files: int) -> tuple[int, int]:
    """Bytes and files below a folder, at least until one is too many. Closes the folder.

    Descends by descriptors, so that no depth hides anything: one that uses up all descriptors is
    itself too many files.
    """
    size, files = 0, 0
    several: set[int] = set()
    waiting = [folder]
    try:
        while waiting and size <= most_bytes and files <= most_files:
            here = waiting.pop()
            try:
                names = os.listdir(here)
                files += len(names)
                for name in names[: most_files + 1]:
                    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
                        found = os.stat(name, dir_fd=here, follow_symlinks=False)
                        if stat.S_ISDIR(found.st_mode):
                            flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW
                            waiting.append(os.open(name, flags, dir_fd=here))
                        elif found.st_nlink == 1 or found.st_ino not in several:
                            several.add(found.st_ino)
                            size += found.st_blocks * 512
            except PermissionError:
                continue
            except OSError:
                return size, most_files + 1
            finally:
                os.close(here)
    finally:
        for left in waiting:
            os.close(left)
    return size, files


def _let_go(spec: dict[str, Any]) -> None:
    """Close what is the command's, so that an end that it closes is closed."""
    nothing = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(nothing, descriptor)
    rules = [spec["rules"], spec["scope"]]
    for descriptor in {nothing, *spec["keep"], *rules} - {None}:
        os.close(descriptor)


def _become(spec: dict[str, Any], troubled: int, seen: int) -> None:
    """Turn into the command. Does not return."""
    try:
        _confine(spec)
        if spec["asks"] is not None:
            listener = _listen(bytes.fromhex(spec["asks"]["program"]))
            os.write(troubled, _LISTENER + b"%d" % listener)
            os.read(seen, 1)  # until the keeper has it
    except (OSError, ValueError) as error:
        number = error.errno if isinstance(error, OSError) else 0
        os.write(troubled, f"{number or 0} {error}".encode()[:4000])
        os._exit(125)
    try:
        os.execvpe(spec["argv"][0], spec["argv"], spec["env"])
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else str(error)
        os.write(2, f"{spec['argv'][0]}: {why}\n".encode(errors="surrogateescape"))
        os._exit(127)


def _confine(spec: dict[str, Any]) -> None:
    keeper = os.getppid()
    os.setsid()
    signal.set_wakeup_fd(-1)
    for number in range(1, signal.NSIG):
        if number not in (signal.SIGKILL, signal.SIGSTOP):
            with contextlib.suppress(OSError):
                signal.signal(number, signal.SIG_DFL)
    for text in os.listdir("/proc/self/fd"):
        descriptor = int(text)
        with contextlib.suppress(OSError):
            os.set_inheritable(descriptor, descriptor < 3 or descriptor in spec["keep"])
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w") as file:
        file.write("1000")
    if spec["covers"]:
        _uncover(spec["covers"], spec["binds"])
    _limit(spec)
    if (uid := spec["uid"]) is not None:
        os.setgroups([])
        os.setresgid(uid, uid, uid)
        os.setresuid(uid, uid, uid)
        # A process that changed its user can't look at its own /proc otherwise.
        _call("prctl", _SET_DUMPABLE, 1, 0, 0, 0)
    os.umask(0o022)
    os.chdir(spec["cwd"])
    _call("prctl", _SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != keeper:
        os._exit(125)
    if spec["rules"] is not None:
        _call("syscall", _RESTRICT_SELF, spec["rules"], 0)
    for program in spec["filters"]:
        _load(bytes.fromhex(program))


def _limit(spec: dict[str, Any]) -> None:
    limits = dict(spec["limits"])
    if spec["count"] is not None:
        # The user's other processes count too: this only stops a bomb until it is seen.
        limits["nproc"] = _tasks_of(os.getuid()) + spec["count"] + _SPARE_PROCESSES
    for name, value in limits.items():
        which = getattr(resource, f"RLIMIT_{name.upper()}")
        most = resource.getrlimit(which)[1]
        value = value if most == resource.RLIM_INFINITY else min(value, most)
        resource.setrlimit(which, (value, value))


def _tasks_of(uid: int) -> int:
    count = 0
    for name in os.listdir("/proc"):
        with contextlib.suppress(OSError):
            if name.isdigit() and os.stat(f"/proc/{name}").st_uid == uid:
                count += _threads(int(name))
    return count


def _uncover(covers: list[str], binds: list[str]) -> None:
    """Make paths reachable whose folders are closed to others, in a mount namespace of our own."""
    _call("unshare", _NEWNS)
    _call("mount", b"none", b"/", None, _REC | _PRIVATE, None)
    opened = [(path, os.open(path, os.O_PATH)) for path in binds]
    for cover in covers:
        options = b"mode=755,size=1m"
        _call("mount", b"rlagents", os.fsencode(cover), b"tmpfs", _NOSUID | _NODEV, options)
    os.umask(0o022)
    for path, descriptor in opened:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            os.makedirs(path, exist_ok=True)
        else:
            os.makedirs(os.path.dirname(path), exist_ok=True)
            os.close(os.open(path, os.O_WRONLY | os.O_CREAT, 0o644))
        source = b"/proc/self/fd/%d" % descriptor
        _call("mount", source, os.fsencode(path), None, _BIND | _REC, None)


class _Program(ctypes.Structure):
    # Eight bytes an instruction; they hold zero bytes, which `c_char_p` does not mind here.
    _fields_ = (("length", ctypes.c_ushort), ("code", ctypes.c_char_p))


def _load(program: bytes) -> None:
    loaded = _Program(len(program) // 8, program)
    _call("prctl", _SET_SECCOMP, _FILTER_MODE, ctypes.byref(loaded), 0, 0)


def _listen(program: bytes) -> int:
    """Put ourselves under a filter that asks; the descriptor where its questions arrive."""
    loaded = _Program(len(program) // 8, program)
    number = ctypes.c_long(_SECCOMP[os.uname().machine])
    listener = _libc.syscall(number, 1, _NEW_LISTENER, ctypes.byref(loaded))
    if listener < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"seccomp: {os.strerror(number)}")
    return listener


def _call(name: str, *arguments: Any) -> None:
    """A function of the C library that returns 0 when all is well."""
    wide = [ctypes.c_ulong(a) if isinstance(a, int) else a for a in arguments]
    if getattr(_libc, name)(*wide) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)}")


if __name__ == "__main__":
    main()
