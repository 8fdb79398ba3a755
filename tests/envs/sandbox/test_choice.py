"""Which tier one gets: the one asked for or an error that says what to do, never a weaker one."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from rlagents.envs.sandbox import Sandbox
from rlagents.envs.sandbox.choice import TABLE, cached_problem, chosen
from rlagents.envs.sandbox.config import TIERS
from rlagents.envs.sandbox.tiers.base import program
from rlagents.errors import ConfigError

ASK = """
import sys
from rlagents.envs.sandbox import Sandbox
from rlagents.errors import ConfigError
for tier in sys.argv[1:]:
    try:
        with Sandbox({} if tier == "default" else {"tier": tier}) as box:
            print("opened", tier, box.run("echo hello").stdout.strip())
    except ConfigError as error:
        print(error)
"""


def without_bubblewrap(*tiers: str) -> list[str]:
    """Ask for tiers where bubblewrap can't be found; a line for each."""
    command = [sys.executable, "-c", ASK, *tiers]
    if (found := program("bwrap")) is not None:
        if os.geteuid() != 0:
            pytest.skip("only root can hide bubblewrap, in a mount namespace")
        script = 'mount --bind /dev/null "$1" && shift && exec "$@"'
        hide = ["unshare", "--mount", "--propagation", "private", "sh", "-c", script, "sh", found]
        if subprocess.run([*hide, "true"], capture_output=True).returncode != 0:
            pytest.skip("bubblewrap can't be hidden: no mount namespace can be made")
        command = [*hide, *command]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(p or "." for p in sys.path)}
    done = subprocess.run(command, capture_output=True, text=True, env=env, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_without_bubblewrap_the_message_says_what_to_install_and_what_would_work() -> None:
    default, auto, name = without_bubblewrap("default", "auto", chosen("auto"))
    assert default == auto == name
    assert default.startswith(f"sandbox.tier: {chosen('auto')!r} can't be had here: bubblewrap is")
    assert "apt-get install bubblewrap" in default
    weaker = default.partition("; weaker tiers that work here: ")[2].split(", ")
    assert ("landlock" in weaker) == (cached_problem("landlock") is None)
    assert not {"strict", "user", "none"} & set(weaker)


def test_without_bubblewrap_the_weaker_tiers_work_when_asked_for() -> None:
    asked = [name for name in ("landlock", "none") if cached_problem(name) is None]
    assert without_bubblewrap(*asked) == [f"opened {name} hello" for name in asked]


def test_auto_means_the_strongest_for_who_asks() -> None:
    assert chosen("auto") == ("strict" if os.geteuid() == 0 else "user")
    assert [chosen(name) for name in TIERS] == list(TIERS)


def test_every_tier_says_what_it_does_not_hold() -> None:
    assert not TABLE["strict"].gaps
    for name in ("user", "landlock", "none"):
        assert TABLE[name].gaps
        assert all(isinstance(gap, str) and gap for gap in TABLE[name].gaps)


def test_a_tier_that_is_not_one_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"sandbox\.tier"):
        Sandbox({"tier": "strictest"})
