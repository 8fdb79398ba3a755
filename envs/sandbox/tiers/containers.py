"""What the tiers share whose programs can't inherit descriptors: sessions over named pipes."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from rlagents.envs.sandbox.tiers.base import Lines

CONTROL = "/run/control"
"""Where the folder of the pipes stands inside, read-only."""
_OPENER = ("/bin/sh", "-c", 'exec 8<"$1" 9>"$2"; shift 2; exec "$@"', "sh")


def named(folder: str, number: int) -> Lines:
    """Lines of named pipes in a folder of the host that stands at `CONTROL` inside.

    Args:
        number: of the session, unique in the folder.
    """
    names = [f"{number}.requests", f"{number}.replies"]
    paths = [os.path.join(folder, name) for name in names]
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
    return Lines(
        requests=ends[0],
        replies=ends[1],
        inside=(8, 9),
        opener=(*_OPENER, *(f"{CONTROL}/{name}" for name in names)),
        names=tuple(paths),
    )


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
