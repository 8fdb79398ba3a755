"""The battery itself: it must see what a tier lets through, and what an attack leaves behind."""

from __future__ import annotations

import contextlib
import io
import os
import re
import signal
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from rlagents.envs.sandbox.attack import battery, leftovers
from rlagents.envs.sandbox.attack.battery import Outcome
from rlagents.envs.sandbox.attack.case import Case, Host, Verdict
from rlagents.envs.sandbox.attack.host import MARK, VARIABLE, LiveHost
from rlagents.envs.sandbox.attack.inside import program, told
from rlagents.envs.sandbox.result import Result
from rlagents.errors import SandboxBroken

BY_NAME = {case.name: case for case in battery.CASES}


@pytest.fixture(scope="module")
def weak() -> Iterator[LiveHost]:
    """A host whose sandboxes isolate nothing."""
    with LiveHost("none") as live:
        battery.prepare(live)
        yield live


def case(run: Any, name: str = "one") -> Case:
    return Case(name=name, source="ours", what="test", run=run)


def outcome(**values: Any) -> Outcome:
    plain = {"cleanup_s": 0.01, "damage": (), "left": (), "next_run": "", "seconds": 0.1}
    made = case(lambda host: Verdict(True, "seen"))
    return Outcome(**{"case": made, "verdict": Verdict(True, "seen"), **plain, **values})


def result(stdout: str) -> Result:
    return Result(
        stdout=stdout, stderr="", exit_status=0, wall_s=0, cpu_s=0, peak_memory=0, tier="x"
    )


@pytest.mark.parametrize(
    ("name", "complaint"),
    [
        ("secret_directly", "read the secret"),
        ("secret_by_links", "read the secret"),
        ("host_sockets", "the canary of abstract unix was reached"),
        ("outlive_in_files", "on the host: ['/tmp'"),
        ("own_user", "processes seen beside six of a neighbour"),
    ],
)
def test_a_tier_that_isolates_nothing_is_found_out(
    name: str, complaint: str, weak: LiveHost
) -> None:
    found = battery.attack_with(BY_NAME[name], weak)
    assert not found.held
    assert complaint in found.complaint


def test_a_leaking_environment_is_found_out(weak: LiveHost) -> None:
    class Leaky:
        """A host whose sandboxes are given what they must not have."""

        def __getattr__(self, name: str) -> Any:
            return getattr(weak, name)

        def open(self, **settings: Any) -> Any:
            return weak.open(**settings, env={VARIABLE: weak.secret})

    leaky: Any = Leaky()
    for name in ("secret_in_environments", "first_environment"):
        assert not BY_NAME[name].run(leaky).contained
    weak.close_all()


def test_what_an_attack_does_to_the_host_is_not_held(weak: LiveHost) -> None:
    def change(host: Host) -> Verdict:
        with open(host.writable_path, "a", encoding="utf-8") as file:
            file.write("x")
        Path(host.writable_path).with_name("new").touch()
        os.kill(host.victim, signal.SIGSTOP)
        return Verdict(True, "nothing, says the attack")

    found = battery.attack_with(case(change), weak)
    os.kill(weak.victim, signal.SIGCONT)
    assert set(found.damage) == {
        "writable.txt changed",
        "new appeared",
        "the victim is in state T",
    }
    assert not found.canaries_intact
    assert not found.held
    Path(weak.writable_path).with_name("new").unlink()
    weak.damage()


def test_what_an_attack_leaves_is_not_held(weak: LiveHost) -> None:
    left: list[Any] = []

    def leave(host: Host) -> Verdict:
        # In a session of its own and without an environment, as a daemon would be.
        left.append(
            subprocess.Popen(
                ["sh", "-c", "sleep 100 & exec setsid sleep 101"], env={}, start_new_session=True
            )
        )
        left.append(os.open("/dev/null", os.O_RDONLY))
        return Verdict(True, "nothing, says the attack")

    found = battery.attack_with(case(leave), weak)
    below = leftovers.mark().processes
    left[0].kill()
    left[0].wait()
    os.close(left[1])
    for pid, _ in below:
        with contextlib.suppress(OSError):
            if b"sleep\x00100" in Path(f"/proc/{pid}/cmdline").read_bytes():
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
    assert not found.held
    assert found.cleanup_s >= leftovers.CLEAN_UP_S
    assert [bool(re.search(r"process \d+ \(sleep 10[01]", thing)) for thing in found.left].count(
        True
    ) == 2
    assert "1 descriptor(s) of /dev/null" in found.left


def test_what_a_slot_named_must_be_gone(tmp_path: Path) -> None:
    there, gone = str(tmp_path), str(tmp_path / "gone")
    noted = [leftovers.Note(4000, "folder", there), leftovers.Note(4000, "folder", gone)]
    assert leftovers.left(leftovers.mark(), noted) == [f"folder {there}"]


def test_a_broken_sandbox_is_not_held(weak: LiveHost) -> None:
    def fail(host: Host) -> Verdict:
        raise SandboxBroken("processes [1] survive being killed")

    def crash(host: Host) -> Verdict:
        raise ZeroDivisionError

    assert battery.attack_with(case(fail), weak).complaint == "processes [1] survive being killed"
    assert "ZeroDivisionError" in battery.attack_with(case(crash), weak).complaint


def test_a_sandbox_that_does_not_work_any_more_is_not_held(weak: LiveHost) -> None:
    def spoil(host: Host) -> Verdict:
        box = host.open(wall_s=5.0)
        box._execute = lambda *_, **__: result("40\n")  # type: ignore[method-assign]
        return Verdict(True, "nothing, says the attack")

    found = battery.attack_with(case(spoil), weak)
    assert not found.next_run_ok
    assert "40" in found.complaint


def test_only_what_is_harmless_is_tried_without_isolation() -> None:
    tried = {c.name for c in battery.CASES if battery.tried("none", c)}
    assert tried == battery.HARMLESS  # no name in it is misspelt
    assert not tried & {"signal_all", "write_outside", "large_doors", "fork_bomb", "mounts"}
    assert all(battery.tried("strict", c) for c in battery.CASES)


def test_a_spared_attack_counts_as_not_held() -> None:
    (found,) = battery.run("none", [BY_NAME["signal_all"]])
    assert not found.held
    assert found.complaint.startswith("not tried")


def test_names_are_unique_and_every_row_and_trap_is_there() -> None:
    assert len(BY_NAME) == len(battery.CASES)
    assert all(c.what and c.source for c in battery.CASES)
    sources = {c.source for c in battery.CASES}
    assert sources >= {"1.3", "R7", *(f"trap {n}" for n in range(1, 11))}


def test_the_report_names_what_is_not_held() -> None:
    good = outcome()
    bad = outcome(
        case=case(lambda host: Verdict(True, ""), "bad\x1b[2J"), damage=("a.txt changed",)
    )
    late = replace(good, left=("process 7 (sleep, state S)",))
    assert (good.held, bad.held, late.held) == (True, False, False)
    text = battery.report("landlock", [good, bad, late])
    assert text.splitlines()[0] == "landlock: 1 of 3 held"
    assert "a.txt changed" in text
    assert "left after 2 s: process 7" in text
    assert "\x1b" not in text


def test_a_table_shows_words_of_programs_as_they_are() -> None:
    console = Console(width=200, record=True, file=io.StringIO())
    console.print(
        battery.table([outcome(verdict=Verdict(False, "[red]x[/red]\x1b]52;c;QQ==\x07"))])
    )
    shown = console.export_text()
    assert "[red]x[/red]" in shown
    assert "NOT HELD" in shown
    assert "\x1b" not in shown


def test_a_secret_can_be_looked_for_without_being_known(weak: LiveHost) -> None:
    assert weak.secret.startswith(MARK)
    assert weak.secret not in program("")
    assert re.search(r"rlagents-canary-[0-9a-f]{32}", weak.secret)
    assert not re.search(rb"rlagents-canary-[0-9a-f]{32}", program("").encode())


def test_the_last_evidence_counts() -> None:
    assert told(result('{"a": 1}\nnoise\n{"a": 2}\n{"a": ')) == {"a": 2}
    assert told(result("[1]\nnothing")) == {}
