"""The Python that programs inside get: the one that runs us, with the packages that were asked for.

Its own folder of packages is hidden, so that inside is only what the configuration names.
"""

from __future__ import annotations

import os
import site
import sys
from collections.abc import Sequence
from functools import cache
from importlib import metadata
from pathlib import Path

from rlagents.errors import ConfigError, nearest

SYSTEM = ("/usr/bin", "/bin")


def executable() -> str:
    """Full path of the interpreter inside."""
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    return os.path.join(sys.base_prefix, "bin", version)


def prefix() -> str | None:
    """The folder to offer, or None where the interpreter is below /usr, which always is there."""
    real = os.path.realpath(sys.base_prefix)
    return None if real == "/usr" or real.startswith("/usr/") else sys.base_prefix


def search_path() -> str:
    """PATH inside, such that `python3` is that interpreter."""
    return ":".join([os.path.join(sys.base_prefix, "bin"), *SYSTEM])


def packages_dir() -> str:
    """Where the interpreter looks for packages, also when it ignores the environment (`-I`).

    It exists where any does, because nothing can be made in a /usr that is offered as it is. The
    Python of Debian names one first that it has in virtual environments only.
    """
    return next(iter(hidden_dirs()), site.getsitepackages([sys.base_prefix])[0])


def hidden_dirs() -> tuple[str, ...]:
    """Folders of packages that the interpreter would otherwise find."""
    found = site.getsitepackages([sys.base_prefix])
    return tuple(d for d in found if os.path.isdir(d))


@cache
def package_paths(names: tuple[str, ...]) -> tuple[tuple[str, str], ...]:
    """Where the files of installed distributions and of what they need are, and belong inside.

    Raises:
        ConfigError: one is not installed.
    """
    paths: dict[str, str] = {}
    for name in _with_requirements(names):
        try:
            found = metadata.distribution(name)
        except metadata.PackageNotFoundError:
            installed = {d.name for d in metadata.distributions()}
            raise ConfigError(
                f"sandbox.packages: {name!r} is not installed{nearest(name, installed)}"
            ) from None
        root = Path(str(found.locate_file("")))
        for file in found.files or ():
            top = file.parts[0]
            if top in ("..", "__pycache__") or top.endswith(".pth"):
                continue
            if (root / top).exists():
                paths[top] = str(root / top)
    return tuple((where, os.path.join(packages_dir(), top)) for top, where in paths.items())


def _with_requirements(names: Sequence[str]) -> list[str]:
    """The names and what they need, by their metadata; what is not installed is left out."""
    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name

    found: dict[str, str] = {}
    waiting = list(names)
    while waiting:
        name = waiting.pop()
        key = canonicalize_name(name)
        if key in found:
            continue
        found[key] = name
        try:
            needs = metadata.requires(name) or ()
        except metadata.PackageNotFoundError:
            if name not in names:
                del found[key]
            continue
        for text in needs:
            need = Requirement(text)
            if need.marker is None or need.marker.evaluate({"extra": ""}):
                waiting.append(need.name)
    return sorted(found.values())
