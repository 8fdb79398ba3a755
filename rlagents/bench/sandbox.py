"""What isolation costs: the same program in a sandbox and bare, and a session's round trip.

`overhead_ms` is `python3 -I -c pass` in a sandbox that stands, minus the same interpreter bare:
median of differences of neighbours in time, so that a machine that slows down or speeds up favours
neither. `failures` of the crowd are sandboxes, made and used many at once, that did not answer.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from rlagents.bench.report import Result, figure, machine
from rlagents.envs.sandbox import Sandbox, SandboxConfig, Session
from rlagents.errors import SandboxBroken

SYSTEM_PYTHON = "/usr/bin/python3"
"""Stands at the same path inside with the same packages, so both sides start the same."""


def run(
    *,
    tier: str = "auto",
    repeats: int = 3,
    runs: int = 30,
    turns: int = 300,
    sandboxes: int = 200,
    at_once: int = 16,
) -> Result:
    """Measure all figures. Takes about half a minute on one core with the defaults.

    Args:
        tier: of `SandboxConfig`; `auto` is what this user gets.
        repeats: figures are medians over them.
        runs: programs run on each side of a comparison, in each repeat.
        turns: of each session, in each repeat.
        sandboxes: made, used and closed in the crowd.
        at_once: of those.
    """
    config = SandboxConfig.of({"tier": tier})
    measured: dict[str, list[float]] = {}

    def note(key: str, value: float) -> None:
        measured.setdefault(key, []).append(value)

    for _ in range(repeats):
        for key, value in _programs(config, runs).items():
            note(key, value)
        with Sandbox(config) as box:
            with box.repl() as session:
                note("roundtrip_ms", _roundtrip_ms(session, "pass", turns))
            with box.shell() as session:
                note("shell_roundtrip_ms", _roundtrip_ms(session, ":", turns))
        failures, seconds = _crowd(config, sandboxes, at_once)
        note("failures", failures)
        note("crowd_s", seconds)
    rows: list[dict[str, Any]] = [
        {"repeat": repeat, **{key: round(values[repeat], 3) for key, values in measured.items()}}
        for repeat in range(repeats)
    ]
    with Sandbox(config) as box:
        name = box.tier
    return Result(
        bench="sandbox",
        machine=machine(tier=name, uid=os.geteuid(), crowd=f"{sandboxes}, {at_once} at once"),
        rows=rows,
        figures={key: figure(values) for key, values in measured.items()},
    )


def _programs(config: SandboxConfig, runs: int) -> dict[str, float]:
    """Medians in ms: bare, beyond it in a sandbox, making one, and all of it."""
    python = SYSTEM_PYTHON if os.path.exists(SYSTEM_PYTHON) else sys.executable
    inside = python if python == SYSTEM_PYTHON else "python3"
    code = ["-I", "-c", "pass"]

    def bare() -> None:
        subprocess.run([python, *code], env={}, capture_output=True, check=True)

    def made() -> None:
        Sandbox(config).close()

    def whole() -> None:
        with Sandbox(config) as fresh:
            _require(fresh.run([inside, *code]).ok)

    rounds: list[tuple[float, float, float, float]] = []
    with Sandbox(config) as box:

        def boxed() -> None:
            _require(box.run([inside, *code]).ok)

        for _ in range(runs):
            rounds.append((_ms(bare), _ms(boxed), _ms(made), _ms(whole)))
    alone, within, create, full = zip(*rounds, strict=True)
    beyond = [w - a for a, w in zip(alone, within, strict=True)]
    return {
        "bare_ms": statistics.median(alone),
        "overhead_ms": statistics.median(beyond),
        "create_ms": statistics.median(create),
        "full_ms": statistics.median(full),
    }


def _roundtrip_ms(session: Session, text: str, turns: int) -> float:
    """Median of the turns."""

    def turn() -> None:
        _require(session.run(text).exit_status == 0)

    return statistics.median(_ms(turn) for _ in range(turns))


def _crowd(config: SandboxConfig, count: int, at_once: int) -> tuple[int, float]:
    """How many of the sandboxes failed, and the seconds all took."""

    def answers(number: int) -> bool:
        try:
            with Sandbox(config) as box:
                box.write("number", str(number))
                return box.run("cat number").stdout == str(number)
        except SandboxBroken:
            return False

    started = time.perf_counter()
    with ThreadPoolExecutor(at_once) as threads:
        right = sum(threads.map(answers, range(count)))
    return count - right, time.perf_counter() - started


def _ms(work: Callable[[], None]) -> float:
    started = time.perf_counter()
    work()
    return 1e3 * (time.perf_counter() - started)


def _require(holds: bool) -> None:
    if not holds:
        raise SandboxBroken("bench: a program that does nothing failed in the sandbox")
