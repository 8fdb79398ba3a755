"""Ablations of a tiny configuration, and run folders as finished runs leave them."""

import json
from pathlib import Path
from typing import Any

from rlagents import yaml_text
from rlagents.ablate.plan import Ablation, Run, plan
from rlagents.ablate.results import Curve, Result
from rlagents.load import resolved_yaml

CONFIG = """
env: {id: rlagents/Lock-v0}
rollout: {groups: 2, group_size: 2}
train: {iterations: 2}
eval: {episodes: 4}
"""


def planned(folder: Path, **changes: Any) -> Ablation:
    """Two learning rates with seeds 0 and 1."""
    path = folder / "x.yaml"
    path.write_text(CONFIG)
    asked: dict[str, Any] = {
        "vary": ["learner.lr=0.001,0.002"],
        "seeds": "0,1",
        "out": str(folder / "out"),
        **changes,
    }
    return plan(str(path), asked.pop("overrides", ()), **asked)


def entry(tokens: float, score: float | None, step: int, stage: str = "rl") -> dict[str, Any]:
    """An evaluation of `summary.json`."""
    return {
        "stage": stage,
        "step": step,
        "mode": "sampled",
        "score_mean": score,
        "tokens_sampled": tokens,
    }


def leave(
    run: Run,
    *,
    evals: list[dict[str, Any]] | None = None,
    lines: list[dict[str, Any]] | None = None,
    **summary: Any,
) -> None:
    """Write what a run leaves in its folder: by default one of 2 iterations that is finished."""
    run.folder.path.mkdir(parents=True, exist_ok=True)
    run.folder.config.write_text(resolved_yaml(run.config))
    evals = [entry(0, 0.0, 0, "initial"), entry(100, 0.5, 2)] if evals is None else evals
    content = {
        "evals": evals,
        "iterations": 2,
        "steps": 2,
        "tokens_sampled": 100,
        "wall_s": 1.0,
        **summary,
    }
    run.folder.write_summary(content)
    metrics = run.folder.path / "metrics.jsonl"
    metrics.write_text("".join(json.dumps(line) + "\n" for line in lines or []))


def result(arm: str, seed: int, held_out: Curve = (), **changes: Any) -> Result:
    figures: dict[str, Any] = {"training": (), "tokens": 100, "steps": 2, "wall_s": 1.0, **changes}
    return Result(arm=arm, seed=seed, held_out=held_out, **figures)


def read_yaml(path: Path) -> Any:
    return yaml_text.parse(path.read_text(), str(path))
