"""Which tier a configuration means, and whether this machine can give it."""

from __future__ import annotations

import os
import threading
from functools import cache
from typing import Literal

from rlagents.envs.sandbox import slots
from rlagents.envs.sandbox.config import TIERS, SandboxConfig
from rlagents.envs.sandbox.probe import probe
from rlagents.envs.sandbox.tiers.bare import Bare
from rlagents.envs.sandbox.tiers.base import Tier
from rlagents.envs.sandbox.tiers.bubblewrap import Bubblewrap
from rlagents.envs.sandbox.tiers.docker import Docker
from rlagents.envs.sandbox.tiers.gvisor import Gvisor
from rlagents.envs.sandbox.tiers.landlock import Landlock
from rlagents.errors import ConfigError, SandboxBroken

TABLE: dict[str, Tier] = {
    "strict": Bubblewrap("strict"),
    "user": Bubblewrap("user"),
    "gvisor": Gvisor(),
    "docker": Docker(),
    "landlock": Landlock(),
    "none": Bare(),
}

_asking = threading.Lock()


def _after_fork() -> None:
    global _asking
    _asking = threading.Lock()  # whoever held it is not in this process


os.register_at_fork(after_in_child=_after_fork)


def ready(config: SandboxConfig) -> Tier:
    """The tier, found to hold by a self-probe (once a process), after a look for left-overs.

    Raises:
        ConfigError: the machine can't give it, with what to install and what would work.
        SandboxBroken: the probe found it open.
    """
    name = chosen(config.tier)
    tier = TABLE[name]
    with _asking:  # the first of many threads asks for all of them
        if (problem := cached_problem(name)) is not None:
            raise ConfigError(
                f"sandbox.tier: {name!r} can't be had here: {problem}{_instead(name)}"
            )
        _clean_up()
        _require_held(name, config.network, config.image)
    return tier


@cache
def _clean_up() -> None:
    """Remove what killed processes left behind, once a process."""
    cleaners: dict[str, slots.Cleaner] = {}
    for tier in TABLE.values():
        cleaners |= tier.cleaners
    slots.reap(cleaners)


@cache
def _require_held(name: str, network: Literal["none", "loopback"], image: str) -> None:
    """Probe a tier, once a process. `none` promises nothing, so nothing is asked of it."""
    if name == "none":
        return
    findings = probe(TABLE[name], SandboxConfig(network=network, image=image))
    broken = [f"{f.what}: {f.seen}" for f in findings if not f.held]
    if broken:
        raise SandboxBroken(
            f"sandbox.tier: {name!r} does not hold on this machine ({'; '.join(broken)})"
        )


def chosen(name: str) -> str:
    """The tier that a setting means."""
    if name != "auto":
        return name
    return "strict" if os.geteuid() == 0 else "user"


@cache
def cached_problem(name: str) -> str | None:
    """As `Tier.problem`, asked once a process."""
    return TABLE[name].problem()


def _instead(name: str) -> str:
    """The weaker tiers that would work here; nobody gets one without asking for it."""
    works = [t for t in TABLE if t not in (name, "none") and cached_problem(t) is None]
    weaker = [t for t in works if TIERS.index(t) > TIERS.index(name)]
    return f"; weaker tiers that work here: {', '.join(weaker)}" if weaker else ""
