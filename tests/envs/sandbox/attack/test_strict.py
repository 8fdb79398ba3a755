"""The whole battery against `strict`: nothing gets out, nothing is left, the next run works."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from rlagents.envs.sandbox.attack import battery
from rlagents.envs.sandbox.attack.case import Case
from rlagents.envs.sandbox.attack.host import LiveHost
from rlagents.envs.sandbox.choice import cached_problem


@pytest.fixture(scope="module")
def host() -> Iterator[LiveHost]:
    if (problem := cached_problem("strict")) is not None:
        pytest.skip(f"strict: {problem}")
    with LiveHost("strict") as live:
        battery.prepare(live)
        yield live


@pytest.mark.parametrize("case", battery.CASES, ids=lambda case: case.name)
def test_held(case: Case, host: LiveHost) -> None:
    outcome = battery.attack_with(case, host)
    assert outcome.complaint == ""
    assert outcome.held
