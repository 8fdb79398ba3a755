"""The side that is attacked: a host with canaries, and the sandboxes that the attacks run in."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import socket
import stat
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rlagents.envs.sandbox import slots
from rlagents.envs.sandbox.attack.canaries import Canaries
from rlagents.envs.sandbox.attack.leftovers import Note, notes
from rlagents.envs.sandbox.box import Sandbox
from rlagents.errors import SandboxBroken

MARK = "rlagents-canary-"
"""Every secret begins so: programs inside look for the beginning, and can't hold the rest."""
VARIABLE = "RLAGENTS_CANARY_API_KEY"
"""Of this process's environment, with the secret in it."""
_KEPT = "untouched\n"


class LiveHost:
    """Canaries of this machine while the block lasts, and the sandboxes opened in it."""

    def __init__(self, tier: str) -> None:
        """`tier` is the one under attack."""
        self.tier = tier
        self.secret = MARK + secrets.token_hex(16)
        self.noted: set[Note] = set()
        """What the slots of the sandboxes opened here named, to be gone afterwards."""
        self._opened: list[Sandbox] = []
        self._exits = contextlib.ExitStack()

    def __enter__(self) -> LiveHost:
        with contextlib.ExitStack() as exits:
            self.folder = tempfile.mkdtemp(prefix="rlagents-host-")
            exits.callback(shutil.rmtree, self.folder, ignore_errors=True)
            os.chmod(self.folder, 0o755)
            self.secret_path = self._file("answer.txt", self.secret, 0o644)
            self.private_path = self._file("private.txt", self.secret, 0o600)
            self.writable_path = self._file("writable.txt", _KEPT, 0o666)
            self.unix_path = os.path.join(self.folder, "canary.sock")
            self.abstract = f"rlagents-host-{secrets.token_hex(8)}"
            self._canaries = Canaries(self.secret, self.unix_path, self.abstract)
            exits.callback(self._canaries.close)
            self.port = self._canaries.port
            exits.enter_context(_environment(VARIABLE, self.secret))
            self._victim = subprocess.Popen(["/bin/sleep", "3600"], env={}, start_new_session=True)
            exits.callback(self._end_victim)
            self.victim = self._victim.pid
            exits.callback(self.close_all)
            self._prove()
            self._stats = self._look()
            self._exits = exits.pop_all()
        return self

    def __exit__(self, *exc: object) -> None:
        self._exits.close()

    def open(self, **settings: Any) -> Sandbox:
        """A sandbox of the tier under attack, closed by `close_all`.

        Raises:
            SandboxBroken: it can't be made.
        """
        box = Sandbox({"tier": self.tier, "wall_s": 10.0, **settings})
        self._opened.append(box)
        self.noted |= notes(held_slots())
        return box

    @property
    def opened(self) -> tuple[Sandbox, ...]:
        """Those that were opened since the last `close_all`."""
        return tuple(self._opened)

    def close_all(self) -> None:
        """Close every sandbox.

        Raises:
            SandboxBroken: one can't be, after all have been tried.
        """
        with contextlib.ExitStack() as exits:
            for box in self._opened:
                exits.callback(box.close)
            self._opened = []

    def damage(self) -> list[str]:
        """What happened to the canaries since the last call; empty when nothing did."""
        found = [f"the canary of {name} was reached" for name in self._canaries.touched]
        self._canaries.touched.clear()
        seen = self._look()
        found += [f"{name} changed" for name in self._stats if seen.get(name) != self._stats[name]]
        found += [f"{name} appeared" for name in seen.keys() - self._stats.keys()]
        self._stats = seen
        if os.environ.get(VARIABLE) != self.secret:
            found.append("our environment changed")
        if self._victim.poll() is not None:
            found.append("the victim was killed")
        elif (state := _state(self.victim)) not in "SDR":
            found.append(f"the victim is in state {state}")
        return found

    def _file(self, name: str, text: str, mode: int) -> str:
        path = os.path.join(self.folder, name)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
        with os.fdopen(descriptor, "wb") as file:
            os.fchmod(descriptor, mode)
            file.write(text.encode())
        return path

    def _look(self) -> dict[str, tuple[object, ...]]:
        """Every name in the folder, with what makes it the same file with the same contents."""
        seen: dict[str, tuple[object, ...]] = {}
        for entry in os.scandir(self.folder):
            info = entry.stat(follow_symlinks=False)
            inode = (info.st_ino, info.st_mode, info.st_uid, info.st_nlink, info.st_mtime_ns)
            data = Path(entry.path).read_bytes() if stat.S_ISREG(info.st_mode) else b""
            seen[entry.name] = (*inode, data)
        return seen

    def _prove(self) -> None:
        """A canary that nobody could reach would make every attack on it look contained.

        Raises:
            SandboxBroken: one does not answer.
        """
        unix = socket.AF_UNIX
        for name, family, kind, address in (
            ("tcp", socket.AF_INET, socket.SOCK_STREAM, ("127.0.0.1", self.port)),
            ("udp", socket.AF_INET, socket.SOCK_DGRAM, ("127.0.0.1", self.port)),
            ("unix path", unix, socket.SOCK_STREAM, self.unix_path),
            ("abstract unix", unix, socket.SOCK_STREAM, f"\0{self.abstract}"),
        ):
            try:
                with socket.socket(family, kind) as caller:
                    caller.settimeout(5.0)
                    caller.connect(address)
                    if kind == socket.SOCK_DGRAM:
                        caller.send(b"?")
                    answer = caller.recv(4096).decode()
            except OSError as error:
                raise SandboxBroken(f"the canary of {name} does not answer: {error}") from error
            if answer != self.secret or not self._canaries.touched[name]:
                raise SandboxBroken(f"the canary of {name} answers wrongly")
        self._canaries.touched.clear()

    def _end_victim(self) -> None:
        self._victim.kill()
        self._victim.wait()


def held_slots() -> set[int]:
    """Numbers of the slots that this process holds now."""
    where, held = str(slots.folder()), set()
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            folder, _, number = os.readlink(f"/proc/self/fd/{name}").rpartition("/")
            if folder == where and number.isdigit():
                held.add(int(number))
    return held


@contextlib.contextmanager
def _environment(name: str, value: str) -> Iterator[None]:
    before = os.environ.get(name)
    os.environ[name] = value
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before


def _state(pid: int) -> str:
    text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    return text.rpartition(")")[2].split()[0]
