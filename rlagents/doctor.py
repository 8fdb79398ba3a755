"""What this machine can run, and how to fix what it can't: the table behind `rlagents doctor`."""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Literal

from rich.console import Console
from rich.table import Table

from rlagents.envs.sandbox import SandboxConfig, choice
from rlagents.envs.sandbox.attack import battery
from rlagents.envs.sandbox.probe import probe
from rlagents.envs.sandbox.tiers.base import Tier
from rlagents.errors import SandboxBroken

NEEDED = ("transformers", "gymnasium", "ray", "trl", "tensorboard", "omegaconf", "safetensors")
_GIB = 2**30


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One line of the table."""

    what: str
    found: str
    level: Literal["ok", "warn", "missing"]
    fix: str = ""
    """What to do; empty where nothing is."""


def report(console: Console | None = None) -> int:
    """Print the table.

    Returns:
        0, or 1 where something is missing that training needs.
    """
    table = Table("what", "found", "", "how to fix it", box=None, pad_edge=False)
    findings = list(inspect_machine())
    styles = {"ok": "green", "warn": "yellow", "missing": "red"}
    for f in findings:
        table.add_row(f.what, f.found, f"[{styles[f.level]}]{f.level}[/]", f.fix)
    (console or Console()).print(table)
    return int(any(f.level == "missing" for f in findings))


def attack(tier: str, console: Console | None = None) -> int:
    """Run the hostile battery against a tier of the sandbox and print what it held.

    Returns:
        0 where every attack was contained, else 1.

    Raises:
        ConfigError: no such tier, or this machine can't give it.
    """
    return battery.attack(tier, console or Console())


def inspect_machine() -> Iterator[Finding]:
    """Look at everything that a run depends on. Imports torch; starts nothing."""
    yield _python()
    yield from _torch()
    for name in NEEDED:
        yield _package(name)
    yield memory_finding(_available_memory())
    runs = Path("runs") if Path("runs").is_dir() else Path()
    yield disk_finding(shutil.disk_usage(runs).free, writable=os.access(runs, os.W_OK))
    yield from sandbox_findings(choice.TABLE)
    yield _terminal()


def sandbox_findings(tiers: Mapping[str, Tier]) -> Iterator[Finding]:
    """The tier of isolation that `sandbox.tier: auto` means here, probed, and the others."""
    name = choice.chosen("auto")
    problem = tiers[name].problem()
    if problem is not None:
        yield Finding(what="sandbox", found=f"{name} can't be had", level="warn", fix=problem)
    else:
        yield _probed(tiers[name])
    for other, tier in tiers.items():
        if other != name:
            problem = tier.problem()
            can = "works, when asked for" if problem is None else "can't be had"
            weaker = f"weaker: rlagents doctor --attack --tier {other} shows where"
            fix = problem or (weaker if tier.gaps else "")
            yield Finding(what=f"  {other}", found=can, level="ok", fix=fix)


def _probed(tier: Tier) -> Finding:
    what = "sandbox"
    try:
        findings = probe(tier, SandboxConfig())
    except SandboxBroken as error:
        return Finding(what=what, found=f"{tier.name} fails", level="warn", fix=str(error))
    broken = [f"{f.what}: {f.seen}" for f in findings if not f.held]
    if broken:
        fix = f"not contained: {'; '.join(broken)}"
        return Finding(what=what, found=f"{tier.name} does not hold", level="warn", fix=fix)
    why = "auto, as root" if tier.name == "strict" else "auto, as an ordinary user"
    found = f"{tier.name} ({why}): {len(findings)} ways out probed, all closed"
    return Finding(what=what, found=found, level="ok")


def memory_finding(available: int | None) -> Finding:
    """Judge the free memory, in bytes; None where the system does not say."""
    if available is None:
        return Finding(what="memory", found="unknown", level="ok")
    found = f"{available / _GIB:.1f} GiB available"
    if available < 3 * _GIB:
        fix = "a Ray worker takes about 1 GiB: use rollout.executor=local, or close programs"
        return Finding(what="memory", found=found, level="warn", fix=fix)
    return Finding(what="memory", found=found, level="ok")


def disk_finding(free: int, *, writable: bool) -> Finding:
    """Judge the disk that run folders go to, in bytes."""
    found = f"{free / _GIB:.1f} GiB free for runs/"
    if not writable:
        fix = "write elsewhere with run.dir=PATH"
        return Finding(what="disk", found="not writable here", level="missing", fix=fix)
    if free < 2 * _GIB:
        fix = "checkpoints need room: free some, or write elsewhere with run.dir=PATH"
        return Finding(what="disk", found=found, level="warn", fix=fix)
    return Finding(what="disk", found=found, level="ok")


def _python() -> Finding:
    return Finding(what="python", found=platform.python_version(), level="ok")


def _torch() -> Iterator[Finding]:
    if importlib.util.find_spec("torch") is None:
        fix = "pip install torch==2.13.0 (TORCH_INDEX chooses the build in the Makefile)"
        yield Finding(what="torch", found="not installed", level="missing", fix=fix)
        return
    import torch

    yield Finding(what="torch", found=torch.__version__, level="ok")
    cores, threads = os.cpu_count() or 1, torch.get_num_threads()
    yield Finding(what="threads", found=f"{threads} of torch, {cores} cores", level="ok")
    yield Finding(what="device", found=_devices(), level="ok")
    if torch.version.cuda and not torch.cuda.is_available():
        fix = "no driver or no GPU: training runs on the CPU; a CPU build is smaller"
        yield Finding(what="cuda", found=f"build {torch.version.cuda}", level="warn", fix=fix)


def _devices() -> str:
    import torch

    if torch.cuda.is_available():
        count = torch.cuda.device_count()
        return ", ".join(f"cuda:{i} {torch.cuda.get_device_name(i)}" for i in range(count))
    return "mps" if torch.backends.mps.is_available() else "cpu"


def _package(name: str) -> Finding:
    try:
        return Finding(what=name, found=metadata.version(name), level="ok")
    except metadata.PackageNotFoundError:
        fix = f"pip install -c constraints.txt {name}"
        return Finding(what=name, found="not installed", level="missing", fix=fix)


def _available_memory() -> int | None:
    """Bytes that could be used without swapping, on Linux; elsewhere the size of the memory."""
    info = Path("/proc/meminfo")
    if info.is_file():
        for line in info.read_text(encoding="ascii").splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    if "SC_PHYS_PAGES" in getattr(os, "sysconf_names", {}):
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return None


def _terminal() -> Finding:
    if sys.stdout.isatty():
        return Finding(what="terminal", found="yes: progress bars", level="ok")
    return Finding(what="terminal", found="no: plain lines of progress", level="ok")
