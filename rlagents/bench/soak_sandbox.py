"""Whether thousands of sandboxed programs, many of them hostile, leave anything behind.

Good and hostile runs are mixed by a seed, several at once. Each knows how it must end; one that
ends otherwise is a failure. In between, with none running, what this process has is counted:
processes below it, descriptors, threads, mounts, cgroups that nobody owns, temporary files, and its
memory. The figures are the growth from the first count, which comes after a tenth of the runs.
"""

from __future__ import annotations

import contextlib
import fcntl
import gc
import os
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rlagents.bench.report import Result, figure, machine
from rlagents.bench.soak_programs import PROGRAMS, Unexpected
from rlagents.envs.sandbox import cgroups, proctree, slots
from rlagents.envs.sandbox.choice import chosen
from rlagents.errors import SandboxBroken


@dataclass(frozen=True, slots=True, kw_only=True)
class Count:
    """What this process has, or has left behind."""

    processes: int
    """Below it, dead ones that nobody buried included."""
    descriptors: int
    threads: int
    mounts: int
    """In the host's table."""
    cgroups: int
    """Of sandboxes that have no living owner."""
    slots: int
    """Held by us."""
    temporary: int
    """Names in the folder for temporary files, which is one of the soak's own."""
    rss: int
    """Bytes resident."""


def run(
    *, count: int = 2000, tier: str = "auto", seed: int = 0, at_once: int = 4, samples: int = 20
) -> Result:
    """Run the mix. The 2,000 take about three minutes on two cores.

    Args:
        count: runs.
        tier: of `SandboxConfig`; `auto` is what this user gets.
        seed: of the order.
        at_once: sandboxes that run programs at the same time.
        samples: counts in between.
    """
    rng = np.random.default_rng(seed)
    names = sorted(PROGRAMS)
    order = [names[i % len(names)] for i in range(count)]
    rng.shuffle(order)
    failures: Counter[str] = Counter()
    reasons: dict[str, str] = {}
    counts: list[tuple[int, Count]] = []
    started, done = time.perf_counter(), 0

    def one(name: str) -> None:
        try:
            PROGRAMS[name](tier)
        except (Unexpected, SandboxBroken) as error:
            failures[name] += 1
            reasons[name] = str(error)

    first = max(1, count // 10)
    steps = [first, *np.linspace(first, count, samples, dtype=int).tolist()[1:]]
    with _temporary_folder(), ThreadPoolExecutor(at_once) as threads:
        for step in steps:
            list(threads.map(one, order[done:step]))
            done = step
            counts.append((done, taken()))
    rows: list[dict[str, Any]] = [{"runs": at, **asdict(c), "failures": 0} for at, c in counts]
    rows[-1]["failures"] = failures.total()
    begin, end = counts[0][1], counts[-1][1]
    growth = {key: asdict(end)[key] - asdict(begin)[key] for key in asdict(begin) if key != "rss"}
    return Result(
        bench="sandbox-soak",
        machine=machine(
            tier=chosen(tier),
            uid=os.geteuid(),
            runs=count,
            at_once=at_once,
            seconds=round(time.perf_counter() - started, 1),
            unexpected={name: f"{failures[name]} x {reasons[name]}" for name in failures},
        ),
        rows=rows,
        figures={
            "failures": figure([failures.total()]),
            **{f"{key}_growth": figure([value]) for key, value in growth.items()},
            "rss_bytes_a_run": figure([slope({at: c.rss for at, c in counts})]),
        },
    )


def taken() -> Count:
    """What this process has now."""
    gc.collect()
    links = [_link(f"/proc/self/fd/{d}") for d in os.listdir("/proc/self/fd")]
    where = str(slots.folder())
    return Count(
        processes=len(proctree.descendants(os.getpid())) - 1,
        descriptors=len(links),
        threads=threading.active_count(),
        mounts=len(Path("/proc/self/mounts").read_text(encoding="utf-8").splitlines()),
        cgroups=len(orphans()),
        slots=sum(link.startswith(where + "/") for link in links),
        temporary=len(os.listdir(tempfile.gettempdir())),
        rss=proctree.resident(os.getpid()),
    )


def orphans() -> list[Path]:
    """Control groups of sandboxes whose slot nobody holds."""
    found = cgroups.layout()
    if isinstance(found, str):
        return []
    left = []
    for root in {found.pids, found.unified}:
        for path in root.glob("rlagents-*"):
            slot = slots.folder() / path.name.split("-")[1]
            if not _held(slot) and path.exists():
                left.append(path)
    return left


@contextlib.contextmanager
def _temporary_folder() -> Iterator[None]:
    """Temporary files go to a folder of their own, so that nobody else's are counted."""
    before = tempfile.tempdir
    with tempfile.TemporaryDirectory(prefix="rlagents-soak-") as folder:
        tempfile.tempdir = folder
        try:
            yield
        finally:
            tempfile.tempdir = before


def maker(group: Path) -> int:
    """The process that made a group, by its name: `rlagents-SLOT-PID-NUMBER`."""
    return int(group.name.split("-")[2])


def slope(values: Mapping[int, int]) -> float:
    """Of the line through the points, by least squares; 0 for a single point."""
    if len(values) < 2:
        return 0.0
    return float(np.polyfit(list(values), list(values.values()), 1)[0])


def _held(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


def _link(path: str) -> str:
    try:
        return os.readlink(path)
    except OSError:
        return ""
