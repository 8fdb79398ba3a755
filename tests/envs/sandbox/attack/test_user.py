"""The whole battery against `user`, by an ordinary user."""

from __future__ import annotations

import json

import pytest

from rlagents.envs.sandbox.attack import battery
from rlagents.envs.sandbox.attack.case import Case
from tests.envs.sandbox.conftest import AsUser

_PROGRAM = """
import json, os
from rlagents.envs.sandbox.attack import battery
from rlagents.errors import ConfigError
cases = [case for case in battery.CASES if case.run.__module__ == {room!r}]
tell = lambda outcome: print("\\n" + json.dumps([outcome.case.name, outcome.complaint]), flush=True)
try:
    battery.run("user", cases, tell)
except ConfigError as error:
    print("\\n" + json.dumps(["skip", str(error)]))
print(json.dumps(["uid", str(os.geteuid())]))
"""
_told: dict[str, dict[str, str]] = {}


def outcomes(room: str, as_user: AsUser) -> dict[str, str]:
    """Complaints by name, of all cases of one module, which run together: a start takes long."""
    if room not in _told:
        done = as_user(_PROGRAM.format(room=room))
        lines = [json.loads(x) for x in done.stdout.splitlines() if x.startswith('["')]
        assert lines, f"status {done.returncode}: {done.stderr[-2000:]}"
        _told[room] = dict(lines)
    return _told[room]


@pytest.mark.parametrize("case", battery.CASES, ids=lambda case: case.name)
def test_held(case: Case, as_user: AsUser) -> None:
    told = outcomes(case.run.__module__, as_user)
    if "skip" in told:
        pytest.skip(told["skip"])
    assert told["uid"] != "0"
    assert told[case.name] == ""
