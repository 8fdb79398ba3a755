"""One finished run that many tests only read."""

from pathlib import Path

import pytest

from rlagents.cli import main
from tests.integration import small


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of three iterations with greedy evaluations at another temperature."""
    folder = tmp_path_factory.mktemp("finished")
    config = small.write(folder, eval={"every": 2, "greedy": True, "temperature": 0.8})
    assert main(["train", config, f"run.dir={folder / 'run'}"]) == 0
    return folder / "run"
