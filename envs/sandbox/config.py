"""What a sandbox may do: the tier of isolation and the limits, as one frozen dataclass.

It arrives as the argument `sandbox` of an environment (`env.kwargs.sandbox` in a YAML), so every
error names a key that begins with `sandbox.`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import msgspec

from rlagents.errors import ConfigError, nearest

TierName = Literal["strict", "user", "gvisor", "docker", "landlock", "none"]
TIERS: tuple[str, ...] = get_args(TierName)
"""From the most contained that needs no engine to none at all."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SandboxConfig:
    """Isolation and limits. A limit that ends a command is named in its result by its key here."""

    tier: Literal["auto", "strict", "user", "gvisor", "docker", "landlock", "none"] = "auto"
    """`auto` is `strict` for root and `user` for everybody else, never anything weaker."""
    network: Literal["none", "loopback"] = "none"
    """`loopback` lets programs inside talk to each other over 127.0.0.1; nothing goes out."""
    packages: tuple[str, ...] = ()
    """Installed distributions that `python3` inside can import, read-only: numpy, ..."""
    readonly: Mapping[str, str] = field(default_factory=dict)
    """Path inside -> file or folder of the host that stands there, read-only."""
    env: Mapping[str, str] = field(default_factory=dict)
    """Environment variables inside, beside PATH, HOME, LANG and the like."""
    image: str = "python:3.11-slim"
    """Only for `tier: docker`: an image with `sh`, `tar` and `python3`."""

    wall_s: float = 30.0
    """Of a command, or of one turn of a session."""
    cpu_s: float = 30.0
    """Of all processes of a command, or of one turn of a session."""
    memory_mb: int = 1024
    """Resident memory of all processes of a command or session; the workspace is not in it."""
    processes: int = 64
    """Processes and threads at once."""
    open_files: int = 256
    """Descriptors of one process."""
    file_mb: int = 64
    """Size of one file."""
    workspace_mb: int = 64
    """Size of all files of the workspace. It is held in memory (`strict` and `user`)."""
    workspace_files: int = 4096
    """Files, folders and links of the workspace, and as many of `/tmp` and of `/dev/shm`."""
    tmp_mb: int = 16
    """Size of `/tmp`, and of `/dev/shm`. They last as long as the workspace."""
    output_kb: int = 64
    """Of each output stream, this much is kept: the head and the tail."""
    output_max_mb: int = 8
    """A command that writes more than this is ended."""

    def __post_init__(self) -> None:
        for name in ("wall_s", "cpu_s"):
            value = getattr(self, name)
            _require(0 < value <= _MAX_S, name, value, f"above 0, at most {_MAX_S:,} s")
        for name in _COUNTS:
            _require(getattr(self, name) >= 1, name, getattr(self, name), "1 or more")
        _require(self.memory_mb >= 32, "memory_mb", self.memory_mb, "32 or more")
        _require(self.processes >= 4, "processes", self.processes, "4 or more")
        _require(self.open_files >= 16, "open_files", self.open_files, "16 or more")
        for inside in self.readonly:
            plain = inside.startswith("/") and ".." not in inside.split("/")
            taken = any(inside == p or inside.startswith(p + "/") for p in _TAKEN)
            _require(plain and not taken, "readonly", inside, "an absolute path, none of ours")
        for name in self.env:
            good = name.isidentifier() and "\0" not in self.env[name]
            _require(good, "env", name, "the name of an environment variable")

    @classmethod
    def of(cls, values: SandboxConfig | Mapping[str, Any] | None) -> SandboxConfig:
        """The configuration that a mapping, as it comes out of a YAML, describes.

        Raises:
            ConfigError: one line with the full key: unknown, of another type, out of range.
        """
        if values is None:
            return cls()
        if isinstance(values, SandboxConfig):
            return values
        if not isinstance(values, Mapping):
            raise ConfigError(
                f"sandbox: expected a section with keys such as 'tier', got {values!r}"
            )
        known = [f.name for f in dataclasses.fields(cls)]
        for name in values:
            if name not in known:
                hint = nearest(f"sandbox.{name}", [f"sandbox.{k}" for k in known])
                raise ConfigError(f"sandbox.{name}: unknown key{hint}")
        for name, allowed in (("tier", ("auto", *TIERS)), ("network", ("none", "loopback"))):
            value = values.get(name, allowed[0])
            if value not in allowed:
                hint = nearest(str(value), allowed)
                raise ConfigError(
                    f"sandbox.{name}: expected one of {', '.join(allowed)}, got {value!r}{hint}"
                )
        try:
            return msgspec.convert(dict(values), cls)
        except msgspec.ValidationError as error:
            if isinstance(error.__cause__, ConfigError):
                raise error.__cause__ from None
            what, _, where = str(error).partition(" - at `$")
            said = f"{what[:1].lower()}{what[1:]}"
            raise ConfigError(f"sandbox{where.rstrip('`')}: {said}") from error


_MAX_S = 1_000_000
_COUNTS = (
    "file_mb",
    "workspace_mb",
    "workspace_files",
    "tmp_mb",
    "output_kb",
    "output_max_mb",
)
_TAKEN = ("/box", "/proc", "/dev", "/tmp", "/usr", "/bin", "/sbin", "/lib", "/lib64", "/")


def _require(holds: bool, name: str, value: object, expected: str) -> None:
    if not holds:
        raise ConfigError(f"sandbox.{name}: expected {expected}, got {value!r}")
