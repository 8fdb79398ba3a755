"""Run the attacks against a tier, and after each look whether the host is as it was."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from rich.console import Console
from rich.table import Table
from rich.text import Text

from rlagents.envs.sandbox import choice
from rlagents.envs.sandbox.attack import (
    deception,
    doors,
    escapes,
    launchers,
    lifetimes,
    memory,
    payloads,
    queues,
    resources,
    theft,
    traps,
)
from rlagents.envs.sandbox.attack.case import Case, Verdict
from rlagents.envs.sandbox.attack.host import LiveHost
from rlagents.envs.sandbox.attack.leftovers import CLEAN_UP_S, mark, wait_until_gone
from rlagents.envs.sandbox.box import Sandbox
from rlagents.envs.sandbox.config import SandboxConfig
from rlagents.errors import ConfigError, SandboxBroken, boundary

CASES: tuple[Case, ...] = (
    *resources.CASES,
    *memory.CASES,
    *queues.CASES,
    *theft.CASES,
    *escapes.CASES,
    *doors.CASES,
    *lifetimes.CASES,
    *launchers.CASES,
    *traps.CASES,
    *deception.CASES,
    *payloads.CASES,
)

HARMLESS = {case.name for case in (*deception.CASES, *payloads.CASES)} | {
    "big_file",
    "core_dumps",
    "daemon",
    "descriptors",
    "first_environment",
    "flood_both",
    "flood_stdout",
    "holds_output",
    "host_sockets",
    "inherited",
    "interpreter",
    "kernel_talk",
    "launcher_killed",
    "links_for_us",
    "locked_out",
    "memory_huge_pages",
    "outlive_in_files",
    "own_proc",
    "own_user",
    "plain_file",
    "raise_limits",
    "ray",
    "reading_results",
    "secret_by_links",
    "secret_by_proc",
    "secret_by_walking",
    "secret_directly",
    "secret_in_environments",
    "secret_in_memories",
    "stubborn",
}
"""Attacks that do no harm where nothing contains them. Of the others one kills every process of
the user, one writes into the interpreter, one asks the kernel to restart."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """An attack, and the host after it."""

    case: Case
    verdict: Verdict
    cleanup_s: float
    """From closing its sandboxes to nothing of it being left."""
    damage: tuple[str, ...]
    """What happened to the canaries."""
    left: tuple[str, ...]
    """What was still there after `CLEAN_UP_S`."""
    next_run: str
    """Empty when harmless commands ran rightly afterwards, else what came instead."""
    seconds: float
    """Of everything."""

    @property
    def canaries_intact(self) -> bool:
        """Whether nothing of the host was changed or reached."""
        return not self.damage

    @property
    def next_run_ok(self) -> bool:
        """Whether the attacked sandbox, where it was still open, and a fresh one work."""
        return not self.next_run

    @property
    def held(self) -> bool:
        """Whether the tier passes."""
        return self.verdict.contained and not (self.damage or self.left or self.next_run)

    @property
    def complaint(self) -> str:
        """Why it does not pass, in a line."""
        parts = [] if self.verdict.contained else [self.verdict.evidence]
        parts += self.damage
        parts += [f"left after {CLEAN_UP_S:g} s: {thing}" for thing in self.left[:3]]
        parts += [f"the next run: {self.next_run}"] if self.next_run else []
        return "; ".join(parts)


def run(
    tier: str,
    cases: Sequence[Case] | None = None,
    on_result: Callable[[Outcome], None] | None = None,
) -> list[Outcome]:
    """Attack a tier, one case after the other.

    Args:
        tier: as `SandboxConfig.tier`.
        cases: all of them unless given.
        on_result: told each outcome when it is known.

    Raises:
        ConfigError: this machine can't give the tier.
        SandboxBroken: it does not even run a harmless command.
    """
    outcomes = []
    tier = choice.chosen(tier)
    with LiveHost(tier) as host:
        prepare(host)
        for case in CASES if cases is None else cases:
            outcomes.append(attack_with(case, host) if tried(tier, case) else _spared(case))
            if on_result is not None:
                on_result(outcomes[-1])
    return outcomes


def tried(tier: str, case: Case) -> bool:
    """Whether a case may be tried at all: with `none` only what is harmless is."""
    return tier != "none" or case.name in HARMLESS


def _spared(case: Case) -> Outcome:
    verdict = Verdict(False, "not tried: nothing would keep it from harming this machine")
    return Outcome(
        case=case, verdict=verdict, cleanup_s=0.0, damage=(), left=(), next_run="", seconds=0.0
    )


def prepare(host: LiveHost) -> None:
    """Run a harmless command, so that what is made once a process is not blamed on a case.

    Raises:
        SandboxBroken: it does not run.
    """
    problem = _harmless(host.open())
    host.close_all()
    if problem:
        raise SandboxBroken(f"tier {host.tier!r} runs nothing: {problem}")
    host.damage()


def attack_with(case: Case, host: LiveHost) -> Outcome:
    """One case, and the look at the host after it."""
    began, before = time.monotonic(), mark()
    host.noted.clear()
    verdict = _verdict(case, host)
    problems = [_harmless(box) for box in host.opened]
    try:
        host.close_all()
    except SandboxBroken as error:
        problems.append(str(error))
    cleanup_s, left = wait_until_gone(before, host.noted)
    try:
        problems.append(_harmless(host.open()))
        host.close_all()
    except SandboxBroken as error:
        problems.append(str(error))
    return Outcome(
        case=case,
        verdict=verdict,
        cleanup_s=cleanup_s,
        damage=tuple(host.damage()),
        left=tuple(left),
        next_run="; ".join(p for p in problems if p),
        seconds=time.monotonic() - began,
    )


def _verdict(case: Case, host: LiveHost) -> Verdict:
    try:
        with boundary(SandboxBroken, f"attack {case.name}"):
            return case.run(host)
    except ConfigError as error:
        return Verdict(True, f"not to be had in this tier: {error}")
    except SandboxBroken as error:
        return Verdict(False, str(error))


def _harmless(box: Sandbox) -> str:
    """Empty when a command works, or the case has closed its sandbox itself."""
    try:
        result = box.run("echo $((6 * 7))", wall_s=20.0)
    except ValueError:
        return ""
    except SandboxBroken as error:
        return str(error)
    if result.ok and result.stdout == "42\n":
        return ""
    return f"{result.describe()}: {result.output.strip()[-200:]}"


def summary(tier: str, outcomes: Sequence[Outcome]) -> str:
    """`strict: 47 of 47 held`."""
    held = sum(outcome.held for outcome in outcomes)
    return f"{tier}: {held} of {len(outcomes)} held"


def table(outcomes: Sequence[Outcome]) -> Table:
    """Every attack with what came of it."""
    made = Table(box=None, pad_edge=False)
    for column in ("attack", "from", "", "seen", "clean-up"):
        made.add_column(column, no_wrap=column == "attack")
    for outcome in outcomes:
        case = outcome.case
        seen = outcome.verdict.evidence if outcome.held else outcome.complaint
        # Words of hostile programs stand in the evidence: shown as they are, never as markup.
        made.add_row(
            Text(case.name),
            Text(case.source),
            Text("held", "green") if outcome.held else Text("NOT HELD", "bold red"),
            Text(plain(seen)),
            Text(f"{outcome.cleanup_s:.2f} s"),
        )
    return made


def report(tier: str, outcomes: Sequence[Outcome]) -> str:
    """The summary, and each attack that was not held: what it tries and what was seen."""
    lines = [summary(tier, outcomes)]
    for outcome in outcomes:
        if not outcome.held:
            case = outcome.case
            line = f"not held: {case.name} ({case.source}): {case.what}: {outcome.complaint}"
            lines.append(f"  {plain(line)}")
    return "\n".join(lines)


def plain(text: str) -> str:
    """Without characters that a terminal would obey."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def attack(tier: str, console: Console) -> int:
    """Run everything against a tier and print it.

    Returns:
        0 where every attack was held, else 1.

    Raises:
        ConfigError: no such tier, or this machine can't give it.
        SandboxBroken: it does not even run a harmless command.
    """
    name = choice.chosen(SandboxConfig.of({"tier": tier}).tier)

    def show(outcome: Outcome) -> None:
        mark = "held" if outcome.held else "NOT HELD"
        line = f"{mark:9} {outcome.case.name}: {outcome.case.what} ({outcome.seconds:.1f} s)"
        console.print(Text(plain(line)))

    console.print(Text(f"Attacking tier {name} with {len(CASES)} programs."))
    outcomes = run(name, on_result=show)
    console.print(table(outcomes))
    console.print(Text(report(name, outcomes)))
    return 0 if all(outcome.held for outcome in outcomes) else 1
