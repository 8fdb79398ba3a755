"""Talking to a container engine: Docker, or Podman, which takes the same words."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Sequence
from functools import cache
from typing import Any

from rlagents.envs.sandbox.result import Starved
from rlagents.envs.sandbox.tiers.base import program
from rlagents.errors import SandboxBroken

ENGINES = ("docker", "podman")
_CALL_S = 60.0
_PASSED = ("DOCKER_HOST", "DOCKER_CONTEXT", "CONTAINER_HOST", "HOME", "XDG_RUNTIME_DIR", "PATH")
"""What tells the engine's program where the engine is. Containers never see it."""


class EngineFailed(SandboxBroken):
    """The engine refused, with its own last words."""


@cache
def answering() -> str | None:
    """The first engine that answers."""
    for name in ENGINES:
        path = program(name)
        if path is None:
            continue
        try:
            asked = subprocess.run(
                [*_environment(), path, "ps", "--quiet"],
                capture_output=True,
                env={},
                timeout=_CALL_S,
            )
        except subprocess.TimeoutExpired:
            continue
        if asked.returncode == 0:
            return path
    return None


def command(*words: str) -> list[str]:
    """The whole command line, for an empty environment.

    Raises:
        EngineFailed: no engine answers.
    """
    path = answering()
    if path is None:
        raise EngineFailed("neither docker nor podman answers")
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
        EngineFailed: the engine refuses.
    """
    if answering() is None:  # nor has it any containers that run
        return
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
