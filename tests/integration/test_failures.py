"""Environments that break: the run goes on and counts, or ends with one line."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.integration import envs, small
from tests.integration.small import FLAWED, done, refused, summary


@pytest.fixture(autouse=True)
def _let_go() -> Iterator[None]:
    envs.forget_calls()
    envs.released.clear()
    yield
    envs.released.set()  # threads that still hang


def flawed(folder: Path, flaw: str, every: int, **sections: Any) -> str:
    kwargs = {"flaw": flaw, "every": every, "turns": 3}
    settings: dict[str, Any] = {
        "warm_start": None,
        "algo": {"name": "grpo"},
        "train": {"iterations": 2},
        "eval": {"episodes": 3},
        **sections,
    }
    return small.write(folder, env={"id": FLAWED, "kwargs": kwargs}, **settings)


@pytest.mark.parametrize(
    ("flaw", "every", "reason"),
    [
        ("reset", 3, "environment_error"),
        ("step", 5, "environment_error"),
        ("text", 5, "environment_error"),
        ("nan", 5, "environment_error"),
        ("hang", 20, "environment_timeout"),
    ],
)
def test_some_failures_are_counted_and_the_run_goes_on(
    flaw: str, every: int, reason: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    limits = {"rollout": {"env_timeout_s": 0.2, "groups": 3}} if flaw == "hang" else {}
    config = flawed(tmp_path, flaw, every, run={"seed": 1}, **limits)
    run = tmp_path / "run"
    out = done(capsys, "train", config, f"run.dir={run}")
    result = summary(run)
    ledger = result["ledger"]
    assert set(ledger["failed"]["reasons"]) == {reason}
    failed = ledger["failed"]["total"]
    assert 0 < failed < ledger["started"] and ledger["in_flight"] == 0
    settled = ledger["trained"] + ledger["filtered"]["total"] + failed
    assert ledger["started"] == settled and ledger["trained"] > 0
    assert result["iterations"] == result["steps"] == 2
    size = 4 * (3 if flaw == "hang" else 2)
    shares = [line["rollout/failed_frac"] for line in small.metrics(run) if line["step"]]
    assert sum(round(share * size) for share in shares) == failed and max(shares) > 0
    assert f"{round(max(shares) * size)} episodes failed" in out
    records = done(capsys, "show", str(run), "train")
    assert records.count(f"failed:{reason}") == failed


@pytest.mark.parametrize(
    ("flaw", "cause"),
    [
        ("reset", "environment: reset: OSError: the disk of the environment is full"),
        ("step", "environment: step 0: KeyError: 'door'"),
        ("text", "expected an observation of type str, got int"),
        ("nan", "expected a reward that is a finite float32, got nan"),
    ],
)
def test_an_environment_that_always_fails_ends_the_run_with_its_cause(
    flaw: str, cause: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = flawed(tmp_path, flaw, 1)
    run = tmp_path / "run"
    message = refused(capsys, 1, "train", config, f"run.dir={run}")
    assert message.startswith("all 8 episodes of iteration 0 failed; 8 of them with: ")
    assert cause in message
    assert cause in refused(capsys, 1, "eval", config)
    assert cause in refused(capsys, 1, "play", config)
    (entry,) = [e for e in summary(run)["evals"] if e["stage"] == "initial"]
    assert (entry["score_mean"], entry["episodes"], entry["failed"]) == (None, 0, 3)


def test_an_expert_that_always_fails_is_a_mistake_of_the_configuration(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = flawed(tmp_path, "step", 1, warm_start={"episodes": 2}, eval={"episodes": 0})
    message = refused(capsys, 2, "train", config, f"run.dir={tmp_path / 'run'}")
    assert message.startswith("warm_start.expert: expert: step 0: KeyError: 'door'")


def test_an_empty_action_reaches_the_environment(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = small.write(tmp_path, warm_start=None)
    assert small.shown_score(done(capsys, "eval", config, "policy.from=mute")) == "0.000"
    played = done(capsys, "play", config, "policy.from=mute").splitlines()
    assert [line for line in played if line.startswith("    >")] == ["    > "] * 3
    # Nothing to imitate, though.
    config = small.write(tmp_path, warm_start={"episodes": 2, "expert": "mute"})
    message = refused(capsys, 2, "train", config, f"run.dir={tmp_path / 'run'}")
    assert message == "warm_start.expert: mute: ValueError: the action of turn 0 is empty"
