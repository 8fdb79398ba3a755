"""Context strategies in a whole run, from the demonstrations to the journal."""

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from rlagents.journal import JournalReader
from rlagents.types import TurnKind
from tests.integration import small
from tests.integration.small import done, summary

ROOMS = {"horizon": 8, "turns": 8, "keys": 4, "facts": "rooms", "tries": 1}


COMPACT = {"tokens": 10, "prompt": "!", "label": ""}


@pytest.mark.parametrize(
    ("expert", "context"),
    [
        ("scribe", {"strategy": "compact", "window": 48, "pinned_turns": 0, "compact": COMPACT}),
        ("expert", {"strategy": "notes", "window": 48, "memory": {"tokens": 8}}),
        (
            "scribe",
            {"strategy": "reset_with_memory", "window": 88, "memory": {"sitting_turns": 5}},
        ),
    ],
)
def test_a_run_with_every_strategy(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], expert: str, context: dict[str, Any]
) -> None:
    run = tmp_path / "run"
    config = small.write(
        tmp_path,
        env={"id": "rlagents/KeyRooms-v0", "kwargs": ROOMS},
        context=context,
        rollout={"max_turns": 12},
        warm_start={"expert": expert},
        train={"iterations": 1},
    )
    done(capsys, "train", config, f"run.dir={run}")
    assert summary(run)["ledger"]["trained"] == 8
    records = [record.trajectory for record in JournalReader(run / "journal")]
    played = [trajectory for trajectory in records if trajectory.key.stream == "train"]
    assert len(played) == 8 and all(trajectory.actions == 12 for trajectory in played)
    assert all(trajectory.contexts > 1 for trajectory in played)
    kinds = Counter(turn.kind for trajectory in played for turn in trajectory.turns)
    assert bool(kinds[TurnKind.SUMMARY]) == (context["strategy"] == "compact")
