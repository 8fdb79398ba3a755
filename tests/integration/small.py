"""A configuration that runs in two seconds, and how to run and read it."""

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from rlagents.cli import main
from rlagents.journal import JournalReader

ROOT = Path(__file__).resolve().parents[2]
COPY = "tests.integration.envs:test/Copy-v0"
TRAP = "tests.integration.envs:test/Trap-v0"
FLAWED = "tests.integration.envs:test/Flawed-v0"

BASE: dict[str, Any] = {
    "env": {"id": COPY},
    "context": {"window": 64},
    "policy": {"max_tokens": 2},
    "rollout": {
        "groups": 2,
        "group_size": 4,
        "max_turns": 8,
        "deterministic": True,
        "concurrency": 8,
    },
    "algo": {"updates": 1, "epochs": 1},  # a step an iteration
    "train": {"iterations": 3},
    "eval": {"episodes": 4},
    "warm_start": {"episodes": 32, "epochs": 5, "batch_segments": 8},
    "checkpoint": {"every": 1},
}


def write(folder: Path, **sections: Any) -> str:
    """Write `BASE` with changes of sections (None drops one); the path of the YAML."""
    config = dict(BASE)
    for name, changes in sections.items():
        if changes is None:
            config.pop(name)
        elif isinstance(changes, list):
            config[name] = changes
        else:
            config[name] = {**config.get(name, {}), **changes}
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(config), encoding="utf-8")
    return str(path)


def command(capsys: pytest.CaptureFixture[str], *args: str) -> tuple[int, str, str]:
    """Exit code, standard output and error of a command in this process."""
    capsys.readouterr()
    code = main(list(args))
    out, err = capsys.readouterr()
    return code, out, err


def done(capsys: pytest.CaptureFixture[str], *args: str) -> str:
    """Standard output of a command that must end well, and silently on standard error."""
    code, out, err = command(capsys, *args)
    assert (code, err) == (0, ""), err
    return out


def refused(capsys: pytest.CaptureFixture[str], code: int, *args: str) -> str:
    """The one line of a command that must fail."""
    got, _, err = command(capsys, *args)
    assert got == code, err
    assert err.startswith("error: ") and err.count("\n") == 1, err
    return err.removeprefix("error: ").rstrip("\n")


def summary(run: Path) -> dict[str, Any]:
    return json.loads((run / "summary.json").read_text())


def metrics(run: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def timeless(lines: list[dict[str, float]]) -> list[dict[str, float]]:
    """Metrics without what the clock says."""
    return [
        {k: v for k, v in line.items() if not k.startswith("time/") and "per_s" not in k}
        for line in lines
    ]


def journal_keys(run: Path) -> list[str]:
    return sorted(str(key) for key in JournalReader(run / "journal").keys())  # noqa: SIM118


def policy_hash(run: Path) -> str:
    return hashlib.sha256((run / "policy" / "model.safetensors").read_bytes()).hexdigest()


def last_eval(run: Path, mode: str = "sampled") -> dict[str, Any]:
    return [entry for entry in summary(run)["evals"] if entry["mode"] == mode][-1]


def shown_score(out: str, mode: str = "sampled") -> str:
    """The score in the table of `rlagents eval`."""
    (row,) = [line for line in out.splitlines() if "│" in line and mode in line]
    return row.split("│")[3].strip()
