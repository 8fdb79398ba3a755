"""An environment that stops in the middle and waits for the test. Import it through `env.id`."""

from pathlib import Path

import gymnasium

from tests.integration.envs import Copy, counted


class Pause(Copy):
    """At step number `at` of this process, if the file `armed` exists: say so, and wait.

    `armed` is removed, the named pipe `paused` read by the test, the pipe `go` written by it.
    """

    def __init__(self, folder: str, at: int, turns: int = 3) -> None:
        super().__init__(turns)
        self.folder, self.at = Path(folder), at

    def step(self, action: str) -> tuple[object, float, bool, bool, dict[str, object]]:
        if counted("step") == self.at and (self.folder / "armed").exists():
            (self.folder / "armed").unlink()
            (self.folder / "paused").write_text("paused")
            (self.folder / "go").read_text()
        return super().step(action)


gymnasium.register("test/Pause-v0", Pause)
