from __future__ import annotations

import functools
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from rlagents.errors import ConfigError
from rlagents.load import load
from rlagents.scoring.function import FunctionScorer, find_function
from rlagents.types import Group, StopReason
from tests.fakes import TASK, trajectory

MODULE = "own_scorers_of_this_test"
SOURCE = """
import math
NUMBER = 3
def turns(group): return [len(t.turns) for t in group.trajectories]
def nothing(): return []
def two(group, rubric): return []
def optional(group, rubric="plain"): return [0.5] * len(group.trajectories)
async def later(group): return [1.0]
class Judge:
    def __init__(self): self.calls = 0
    def __call__(self, group):
        self.calls += 1
        return [self.calls] * len(group.trajectories)
class Asynchronous:
    async def __call__(self, group): return [1.0]
judge = Judge()
asynchronous = Asynchronous()
"""


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """A folder that modules can be imported from, as the working folder of a command is."""
    (tmp_path / f"{MODULE}.py").write_text(SOURCE)
    (tmp_path / "broken_scorer_of_this_test.py").write_text("1 / 0")
    sys.path.append(str(tmp_path))
    yield tmp_path
    sys.path.remove(str(tmp_path))
    sys.modules.pop(MODULE, None)


def group(*stops: StopReason) -> Group:
    """Members with 1, 2, ... turns, whose returns are 10, 20, ..."""
    members = tuple(
        trajectory(member=i, turns=i + 1, score=10.0 * (i + 1), stop=stop)
        for i, stop in enumerate(stops)
    )
    return Group(task=TASK, trajectories=members)


DONE, LOST = StopReason.TERMINATED, StopReason.WORKER_LOST


def test_scores_are_what_the_function_says_and_the_return_is_a_part(folder: Path) -> None:
    scored = FunctionScorer(find_function(f"{MODULE}:turns")).score(group(DONE, DONE))
    assert scored.scores.dtype == np.float32 and scored.scores.tolist() == [1, 2]
    assert scored.parts["return"].tolist() == [10, 20]


def test_a_member_that_failed_has_no_score_whatever_the_function_says(folder: Path) -> None:
    scored = FunctionScorer(find_function(f"{MODULE}:turns")).score(group(DONE, LOST, DONE))
    assert scored.scores[[0, 2]].tolist() == [1, 3] and np.isnan(scored.scores[1])
    assert scored.parts["return"].tolist() == [10, 20, 30]


def test_an_object_keeps_its_state_and_is_not_asked_about_nothing_but_failures(
    folder: Path,
) -> None:
    scorer = FunctionScorer(find_function(f"{MODULE}:judge"))
    assert scorer.score(group(DONE, DONE)).scores.tolist() == [1, 1]
    assert np.isnan(scorer.score(group(LOST, LOST)).scores).all()
    assert scorer.score(group(DONE)).scores.tolist() == [2]


@pytest.mark.parametrize(
    "answer",
    [
        [1, 2],
        (1.0, 2.0),
        np.array([1, 2], np.int64),
        np.array([1, 2], np.float64),
        [True, 2],
    ],
)
def test_any_numbers_will_do(answer: Any) -> None:
    scores = FunctionScorer(lambda group: answer).score(group(DONE, DONE)).scores
    assert scores.dtype == np.float32 and scores.tolist() == [1, 2]


def test_the_array_of_the_function_stays_its_own() -> None:
    own = np.array([1, 2], np.float32)
    FunctionScorer(lambda group: own).score(group(DONE, LOST))
    own[0] = 7
    assert own.tolist() == [7, 2]


@pytest.mark.parametrize(
    ("answer", "error", "message"),
    [
        (None, TypeError, r"expected \[G\] = \(2,\) numbers, got NoneType \(object\)"),
        (["1", "2"], TypeError, r"got list \(<U1\)"),
        ([1.0, None], TypeError, r"got list \(object\)"),
        ({0: 1.0, 1: 2.0}, TypeError, r"got dict \(object\)"),
        ([1j, 2], TypeError, r"got list \(complex128\)"),
        (1.0, ValueError, r"got shape \(\)"),
        ([1.0], ValueError, r"got shape \(1,\)"),
        ([[1.0, 2.0]], ValueError, r"got shape \(1, 2\)"),
        ([[1.0], 2.0], ValueError, "inhomogeneous"),
    ],
)
def test_anything_else_is_an_error(answer: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        FunctionScorer(lambda group: answer).score(group(DONE, DONE))


def test_a_number_too_large_for_a_float_becomes_infinite_without_a_warning() -> None:
    scores = FunctionScorer(lambda group: [1e300, np.nan]).score(group(DONE, DONE)).scores
    assert np.isinf(scores[0]) and np.isnan(scores[1])  # the queue refuses the first


@pytest.mark.parametrize("name", ["turns", "optional", "judge"])
def test_a_function_of_one_argument_is_found(name: str, folder: Path) -> None:
    assert callable(find_function(f"{MODULE}:{name}"))


def test_a_function_without_a_signature_is_taken_as_it_is(folder: Path) -> None:
    module = SimpleNamespace(largest=max, part=functools.partial(np.full, 2))
    sys.modules[MODULE] = module  # type: ignore[assignment]
    assert find_function(f"{MODULE}:largest") is max
    assert find_function(f"{MODULE}:part") is module.part


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("turns", "expected module:name, got 'turns'"),
        (":turns", "expected module:name, got ':turns'"),
        (f"{MODULE}:", f"expected module:name, got '{MODULE}:'"),
        ("no_such_module_here:f", "importing 'no_such_module_here': ModuleNotFoundError: No mod"),
        ("broken_scorer_of_this_test:f", "importing 'broken_scorer_of_this_test': ZeroDivision"),
        ("..up:f", "importing '..up': TypeError"),
        (f"{MODULE}:turn", f"'{MODULE}' has no 'turn'; did you mean 'turns'?"),
        (f"{MODULE}:NUMBER", f"expected a function, got '{MODULE}:NUMBER', which is of type int"),
        (f"{MODULE}:Judge", f"expected a function or an instance, got the class '{MODULE}:Judge'"),
        (f"{MODULE}:later", f"expected a plain function, got the coroutine function '{MODULE}:la"),
        (f"{MODULE}:asynchronous", "expected a plain function, got the coroutine function"),
        (f"{MODULE}:nothing", f"one argument, the group; '{MODULE}:nothing' takes ()"),
        (f"{MODULE}:two", f"one argument, the group; '{MODULE}:two' takes (group, rubric)"),
    ],
)
def test_what_is_no_scorer_is_a_clear_error(path: str, message: str, folder: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        find_function(path)
    assert str(caught.value).startswith("scoring.function: ") and message in str(caught.value)


SETTINGS = ("scoring.concurrency=2", "scoring.queue=8", "scoring.timeout_s=9.0")


@pytest.mark.parametrize("setting", SETTINGS)
def test_settings_of_the_queue_without_a_function_would_be_ignored(setting: str) -> None:
    with pytest.raises(ConfigError, match=r"would be ignored; it needs scoring\.name: function"):
        load(None, [setting])


def test_settings_of_the_queue_count_with_a_function() -> None:
    config = load(None, ["scoring.name=function", "scoring.function=a:b", *SETTINGS])
    scoring = config.scoring
    assert (scoring.concurrency, scoring.queue, scoring.timeout_s) == (2, 8, 9.0)


def test_an_override_back_to_returns_makes_a_files_function_moot(tmp_path: Path) -> None:
    path = tmp_path / "own.yaml"
    path.write_text("scoring: {name: function, function: 'a:b', concurrency: 2}")
    scoring = load(str(path), ["scoring.name=return"]).scoring
    assert (scoring.function, scoring.concurrency) == (None, 4)
