"""The README's example is run as it stands."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", (ROOT / "README.md").read_text(), re.S)


def test_the_own_environment_trains_and_learns(tmp_path):
    (code, judge), (yaml, *_) = blocks("python"), blocks("yaml")
    assert len(code.splitlines()) <= 25
    assert len(yaml.splitlines()) <= 12
    (tmp_path / "higher.py").write_text(code)
    (tmp_path / "higher.yaml").write_text(yaml)
    paths = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    command = [sys.executable, "-m", "rlagents"]

    def run(*arguments: str) -> str:
        done = subprocess.run(
            [*command, *arguments],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            timeout=240,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert "higher:Higher-v0: conforms" in run("envs", "check", "higher:Higher-v0")
    run("train", "higher.yaml", "run.dir=out", "train.iterations=6", "eval.episodes=64")
    evals = {
        e["stage"]: e for e in json.loads((tmp_path / "out/summary.json").read_text())["evals"]
    }
    assert evals["initial"]["score_mean"] < 0.3
    assert evals["rl"]["score_mean"] > evals["initial"]["score_mean"] + 0.25

    (tmp_path / "judge.py").write_text(judge)
    (scoring,) = [block for block in blocks("yaml") if "judge:brief" in block]
    (tmp_path / "judged.yaml").write_text(yaml + scoring)
    run("train", "judged.yaml", "run.dir=judged", "train.iterations=1", "eval.episodes=8")
    judged = json.loads((tmp_path / "judged/summary.json").read_text())
    # Half of what was returned, and a twentieth for being done in ten turns.
    assert all(0.05 <= e["score_mean"] <= 0.55 for e in judged["evals"])


def test_the_settings_for_long_horizons_are_settings(tmp_path):
    from rlagents import cli

    (block,) = [block for block in blocks("yaml") if "context:" in block and "schedule:" in block]
    (tmp_path / "long.yaml").write_text(block)
    assert cli.main(["config", str(tmp_path / "long.yaml")]) == 0


def test_every_command_of_the_readme_exists():
    from rlagents import cli

    named = set(re.findall(r"`rlagents ([a-z]+)", (ROOT / "README.md").read_text()))
    assert named
    for name in named:
        assert cli.main([name, "--help"]) == 0
