"""What stands in the folder of a workspace, and how a user of its own gets to it.

Nothing can be mounted, so programs see the host's paths. `python3` is a virtual environment of
links, which hides every package but those that the configuration names.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from rlagents.envs.sandbox import interpreter
from rlagents.envs.sandbox.config import SandboxConfig
from rlagents.errors import ConfigError

PREFIX = "rlagents-box-"


@dataclass(frozen=True, slots=True, kw_only=True)
class Folders:
    """The folders of a workspace, all below one."""

    base: str
    work: str
    tmp: str
    """Below it each command has one of its own, which is `TMPDIR`."""
    python: str
    offered: tuple[str, ...]
    """What programs must be able to read beside the system: real paths."""


def parent() -> str:
    """Where workspaces go: for root a folder that other users can reach."""
    return os.path.realpath(tempfile.gettempdir() if os.geteuid() != 0 else "/tmp")


def make(base: str, config: SandboxConfig, uid: int | None) -> Folders:
    """Make the folders of a workspace.

    Args:
        uid: who owns what programs may write to; None: we do.

    Raises:
        ConfigError: a setting that can't be had without mounting.
        OSError: they can't be made.
    """
    offered = _offered(config)
    folder(base, mode=passable(uid))
    made = Folders(
        base=base,
        work=os.path.join(base, "work"),
        tmp=os.path.join(base, "tmp"),
        python=os.path.join(base, "python"),
        offered=tuple(offered),
    )
    folder(made.work, uid)
    folder(made.tmp, mode=passable(uid))
    _link_python(made.python, config)
    return made


def passable(uid: int | None) -> int:
    """Mode of a folder of ours that a user of its own may pass through, and not look into."""
    return 0o700 if uid is None else 0o711


def folder(path: str, uid: int | None = None, *, mode: int = 0o700) -> None:
    """A new folder that belongs to a user."""
    os.mkdir(path)
    os.chmod(path, mode)
    if uid is not None:
        os.chown(path, uid, uid)


def _offered(config: SandboxConfig) -> list[str]:
    for inside, source in config.readonly.items():
        if os.path.realpath(source) != inside:
            raise ConfigError(
                f"sandbox.readonly: {inside}: nothing can be mounted in this tier, so it must be "
                f"the path outside too ({os.path.realpath(source)})"
            )
        if not os.path.exists(source):
            raise ConfigError(f"sandbox.readonly: {source} does not exist")
    packages = [source for source, _ in interpreter.package_paths(tuple(config.packages))]
    ours = interpreter.prefix()
    found = [*([] if ours is None else [ours]), *packages, *config.readonly]
    return list(dict.fromkeys(os.path.realpath(p) for p in found))


def _link_python(where: str, config: SandboxConfig) -> None:
    real = os.path.realpath(interpreter.executable())
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    packages = os.path.join(where, "lib", version, "site-packages")
    os.makedirs(packages, mode=0o755)
    os.mkdir(os.path.join(where, "bin"))
    for name in ("python3", "python", version):
        os.symlink(real, os.path.join(where, "bin", name))
    settings = os.path.join(where, "pyvenv.cfg")
    with open(settings, "w", encoding="utf-8") as file:
        file.write(f"home = {os.path.dirname(real)}\ninclude-system-site-packages = false\n")
    for source, inside in interpreter.package_paths(tuple(config.packages)):
        os.symlink(os.path.realpath(source), os.path.join(packages, os.path.basename(inside)))
    for path, _, names in os.walk(where):  # whatever our umask is
        os.chmod(path, 0o755)
        for name in names:
            if not os.path.islink(os.path.join(path, name)):
                os.chmod(os.path.join(path, name), 0o644)


def closed(paths: Iterable[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Folders that another user can't pass, and which of the paths are behind them.

    Args:
        paths: real paths.
    """
    doors: dict[str, None] = {}
    behind: list[str] = []
    for path in paths:
        door = next((d for d in _above(path) if not os.stat(d).st_mode & 0o001), None)
        if door is not None:
            doors[door] = None
            behind.append(path)
    return tuple(doors), tuple(behind)


def _above(path: str) -> Sequence[str]:
    """The folders on the way, from the root on."""
    parts = path.split("/")[1:-1]
    return ["/".join(["", *parts[:n]]) for n in range(1, len(parts) + 1)]
