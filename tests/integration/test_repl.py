"""The sandbox from a config: what its settings do to the score of a run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from rlagents.cli import main
from rlagents.envs.sandbox import choice

_PROBLEM = choice.cached_problem(choice.chosen("auto"))
pytestmark = pytest.mark.skipif(_PROBLEM is not None, reason=f"no sandbox: {_PROBLEM}")

YAML = """
env:
  id: rlagents/Repl-v0
  kwargs: {horizon: 2, records: 20000, expert_error: 0.0, sandbox: {memory_mb: 256}}
eval: {episodes: 4}
"""


@pytest.mark.parametrize(
    ("override", "score"),
    [
        ("env.kwargs.sandbox.wall_s=20", "1.000"),
        # Too little for reading 20,000 lines: the expert gets no number to answer with.
        ("env.kwargs.sandbox.wall_s=0.003", "0.000"),
    ],
)
def test_limits_of_a_config_show_in_the_score(
    override: str, score: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "repl.yaml"
    config.write_text(YAML)
    assert main(["eval", str(config), "policy.from=expert", override]) == 0
    out = capsys.readouterr().out
    assert f"{score} to {score}" in out, out


def test_training_runs_code_in_the_sandbox_and_fails_nothing(tmp_path: Path) -> None:
    config = tmp_path / "repl.yaml"
    config.write_text(
        YAML
        + "policy: {max_tokens: 16}\ncontext: {window: 256}\ntrain: {iterations: 1}\n"
        + "rollout: {groups: 4, group_size: 4, concurrency: 16}\n"
        + "algo: {sampling: {filter: none}}\n"
    )
    out = tmp_path / "run"
    overrides = ["env.kwargs.records=20", "env.kwargs.rules=false", f"run.dir={out}"]
    assert main(["train", str(config), *overrides]) == 0
    ledger = json.loads((out / "summary.json").read_text())["ledger"]
    assert (ledger["failed"]["total"], ledger["trained"]) == (0, 16)


def test_isolation_that_cannot_be_had_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "repl.yaml"
    config.write_text(YAML)
    problems = {name: choice.cached_problem(name) for name in choice.TABLE}
    missing = [name for name, problem in problems.items() if problem is not None]
    if not missing:
        pytest.skip("this machine has every tier")
    assert main(["config", str(config), f"env.kwargs.sandbox.tier={missing[0]}"]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: env.kwargs.sandbox.tier: '{missing[0]}' can't be had here: ")
    assert error.count("\n") == 1
