"""What the tiers share whose programs can't inherit descriptors: sessions over named pipes."""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass
from pathlib import Path

from rlagents.envs.sandbox.tiers.base import Lines

CONTROL = "/run/control"
"""Where the folder of the pipes stands inside, read-only."""
_TO_PIPES = ("/bin/sh", "-c", 'exec >"$1" 2>"$2"; shift 2; exec "$@"', "sh")
_OPENER = ("/bin/sh", "-c", 'exec 8<"$1" 9>"$2"; shift 2; exec "$@"', "sh")


def named(folder: str, number: int) -> Lines:
    """Lines of named pipes in a folder of the host that stands at `CONTROL` inside.

    Args:
        number: of the session, unique in the folder.
    """
    paths, ends = _make(folder, f"{number}.requests", f"{number}.replies")
    return Lines(
        requests=ends[0],
        replies=ends[1],
        inside=(8, 9),
        opener=(*_OPENER, *map(_inside, paths)),
        names=paths,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Outputs:
    """Named pipes for what a program writes."""

    stdout: int
    stderr: int
    opener: tuple[str, ...]
    """Command prefix that makes them its standard output and error."""
    names: tuple[str, ...]

    def unlink(self) -> None:
        """Remove the names; the ends are closed by whoever reads. Twice is fine."""
        for name in self.names:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(name)

    def close(self) -> None:
        """Free everything, where nobody reads. Once only."""
        os.close(self.stdout)
        os.close(self.stderr)
        self.unlink()


def streams(folder: str, number: int) -> Outputs:
    """Named pipes for the output of a program, in a folder that stands at `CONTROL` inside."""
    paths, ends = _make(folder, f"{number}.out", f"{number}.err")
    opener = (*_TO_PIPES, *map(_inside, paths))
    return Outputs(stdout=ends[0], stderr=ends[1], opener=opener, names=paths)


def _make(folder: str, *names: str) -> tuple[tuple[str, ...], list[int]]:
    """Paths of new named pipes, and descriptors that do not block."""
    paths = tuple(os.path.join(folder, name) for name in names)
    ends: list[int] = []
    try:
        for path in paths:
            os.mkfifo(path)
            os.chmod(path, 0o666)  # whatever the umask says
            # Both ways, so that no end waits for the other to be opened.
            ends.append(os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC))
    except BaseException:
        for end in ends:
            os.close(end)
        for path in paths:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)
        raise
    return paths, ends


def _inside(path: str) -> str:
    return f"{CONTROL}/{os.path.basename(path)}"


def mountpoints(root: Path, wanted: dict[str, bool]) -> None:
    """Make empty files and folders for things to be mounted over.

    Args:
        wanted: absolute path inside -> whether it is a folder.
    """
    for inside, is_folder in wanted.items():
        path = root / inside.lstrip("/")
        if is_folder:
            path.mkdir(parents=True, exist_ok=True)
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
