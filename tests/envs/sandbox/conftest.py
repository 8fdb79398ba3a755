"""Sandboxes of both tiers for the contract tests, and a way to be an ordinary user."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol

import pytest

from rlagents.envs.sandbox import Sandbox
from rlagents.envs.sandbox.choice import cached_problem

ROOT = Path(__file__).resolve().parents[3]
ORDINARY = 61500
AsUser = Callable[[str], "subprocess.CompletedProcess[str]"]


class Open(Protocol):
    """Makes sandboxes that are closed after the test."""

    def __call__(self, **settings: Any) -> Sandbox: ...


@pytest.fixture(params=["strict", "user"])
def tier(request: pytest.FixtureRequest) -> str:
    if (problem := cached_problem(request.param)) is not None:
        pytest.skip(f"{request.param}: {problem}")
    return request.param


@pytest.fixture
def opened(tier: str) -> Iterator[Open]:
    made: list[Sandbox] = []

    def open_one(**settings: Any) -> Sandbox:
        made.append(Sandbox({"tier": tier, **settings}))
        return made[-1]

    yield open_one
    for box in made:
        box.close()


@pytest.fixture
def box(opened: Open) -> Sandbox:
    return opened()


@pytest.fixture
def as_user() -> Iterator[AsUser]:
    """Runs a Python program as an ordinary user, who can reach our interpreter and this checkout.

    What they lie in may be closed to others (root's home, say). So in a mount namespace of its own
    an open folder takes the closed one's place, with only them in it.
    """
    if os.geteuid() != 0:
        yield lambda code: _run([sys.executable, "-c", code], {})
        return
    if (problem := cached_problem("user")) is not None:
        pytest.skip(problem)
    home = tempfile.mkdtemp(prefix="rlagents-test-")
    os.chown(home, ORDINARY, ORDINARY)
    needed = sorted({sys.base_prefix, sys.prefix, str(ROOT), os.path.realpath(ROOT)})
    closed = {path: top for path in needed if (top := _closed_above(path)) is not None}
    lines = ["set -e", "mount -t tmpfs -o mode=755 tmpfs /mnt"]
    for number, path in enumerate(closed):
        lines.append(f"mkdir /mnt/{number}; mount --bind {shlex.quote(path)} /mnt/{number}")
    lines += [f"mount -t tmpfs -o mode=755 tmpfs {shlex.quote(a)}" for a in set(closed.values())]
    for number, path in enumerate(closed):
        there = shlex.quote(path)
        lines.append(f"mkdir -p {there}; mount --bind /mnt/{number} {there}")
    drop = f"--reuid {ORDINARY} --regid {ORDINARY} --clear-groups"
    lines.append(f'exec setpriv {drop} --inh-caps=-all --bounding-set=-all -- "$@"')
    prefix = ["unshare", "--mount", "--propagation", "private", "sh", "-c", "\n".join(lines), "sh"]
    own = dict.fromkeys(("HOME", "TMPDIR", "XDG_RUNTIME_DIR"), home)
    yield lambda code: _run([*prefix, sys.executable, "-c", code], own)
    shutil.rmtree(home)


def _run(command: list[str], env: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=120,
        cwd="/",
        env={**os.environ, "PYTHONPATH": str(ROOT), **env},
    )


def _closed_above(path: str) -> str | None:
    """The topmost folder on the way that others may not enter."""
    for folder in [*reversed(Path(path).parents), Path(path)]:
        if not folder.stat().st_mode & 0o001:
            return str(folder)
    return None
