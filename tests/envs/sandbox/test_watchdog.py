"""The watchdog outlives a command that it can't watch."""

from __future__ import annotations

import pytest

from rlagents.envs.sandbox import Sandbox, choice
from rlagents.envs.sandbox.watchdog import watchdog
from rlagents.errors import SandboxBroken

_PROBLEM = choice.cached_problem(choice.chosen("auto"))
pytestmark = pytest.mark.skipif(_PROBLEM is not None, reason=f"no sandbox: {_PROBLEM}")


class Unreadable:
    """A tree whose processes can't be counted any more, and everything else as it was."""

    def __init__(self, tree: object) -> None:
        self._tree = tree

    def __getattr__(self, name: str) -> object:
        return getattr(self._tree, name)

    def pids(self) -> list[int]:
        raise FileNotFoundError("the cgroup is gone")


def test_a_command_that_cannot_be_watched_is_ended_as_a_broken_sandbox() -> None:
    with Sandbox({"memory_mb": 128}) as box, Sandbox({"memory_mb": 128}) as other:
        session = box.repl()
        assert session.run("1").ok
        session._process.tree = Unreadable(session._process.tree)  # type: ignore[assignment]
        with pytest.raises(SandboxBroken, match="watching a command: FileNotFoundError: the cg"):
            session.run("import time; time.sleep(10)", wall_s=9)
        assert not session.alive
        # The limits of everybody else still hold.
        bomb = other.python("x = [bytearray(10**7) for _ in range(10**6)]", wall_s=20)
        assert bomb.limit == "memory_mb"
        thread = watchdog._thread
        assert thread is not None and thread.is_alive()
