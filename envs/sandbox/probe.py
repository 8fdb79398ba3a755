"""The self-probe: before anything of an agent runs, try the ways out and see them closed.

A machine can accept every option and still not contain (a kernel without a feature, a container
that hides one, a bubblewrap that was replaced). So the tier is believed only after canaries of the
host (a file, two sockets, our environment) were out of reach from inside, and forks were bounded.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import socket
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from rlagents.envs.sandbox.command import execute
from rlagents.envs.sandbox.config import SandboxConfig
from rlagents.envs.sandbox.process import Streams
from rlagents.envs.sandbox.tiers.base import Tier, environment
from rlagents.errors import SandboxBroken, boundary

PROCESSES = 24
WALL_S = 20.0
_GIVEN_BY_SHELLS = {"PWD", "OLDPWD", "SHLVL", "_", "LC_CTYPE", "HOSTNAME"}


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that the probe tried."""

    what: str
    """`a file of the host`, ..."""
    held: bool
    seen: str


def probe(tier: Tier, config: SandboxConfig) -> list[Finding]:
    """Try the ways out of a tier, from inside.

    Takes about a tenth of a second.

    Raises:
        SandboxBroken: the probe itself could not run.
    """
    small = replace(
        config, processes=PROCESSES, wall_s=WALL_S, packages=(), readonly={}, output_kb=64
    )
    with boundary(SandboxBroken, f"probing tier {tier.name!r}"), _canaries() as canaries:
        box = tier.open(small)
        try:
            told = json.dumps(canaries | {"most": 4 * PROCESSES}).encode()
            argv = ["python3", "-I", "-c", _PROGRAM]
            done = execute(box, argv, Streams.of(small), wall_s=WALL_S, stdin=told)
        finally:
            box.close()
        if done.exit_status != 0:
            raise SandboxBroken(
                f"probing tier {tier.name!r}: {done.describe()}: {done.stderr[-500:]}"
            )
        seen = json.loads(done.stdout)
    names = set(environment(config, path="", home="")) | _GIVEN_BY_SHELLS
    extra = sorted(set(seen["environment"]) - names)
    forks = seen["forks"]
    return [
        _out_of_reach("a file of the host", seen["file"]),
        _out_of_reach("a TCP port of the host", seen["port"]),
        _out_of_reach("an abstract UNIX socket of the host", seen["abstract"]),
        _out_of_reach("a UNIX socket of the host", seen["unix"]),
        _out_of_reach("Ray's token and sockets", seen["ray"]),
        Finding("our environment", not extra, ", ".join(extra) or "not visible"),
        Finding("forks", forks <= PROCESSES + 8, f"{forks} at once, of {4 * PROCESSES} tried"),
    ]


def _out_of_reach(what: str, reached: str) -> Finding:
    return Finding(what, not reached, reached or "out of reach")


@contextlib.contextmanager
def _canaries() -> Iterator[dict[str, object]]:
    """Things of the host that nothing inside may reach."""
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="rlagents-probe-")))
        folder.chmod(0o755)
        file = folder / "secret"
        file.write_text(secrets.token_hex(16))
        file.chmod(0o644)
        tcp = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        abstract = stack.enter_context(socket.socket(socket.AF_UNIX))
        name = f"rlagents-probe-{secrets.token_hex(8)}"
        abstract.bind("\0" + name)
        abstract.listen()
        unix = stack.enter_context(socket.socket(socket.AF_UNIX))
        unix.bind(str(folder / "socket"))
        unix.listen()
        (folder / "socket").chmod(0o666)
        yield {
            "file": str(file),
            "port": tcp.getsockname()[1],
            "abstract": name,
            "unix": str(folder / "socket"),
            "ray": [os.path.expanduser("~/.ray"), "/tmp/ray"],
        }


_PROGRAM = r"""
import glob, json, os, signal, socket, sys
canaries = json.load(sys.stdin)

def attempt(action):
    try:
        return action() or "reached"
    except OSError:
        return ""

def connect(family, address):
    with socket.socket(family) as s:
        s.settimeout(1)
        s.connect(address)

def environment():
    names = set(os.environ)
    for path in glob.glob("/proc/[0-9]*/environ"):
        try:
            with open(path, "rb") as f:
                parts = f.read().decode(errors="replace").split("\0")
            names |= {part.split("=")[0] for part in parts if part}
        except OSError:
            pass
    return sorted(names)

def forks():
    children = []
    try:
        while len(children) < canaries["most"]:
            pid = os.fork()
            if pid == 0:
                signal.pause()
                os._exit(0)
            children.append(pid)
    except OSError:
        pass
    for pid in children:
        os.kill(pid, signal.SIGKILL)
    for pid in children:
        os.waitpid(pid, 0)
    return len(children)

print(json.dumps({
    "file": attempt(lambda: open(canaries["file"]).close()),
    "port": attempt(lambda: connect(socket.AF_INET, ("127.0.0.1", canaries["port"]))),
    "abstract": attempt(lambda: connect(socket.AF_UNIX, "\0" + canaries["abstract"])),
    "unix": attempt(lambda: connect(socket.AF_UNIX, canaries["unix"])),
    "ray": " ".join(p for p in canaries["ray"] if attempt(lambda: os.listdir(p) and p)),
    "environment": environment(),
    "forks": forks(),
}))
"""
