"""The system calls that programs inside may not make, as a BPF program for bubblewrap.

Allowed by default: agents run arbitrary programs. Refused is what reaches the kernel's larger
surfaces (namespaces, mounts, tracing, io_uring, BPF, keys), and what holds memory that neither
resident size nor a file system's cap counts: memfd, System V shared memory and messages, shared
memory without a file, pages in pipes and sockets.
"""

from __future__ import annotations

import errno
import os
import tempfile
from functools import cache

_REFUSED = {
    errno.EPERM: (
        "unshare setns mount umount umount2 pivot_root chroot move_mount open_tree "
        "fsopen fsconfig fsmount fspick mount_setattr "
        "ptrace process_vm_readv process_vm_writev process_madvise kcmp pidfd_getfd "
        "bpf io_uring_setup io_uring_enter io_uring_register "
        "keyctl add_key request_key userfaultfd perf_event_open "
        "open_by_handle_at name_to_handle_at kexec_load kexec_file_load "
        "init_module finit_module delete_module acct swapon swapoff reboot quotactl quotactl_fd "
        "iopl ioperm settimeofday clock_settime clock_adjtime adjtimex syslog vhangup "
        "fanotify_init lookup_dcookie nfsservctl personality"
    ),
    # "Not there" makes programs fall back where "not allowed" would make them give up.
    # Queues of notifications and of asynchronous requests are few and shared with the host.
    errno.ENOSYS: (
        "clone3 memfd_create memfd_secret shmget msgget semget "
        "inotify_init inotify_init1 io_setup io_submit io_getevents io_pgetevents"
    ),
    # "Not for this kind of file", after which programs copy: a byte that is moved this way keeps
    # its whole page in a pipe or socket, after the file or process that it came from let it go.
    errno.EINVAL: "splice vmsplice tee sendfile",
}
_TOO_NEW = range(457, 600)
"""Numbers of calls added after Linux 6.7, the same on every architecture: nobody here has looked at
what they open, and programs must do without them on older kernels anyway."""

_NEWUSER = 0x10000000
_TIOCSTI, _TIOCLINUX = 0x5412, 0x541C
_AF_UNIX, _AF_INET, _AF_INET6 = 1, 2, 10
_SOCK_TYPE, _SOCK_DGRAM, _SOCK_RAW = 0xF, 2, 3
_SOL_SOCKET = 1
_BUFFERS = (7, 8, 32, 33, 60)  # SO_SNDBUF, SO_RCVBUF, their FORCE forms, SO_ZEROCOPY
_F_SETPIPE_SZ = 1031
_SHARED_ANONYMOUS = 0x21  # MAP_SHARED | MAP_ANONYMOUS
_HUGE = 0x40000  # MAP_HUGETLB


def problem() -> str | None:
    """Why no filter can be made here and what to install, or None."""
    try:
        import pyseccomp
    except (ImportError, RuntimeError) as error:
        return (
            f"system calls can't be filtered ({error}): pip install 'rlagents[sandbox]', "
            "apt-get install libseccomp2"
        )
    del pyseccomp
    return None


@cache
def program(network: str) -> bytes:
    """The BPF program; `network` as in `SandboxConfig`.

    Raises:
        OSError: libseccomp refuses a rule.
    """
    import pyseccomp as seccomp

    rules = seccomp.SyscallFilter(seccomp.ALLOW)

    def refuse(number: int, name: str | int, *conditions: seccomp.Arg) -> None:
        rules.add_rule(seccomp.ERRNO(number), name, *conditions)

    def low(argument: int, value: int) -> seccomp.Arg:
        """Of an argument that the kernel takes as 32 bits: the upper half may hold anything."""
        return seccomp.Arg(argument, seccomp.MASKED_EQ, 0xFFFFFFFF, value)

    for number, names in _REFUSED.items():
        for name in names.split():
            refuse(number, name)
    for call in _TOO_NEW:
        refuse(errno.ENOSYS, call)
    masked = seccomp.Arg(0, seccomp.MASKED_EQ, _NEWUSER, _NEWUSER)
    refuse(errno.EPERM, "clone", masked)
    for request in (_TIOCSTI, _TIOCLINUX):
        refuse(errno.EPERM, "ioctl", low(1, request))
    families = {_AF_UNIX} | ({_AF_INET, _AF_INET6} if network == "loopback" else set())
    for call in ("socket", "socketpair"):
        for family in range(64):
            if family not in families:
                refuse(errno.EAFNOSUPPORT, call, seccomp.Arg(0, seccomp.EQ, family))
        refuse(errno.EAFNOSUPPORT, call, seccomp.Arg(0, seccomp.GE, 64))
        for kind in (_SOCK_DGRAM, _SOCK_RAW):  # one queue holds what many senders sent
            unix = seccomp.Arg(0, seccomp.EQ, _AF_UNIX)
            typed = seccomp.Arg(1, seccomp.MASKED_EQ, _SOCK_TYPE, kind)
            refuse(errno.ESOCKTNOSUPPORT, call, unix, typed)
    for option in _BUFFERS:  # full socket buffers are charged at their default size
        refuse(errno.EPERM, "setsockopt", low(1, _SOL_SOCKET), low(2, option))
    refuse(errno.EPERM, "fcntl", low(1, _F_SETPIPE_SZ))
    # Its pages stay when the processes that touched them let go, and no figure counts them.
    for bits in (_SHARED_ANONYMOUS, _HUGE):
        refuse(errno.EPERM, "mmap", seccomp.Arg(3, seccomp.MASKED_EQ, bits, bits))
    with tempfile.TemporaryFile() as file:
        rules.export_bpf(file)
        file.seek(0)
        return file.read()


def pipe_with(data: bytes) -> int:
    """A descriptor that `data` (less than a pipe holds) can be read from, once."""
    reading, writing = os.pipe()
    try:
        os.write(writing, data)
    except BaseException:
        os.close(reading)
        raise
    finally:
        os.close(writing)
    return reading
