from __future__ import annotations

import subprocess
import sys
from typing import Any, cast

import gymnasium
import pytest

from rlagents.envs import ENTRY_POINTS, catalogue
from rlagents.envs.conformance import Check, Report, check
from rlagents.envs.sandbox import choice
from tests.envs import broken

LONG = sorted(entry.id for entry in catalogue() if "horizon" in entry.kwargs)
EXPECTED = [
    (broken.NumberObservation, "observations are text", "must be a string, got int 7"),
    (broken.NumberFirstObservation, "observations are text", "got ndarray"),
    (broken.Nondeterministic, "deterministic", "gave observation 'call"),
    (broken.NondeterministicReset, "deterministic", "reset(seed=0) gave 'task"),
    (broken.RaisesInStep, "step", "turn 2 of seed 0: step('"),
    (broken.RaisesInStep, "step", "KeyError: 'no such room'"),
    (broken.RaisesOnOddAction, "odd actions", "step(''): IndexError"),
    (broken.RaisesInReset, "reset", "reset(seed=0): OSError: the data is missing"),
    (broken.RaisesInInit, "make", "RuntimeError: no licence"),
    (broken.RaisesInClose, "close twice", "ValueError: already closed"),
    (broken.BothFlags, "flags", "terminated and truncated are both set"),
    (broken.NumpyFlag, "flags", "terminated must be a bool"),
    (broken.RewardNaN, "rewards are finite numbers", "reward must be finite, got nan"),
    (broken.RewardText, "rewards are finite numbers", "Python float, got '1.0'"),
    (broken.NeverEnds, "episodes end", "did not end within 40 turns"),
    (broken.ResetWithoutOptions, "reset", "'options' is missing"),
    (broken.ResetReturnsText, "reset", "must return (observation, info), got 'task"),
    (broken.FourTuple, "step", "step must return (observation, reward, terminated"),
    (broken.AlphanumericSpace, "spaces", "action_space excludes ''"),
    (broken.DiscreteSpace, "spaces", "text space such as"),
    (broken.OutsideSpace, "observations are text", "outside of UnicodeText(3)"),
    (broken.SurrogateObservation, "observations are text", "outside of UnicodeText(100)"),
    (broken.MetricText, "info", "info['metrics']['rooms'] must be a finite float"),
    (broken.PotentialNaN, "info", "turn 1 of seed 0: info['potential'] must be a finite float"),
    (broken.PotentialText, "info", "reset(seed=0): info['potential'] must be a finite float"),
    (broken.PotentialFlag, "info", "must be a finite float, got bool True"),
    (broken.PotentialOfTwoTypes, "info", "must keep its type, got float 0.0, then int 1"),
    (broken.PotentialSometimes, "info", "turn 2 of seed 0: info['potential'] is missing, but"),
    (broken.WeakOracle, "scripted policies", "oracle scores 0.000, random 3.000"),
    (broken.SilentScript, "scripted policies", "must say a string, got NoneType None"),
]


def needs(env_id: str) -> None:
    """Skip what this machine can't isolate: `rlagents doctor` says the same."""
    problem = choice.cached_problem(choice.chosen("auto"))
    if ".envs.coding." in ENTRY_POINTS[env_id] and problem is not None:
        pytest.skip(f"no sandbox: {problem}")


@pytest.mark.parametrize("env_id", sorted(ENTRY_POINTS))
def test_every_registered_environment_conforms_without_a_note(env_id: str) -> None:
    needs(env_id)
    report = check(env_id)
    assert report.ok and all(c.passed for c in report.checks), str(report)
    assert len(report.checks) == 16


@pytest.mark.parametrize("horizon", [8, 500])
@pytest.mark.parametrize("env_id", LONG)
def test_conforms_at_short_and_long_horizons(env_id: str, horizon: int) -> None:
    needs(env_id)
    report = check(env_id, {"horizon": horizon}, episodes=1)
    assert report.ok, str(report)


@pytest.mark.parametrize(
    ("env_id", "kwargs"),
    [
        ("rlagents/KeyRooms-v0", {"facts": "rooms", "rules": True, "penalty": 0.1}),
        ("rlagents/KeyRooms-v0", {"keys": 1, "codes": 2, "horizon": 1}),
        ("rlagents/MethodSearch-v0", {"methods": 700, "note_limit": 0}),
        ("rlagents/MethodSearch-v0", {"methods": 2, "horizon": 2, "noise": 0}),
        ("rlagents/Lock-v0", {"hint": "each", "wrong": "reset", "partial": True}),
        ("rlagents/Lock-v0", {"hint": "none", "wrong": "stay", "horizon": 1, "period": 1}),
    ],
)
def test_conforms_in_other_modes(env_id: str, kwargs: dict[str, object]) -> None:
    report = check(env_id, kwargs, episodes=2)
    assert report.ok, str(report)


def test_a_sound_environment_conforms_as_class_and_as_id() -> None:
    assert check(broken.Sound).ok and check(broken.Promising).ok
    gymnasium.register(id="tests/Sound-v0", entry_point=cast(Any, broken.Sound))
    try:
        assert check("tests/Sound-v0").ok
        assert check("tests.envs.broken:tests/Sound-v0").ok
    finally:
        del gymnasium.registry["tests/Sound-v0"]


@pytest.mark.parametrize(
    ("env", "name", "reason"), EXPECTED, ids=[f"{e.__name__}-{n}" for e, n, _ in EXPECTED]
)
def test_a_broken_environment_fails_with_the_right_reason(env, name: str, reason: str) -> None:
    report = check(env, episodes=2, max_turns=40)
    assert not report.ok
    found = {c.name: c.reason for c in report.failures}
    assert reason in found[name]
    assert "Traceback" not in str(report) and all("\n" not in c.reason for c in report.checks)


@pytest.mark.parametrize(
    "env",
    [
        broken.NumpyFlag,
        broken.BothFlags,
        broken.MetricText,
        broken.PotentialNaN,
        broken.PotentialSometimes,
        broken.RewardText,
        broken.WeakOracle,
    ],
)
def test_one_fault_is_reported_by_its_own_check_and_perhaps_by_gymnasium(env) -> None:
    """The reason must not drown: no other check of ours fails on it."""
    faults = {name for cls, name, _ in EXPECTED if cls is env}
    failed = {c.name for c in check(env, max_turns=40).failures}
    assert faults <= failed <= faults | {"gymnasium check_env", "scripted policies"}


def test_the_same_task_for_every_seed_is_only_a_note() -> None:
    report = check(broken.OneTask)
    note = next(c for c in report.checks if c.name == "seeds differ")
    assert report.ok and not note.passed and note.advisory
    assert "note  seeds differ: 8 seeds gave the same task" in str(report)


def test_wrong_arguments_are_reasons() -> None:
    def reason(*args, **kwargs) -> str:
        (only,) = check(*args, **kwargs).checks
        assert only.name == "make" and not only.passed
        return only.reason

    assert "did you mean 'rlagents/KeyRooms-v0'" in reason("rlagents/KeyRoom-v0")
    assert "No module named 'no_such_module'" in reason("no_such_module:X-v0")
    assert "no argument 'horizn'" in reason("rlagents/Lock-v0", {"horizn": 3})
    assert "horizon: expected" in reason("rlagents/Lock-v0", {"horizon": 0})
    assert "expected a gymnasium.Env, got dict" in reason(dict)
    with pytest.raises(ValueError, match="episodes=0"):
        check("rlagents/Lock-v0", episodes=0)


def test_report_reads_as_a_table() -> None:
    checks = (
        Check(name="make", passed=True),
        Check(name="reset", passed=False, reason="why"),
        Check(name="seeds differ", passed=False, reason="hm", advisory=True),
    )
    report = Report(env="X-v0", checks=checks)
    assert str(report).splitlines() == [
        "pass  make",
        "FAIL  reset: why",
        "note  seeds differ: hm",
        "X-v0: failed 1 of 3 checks",
    ]
    assert report.failures == (checks[1],)
    assert Report(env="X-v0", checks=checks[::2]).ok


def test_the_suite_needs_neither_torch_nor_ray() -> None:
    code = (
        "import sys; from rlagents.envs.conformance import check\n"
        "assert check('rlagents/Lock-v0', episodes=1).ok\n"
        "assert not {'torch', 'ray', 'transformers'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
