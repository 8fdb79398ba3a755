"""Talking to the container engine.

Docker alone: Podman takes the same words, but it reads the size of a volume as a quota of the disk
that it lies on, so it has no workspace that is capped.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Sequence
from functools import cache
from typing import Any

from rlagents.envs.sandbox.result import Starved
from rlagents.envs.sandbox.slots import Later
from rlagents.envs.sandbox.tiers.base import program
from rlagents.errors import SandboxBroken

_CALL_S = 60.0
_PASSED = ("DOCKER_HOST", "DOCKER_CONTEXT", "HOME", "XDG_RUNTIME_DIR", "PATH")
"""What tells the engine's program where the engine is. Containers never see it."""


class EngineFailed(SandboxBroken):
    """The engine refused, with its own last words."""


@cache
def answering() -> str | None:
    """Full path of the engine's program, if the engine answers."""
    path = program("docker")
    if path is None:
        return None
    question = [*_environment(), path, "ps", "--quiet"]
    try:
        asked = subprocess.run(question, capture_output=True, env={}, timeout=_CALL_S)
    except subprocess.TimeoutExpired:
        return None
    return path if asked.returncode == 0 else None


def command(*words: str) -> list[str]:
    """The whole command line, for an empty environment.

    Raises:
        EngineFailed: no engine answers.
    """
    path = answering()
    if path is None:
        raise EngineFailed("docker does not answer")
    return [*_environment(), path, *words]


def call(*words: str) -> str:
    """What the engine says to a command.

    Raises:
        EngineFailed: it refuses, or does not answer.
        Starved: the machine is out of something.
    """
    try:
        done = subprocess.run(
            command(*words), capture_output=True, text=True, env={}, timeout=_CALL_S
        )
    except subprocess.TimeoutExpired:
        raise EngineFailed(f"{words[0]}: no answer within {_CALL_S:g} s") from None
    except OSError as error:
        raise Starved(f"{words[0]}: {error}") from error
    if done.returncode == 0:
        return done.stdout.strip()
    last = (done.stderr.strip().splitlines() or ["no word"])[-1]
    kind = Starved if "temporarily unavailable" in last else EngineFailed
    raise kind(f"{words[0]}: {last}")


def state(container: str) -> dict[str, Any]:
    """`Status`, `ExitCode`, `Pid` (0 when it does not run), `Error`, ...

    Raises:
        EngineFailed: there is no such container.
    """
    return json.loads(call("inspect", "--format", "{{json .State}}", container))


def remove(label: str) -> None:
    """Everything that was made under a label. Harmless when nothing is left.

    Raises:
        Later: no engine answers.
        EngineFailed: it refuses.
    """
    if answering() is None:
        raise Later(f"docker does not answer: what is labelled {label} is still there")
    found = call("ps", "--all", "--quiet", "--filter", f"label={LABEL}={label}").split()
    if found:
        call("rm", "--force", "--volumes", *found)
    volumes = call("volume", "ls", "--quiet", "--filter", f"label={LABEL}={label}").split()
    if volumes:
        call("volume", "rm", "--force", *volumes)


LABEL = "rlagents"


def _environment() -> Sequence[str]:
    known = [f"{name}={os.environ[name]}" for name in _PASSED if name in os.environ]
    return ["/usr/bin/env", *known]
