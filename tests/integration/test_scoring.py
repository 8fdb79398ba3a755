"""Whole runs that are scored by a function of the user's own, in threads beside the rollouts."""

from pathlib import Path
from typing import Any

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from rlagents.journal import JournalReader
from tests.integration import small
from tests.integration.small import done, metrics, policy_hash, refused, summary

Capture = pytest.CaptureFixture[str]


def write(folder: Path, function: str, **sections: Any) -> str:
    scoring = {"name": "function", "function": f"tests.integration.scorers:{function}"}
    return small.write(folder, scoring=scoring, **sections)


def apart(line: dict[str, float]) -> dict[str, float]:
    """Metrics without those of the queue."""
    return {k: v for k, v in line.items() if not k.startswith("score/")}


@pytest.fixture(scope="module")
def contrary(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that learns to say anything but the letter that is shown."""
    folder = tmp_path_factory.mktemp("contrary")
    config = write(
        folder, "contrary", rollout={"groups": 8}, train={"iterations": 5}, eval={"episodes": 32}
    )
    assert small.main(["train", config, f"run.dir={folder / 'run'}"]) == 0
    return folder / "run"


def test_what_the_function_says_is_what_is_learned(contrary: Path) -> None:
    _, warm, after = summary(contrary)["evals"]
    for entry in (warm, after):  # three letters an episode; the score is 1 - right / 3
        assert entry["score_mean"] == pytest.approx(1 - entry["metrics"]["env/right"] / 3)
        assert (entry["episodes"], entry["failed"]) == (32, 0)
    assert after["score_mean"] > warm["score_mean"] + 0.2
    for line in metrics(contrary)[1:]:
        assert line["train/score_mean"] == pytest.approx(1 - line["train/return_mean"])


def test_the_queue_is_seen_in_the_metrics_and_in_tensorboard(contrary: Path) -> None:
    curves = EventAccumulator(str(contrary / "tensorboard"), size_guidance={"scalars": 0})
    curves.Reload()
    lines = [line for line in metrics(contrary) if "train/iteration" in line]
    assert lines
    for name in ("queue_depth_mean", "queue_depth_max", "wait_s_mean", "failed", "busy_frac"):
        values = [line[f"score/{name}"] for line in lines]
        shown = [event.value for event in curves.Scalars(f"score/{name}")]
        assert shown == pytest.approx(values, rel=1e-6), name
    for line in lines:
        assert 0 < line["score/queue_depth_mean"] <= line["score/queue_depth_max"]
        assert line["score/queue_depth_max"] >= 1 and line["score/failed"] == 0
        assert 0 < line["score/busy_frac"] <= 1 and line["score/abandoned"] == 0


def test_a_function_that_says_the_return_trains_the_same_policy(
    tmp_path: Path, capsys: Capture, finished: Path
) -> None:
    config = write(tmp_path, "returned", eval={"every": 2, "greedy": True, "temperature": 0.8})
    done(capsys, "train", config, f"run.dir={tmp_path / 'run'}")
    assert policy_hash(tmp_path / "run") == policy_hash(finished)
    assert summary(tmp_path / "run")["evals"] == summary(finished)["evals"]
    lines, plain = metrics(tmp_path / "run"), metrics(finished)
    assert list(map(apart, small.timeless(lines))) == list(map(apart, small.timeless(plain)))
    assert not any(k.startswith("score/") for line in plain for k in line)  # no queue, no figures


def test_groups_whose_scoring_failed_are_filtered_and_say_so(
    tmp_path: Path, capsys: Capture
) -> None:
    config = write(tmp_path, "fickle", algo={"sampling": {"filter": "none"}})
    out = done(capsys, "train", config, f"run.dir={tmp_path / 'run'}")
    result = summary(tmp_path / "run")
    # one of two groups of four, in each of three iterations
    assert result["ledger"]["filtered"]["reasons"]["judge_error"] == 3 * 4
    assert result["ledger"]["trained"] > 0
    assert [(e["episodes"], e["failed"]) for e in result["evals"]] == [(2, 2)] * 3
    lines = metrics(tmp_path / "run")[1:]
    assert [line["score/failed"] for line in lines[1:]] == [1, 1]
    assert lines[0]["score/failed"] == 2 + 2 + 1  # with the evaluations before
    said = "1 groups without scores, the last with: scoring train/1/1/0: KeyError: 'no judge for"
    assert said in " ".join(out.split())
    dropped = [
        record
        for record in JournalReader(tmp_path / "run" / "journal")
        if record.notes.get("disposition") == "filtered:judge_error"
    ]
    assert len(dropped) == 12
    assert all(r.trajectory.key.group == 1 and "score" not in r.notes for r in dropped)


def test_a_scorer_that_never_answers_right_ends_the_run_with_its_error(
    tmp_path: Path, capsys: Capture
) -> None:
    config = write(tmp_path, "broken")
    line = refused(capsys, 1, "train", config, f"run.dir={tmp_path / 'run'}")
    assert line.startswith("scoring failed for all 6 groups of iteration 0; the last with: scoring")
    assert "TypeError: expected [G] = (4,) numbers, got list" in line
    line = refused(capsys, 1, "eval", config, "policy.from=oracle")
    assert line.startswith("every episode failed; the first with: judge: scoring eval/oracle/")
    assert "TypeError: expected [G] = (1,) numbers, got list" in line


def test_a_wrong_name_is_known_before_anything_starts(tmp_path: Path, capsys: Capture) -> None:
    config = write(tmp_path, "contrari")
    line = refused(capsys, 2, "train", config, f"run.dir={tmp_path / 'run'}")
    assert line.endswith("has no 'contrari'; did you mean 'contrary'?")
    assert not (tmp_path / "run").exists()


def test_eval_scores_with_the_function_too(tmp_path: Path, capsys: Capture) -> None:
    config = write(tmp_path, "contrary")
    out = done(capsys, "eval", config, "policy.from=oracle")
    assert small.shown_score(out) == "0.000"
