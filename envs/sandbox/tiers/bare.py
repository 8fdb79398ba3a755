"""`none`: no isolation. Limits, a clean environment and the end of the whole tree, no more."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

from rlagents.envs.sandbox import seccomp, slots
from rlagents.envs.sandbox.config import SandboxConfig
from rlagents.envs.sandbox.tiers import landlock, users
from rlagents.envs.sandbox.tiers.keeper import asked
from rlagents.envs.sandbox.tiers.kept import CLEANERS, SHARED_GAPS, Confinement, KeptBox
from rlagents.envs.sandbox.tiers.layout import Folders


class Bare:
    """The tier for code that is trusted, and for machines that allow nothing else."""

    name = "none"
    cleaners: Mapping[str, slots.Cleaner] = CLEANERS
    gaps: Sequence[str] = (
        "nothing is isolated: programs read what any user can read, of an ordinary user "
        "everything, and write likewise",
        "the network is open, that of this machine too",
        "where Landlock can't scope signals (before Linux 6.12), programs of an ordinary user can "
        "signal this process",
        *SHARED_GAPS,
    )

    def problem(self) -> str | None:
        """There is none: it runs everywhere."""
        return None

    def open(self, config: SandboxConfig) -> KeptBox:
        """A new workspace.

        Raises:
            SandboxBroken: it can't be made.
        """
        drop = os.geteuid() == 0 and users.problem() is None
        return KeptBox("none", config, slots.take(self.cleaners), drop=drop, confine=_confine)


def _confine(_: Folders) -> Confinement:
    counted = os.geteuid() != 0 and seccomp.problem() is None
    asks = landlock.questions(asked.COUNTED) if counted else None
    # Not to hold anything in: so that the keeper can end everything, and nothing the keeper.
    if landlock.version() < landlock.SCOPES:
        return Confinement(asks=asks)
    return Confinement(scope=landlock.signals_only(), rules=landlock.signals_only(), asks=asks)
