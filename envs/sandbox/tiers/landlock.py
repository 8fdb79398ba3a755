"""`landlock`: where bubblewrap is missing. Paths and signals by Landlock, sockets by a filter.

No namespace of any kind is needed (but for root with an interpreter in its own home), so it works
in containers too. What that leaves open is in `Landlock.gaps`.
"""

from __future__ import annotations

import errno
import os
import stat
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from typing import TYPE_CHECKING

from rlagents.envs.sandbox import seccomp, slots
from rlagents.envs.sandbox.config import SandboxConfig
from rlagents.envs.sandbox.tiers import users
from rlagents.envs.sandbox.tiers.keeper import asked
from rlagents.envs.sandbox.tiers.kept import CLEANERS, SHARED_GAPS, Confinement, KeptBox
from rlagents.envs.sandbox.tiers.layout import Folders
from rlagents.errors import ConfigError

if TYPE_CHECKING:
    from pyseccomp import SyscallFilter

SCOPES = 6
"""The version of Landlock that can scope signals: Linux 6.12."""
_TRUNCATES = 3
"""The version that watches truncation: Linux 6.2."""

_READABLE = """
    /usr /bin /sbin /lib /lib32 /lib64 /libx32 /etc/alternatives /etc/ld.so.cache /etc/localtime
    /dev/random /dev/urandom /proc/cpuinfo /proc/meminfo /proc/stat /proc/loadavg /proc/sys
"""
_WRITABLE = ("/dev/null", "/dev/zero", "/dev/full")

_SHARED = (
    # The host's own, where there is no namespace for them.
    "mq_open mq_unlink shmat shmctl shmdt msgsnd msgrcv msgctl semop semtimedop semctl "
    "migrate_pages move_pages process_mrelease pidfd_open pidfd_getfd "
    # Numbers of these are bounded for all processes of the machine, or of the user.
    "io_setup inotify_init inotify_init1"
)
_OF_ANOTHER = (
    # Of a process by its number, the first argument: 0 is the caller.
    "prlimit64 sched_setaffinity sched_setparam sched_setscheduler sched_setattr"
)
_CHOWN = ("chown", "lchown", "fchown", "fchownat")
_ATTRIBUTES = "setxattr lsetxattr fsetxattr removexattr lremovexattr fremovexattr"
_SET_FLAGS = 0x40086602
_OWNERS = (8, 10, 15)
"""Requests of `fcntl` that have the kernel signal a process: F_SETOWN, F_SETSIG, F_SETOWN_EX."""
_OWNER_REQUESTS = (0x8901, 0x8902)
"""The same by `ioctl`: FIOSETOWN, SIOCSPGRP."""
_AF_UNIX, _STREAM, _SEQPACKET = 1, 1, 5
_TYPES = 0xF


class Landlock:
    """The tier for machines where namespaces or bubblewrap can't be had."""

    name = "landlock"
    cleaners: Mapping[str, slots.Cleaner] = CLEANERS
    gaps: Sequence[str] = (
        "names, sizes and dates of the host's files and the numbers of its processes can be seen, "
        "their contents not; of /proc only folders can be listed, the program's own included",
        "no network of its own: `network: loopback` can't be had, UNIX sockets neither, but for "
        "socket pairs; no /dev/shm, so locks and queues of multiprocessing fail",
        "packages of the interpreter that the configuration does not name can be read",
        *SHARED_GAPS,
    )

    def problem(self) -> str | None:
        """Why this machine can't, and what to install."""
        try:
            import py_landlock
        except ImportError as error:
            return f"Landlock can't be used ({error}): pip install 'rlagents[sandbox]'"
        del py_landlock
        root = os.geteuid() == 0
        needed, kernel = (_TRUNCATES, "6.2") if root else (SCOPES, "6.12")
        if (found := version()) < needed:
            has = f"has version {found} of it" if found else "has none, or it is switched off"
            return (
                f"Landlock {needed} is needed and the kernel {has}: Linux {kernel} or newer, with "
                "`landlock` among the names in its parameter `lsm`"
            )
        if (filters := seccomp.problem()) is not None:
            return filters
        return users.problem() if root else None

    def open(self, config: SandboxConfig) -> KeptBox:
        """A new workspace.

        Raises:
            ConfigError: a setting that this tier can't give.
            SandboxBroken: it can't be made.
        """
        if config.network != "none":
            raise ConfigError(
                f"sandbox.network: {config.network!r} needs a network of its own, which tier "
                "'landlock' has not; expected 'none'"
            )
        drop = os.geteuid() == 0
        return KeptBox("landlock", config, slots.take(self.cleaners), drop=drop, confine=_confine)


def _confine(made: Folders) -> Confinement:
    readable = [*_READABLE.split(), made.python, *made.offered]
    return Confinement(
        scope=signals_only() if version() >= SCOPES else None,
        rules=_ruleset(readable, writable=(made.work, made.tmp), devices=_WRITABLE),
        filters=(seccomp.program("none"), _host_filter(own_user=os.geteuid() == 0)),
        asks=None if os.geteuid() == 0 else questions((*asked.COUNTED, *asked.CHANGES)),
    )


@cache
def questions(names: tuple[str, ...]) -> tuple[bytes, dict[int, str]]:
    """A filter that has the keeper decide on these calls, and their numbers.

    Raises:
        OSError: libseccomp refuses a rule.
    """
    import pyseccomp as filters

    rules = filters.SyscallFilter(filters.ALLOW)
    numbers: dict[int, str] = {}
    for name in names:
        number = filters.resolve_syscall(filters.system_arch(), name)
        if number >= 0:  # every machine has other ones
            numbers[number] = name
            rules.add_rule(filters.NOTIFY, number)
    if "clone" in names:  # its flags stand in memory; who finds it missing uses `clone`
        rules.add_rule(filters.ERRNO(errno.ENOSYS), "clone3")
    return _exported(rules), numbers


def _exported(rules: SyscallFilter) -> bytes:
    with tempfile.TemporaryFile() as file:
        rules.export_bpf(file)
        file.seek(0)
        return file.read()


@cache
def version() -> int:
    """Of the kernel's Landlock; 0 where there is none."""
    try:
        import py_landlock
    except ImportError:
        return 0
    try:
        return int(py_landlock.get_abi_version())
    except py_landlock.LandlockError:
        return 0


def signals_only() -> int:
    """A ruleset under which nothing outside can be signalled, and that forbids nothing else."""
    from py_landlock import RulesetAttr, Scope, create_ruleset

    return create_ruleset(RulesetAttr(scoped=int(Scope.SIGNAL)))


def _ruleset(readable: Iterable[str], *, writable: Iterable[str], devices: Iterable[str]) -> int:
    """A ruleset that allows these and no other files, no TCP, and nothing to those outside."""
    from py_landlock import AccessFs, RulesetAttr, create_ruleset, get_abi_version
    from py_landlock.abi import get_supported_fs, get_supported_net, get_supported_scope

    abi = get_abi_version()
    every = get_supported_fs(abi)
    reading = AccessFs.EXECUTE | AccessFs.READ_FILE | AccessFs.READ_DIR
    ruleset = create_ruleset(
        RulesetAttr(
            handled_access_fs=int(every),
            handled_access_net=int(get_supported_net(abi)),
            scoped=int(get_supported_scope(abi)),
        )
    )
    special = AccessFs.MAKE_CHAR | AccessFs.MAKE_BLOCK | AccessFs.IOCTL_DEV
    try:
        _allow(ruleset, "/proc", AccessFs.READ_DIR)
        for path in readable:
            _allow(ruleset, path, reading)
        for path in writable:
            _allow(ruleset, path, every & ~special)
        for path in devices:
            _allow(ruleset, path, AccessFs.READ_FILE | AccessFs.WRITE_FILE)
    except BaseException:
        os.close(ruleset)
        raise
    return ruleset


def _allow(ruleset: int, path: str, rights: int) -> None:
    from py_landlock import AccessFs, PathBeneathAttr, RulesetFd, add_rule

    try:
        beneath = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    try:
        if not stat.S_ISDIR(os.fstat(beneath).st_mode):  # a folder's rights make no sense for it
            plain = AccessFs.EXECUTE | AccessFs.READ_FILE | AccessFs.WRITE_FILE | AccessFs.TRUNCATE
            rights &= plain
        add_rule(RulesetFd(ruleset), PathBeneathAttr(allowed_access=int(rights), parent_fd=beneath))
    finally:
        os.close(beneath)


@cache
def _host_filter(*, own_user: bool) -> bytes:
    """What must be refused beside the usual where everything but files is shared with the host.

    Args:
        own_user: nothing of the host belongs to the user that programs run as.

    Raises:
        OSError: libseccomp refuses a rule.
    """
    import pyseccomp as filters

    rules = filters.SyscallFilter(filters.ALLOW)
    denied = filters.ERRNO(errno.EPERM)
    for name in _SHARED.split():
        rules.add_rule(filters.ERRNO(errno.ENOSYS), name)
    for name in _OF_ANOTHER.split():
        rules.add_rule(denied, name, filters.Arg(0, filters.NE, 0))
    for request in _OWNERS:
        rules.add_rule(denied, "fcntl", filters.Arg(1, filters.MASKED_EQ, 0xFFFFFFFF, request))
    for request in _OWNER_REQUESTS:
        rules.add_rule(denied, "ioctl", filters.Arg(1, filters.MASKED_EQ, 0xFFFFFFFF, request))
    # Which of, and whose: only one process, and that the caller.
    for name, process in (("setpriority", 0), ("ioprio_set", 1)):
        rules.add_rule(denied, name, filters.Arg(0, filters.NE, process))
        rules.add_rule(denied, name, filters.Arg(1, filters.NE, 0))
    # A socket could reach the host's by a path, which Landlock does not watch. Pairs can't, unless
    # they are datagrams: those can be addressed anew.
    rules.add_rule(
        filters.ERRNO(errno.EAFNOSUPPORT), "socket", filters.Arg(0, filters.EQ, _AF_UNIX)
    )
    rules.add_rule(denied, "socketpair", filters.Arg(0, filters.NE, _AF_UNIX))
    for kind in range(_TYPES + 1):
        if kind not in (_STREAM, _SEQPACKET):
            masked = filters.Arg(1, filters.MASKED_EQ, _TYPES, kind)
            rules.add_rule(denied, "socketpair", masked)
    if not own_user:
        for name in _CHOWN:
            rules.add_rule(denied, name)
        for name in _ATTRIBUTES.split():
            rules.add_rule(filters.ERRNO(errno.EOPNOTSUPP), name)
        low = filters.Arg(1, filters.MASKED_EQ, 0xFFFFFFFF, _SET_FLAGS)
        rules.add_rule(denied, "ioctl", low)
    return _exported(rules)
