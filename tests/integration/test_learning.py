"""It learns; and where the episodes run makes no difference."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import ray

from tests.integration import small
from tests.integration.small import done, summary


def test_reinforcement_learning_lifts_a_poor_imitation(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # The expert errs 60% of the time (and is right by chance in a quarter of those).
    config = small.write(
        tmp_path,
        env={"kwargs": {"expert_error": 0.6}},
        rollout={"groups": 8, "group_size": 8, "concurrency": 64, "deterministic": False},
        learner={"lr": 2e-3},
        train={"iterations": 8},
        eval={"episodes": 96},
        warm_start={"episodes": 512, "epochs": 4, "batch_segments": 16},
        checkpoint={"every": 0},
    )
    done(capsys, "train", config, f"run.dir={tmp_path / 'run'}")
    initial, warm, after = summary(tmp_path / "run")["evals"]
    assert initial["score_mean"] < 0.05
    assert 0.4 < warm["score_mean"] < 0.7  # 0.55 is what there is to imitate
    assert after["score_mean"] > 0.9
    assert after["score_ci95"][0] > warm["score_ci95"][1] + 0.15
    lines = [line for line in small.metrics(tmp_path / "run") if "train/score_mean" in line]
    scores = [line["train/score_mean"] for line in lines]
    entropies = [line["policy/entropy"] for line in lines]
    assert scores[-1] > scores[0] + 0.25 and entropies[-1] < entropies[0]


@pytest.fixture
def _ray() -> Iterator[None]:
    yield
    ray.shutdown()


def test_a_ray_worker_gives_the_run_of_this_process(
    _ray: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    kwargs = {"horizon": 4, "partial": True, "hint": "each", "wrong": "stay"}
    config = small.write(
        tmp_path,
        env={"id": "rlagents/Lock-v0", "kwargs": kwargs},
        algo={"name": "grpo"},
        train={"iterations": 2},
    )
    local, remote = tmp_path / "local", tmp_path / "remote"
    done(capsys, "train", config, f"run.dir={local}")
    out = done(
        capsys, "train", config, f"run.dir={remote}", "rollout.executor=ray", "rollout.workers=1"
    )
    assert "starting rollouts (ray)" in out
    assert small.policy_hash(remote) == small.policy_hash(local)
    assert small.timeless(small.metrics(remote)) == small.timeless(small.metrics(local))
    assert small.journal_keys(remote) == small.journal_keys(local)
    assert summary(remote)["evals"] == summary(local)["evals"]
