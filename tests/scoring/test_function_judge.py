from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rlagents.errors import ConfigError, JudgeError
from rlagents.scoring.function import FunctionJudge, find_judge
from rlagents.scoring.judge import Candidate, Question, Verdict
from rlagents.types import EpisodeKey

MODULE = "own_judges_of_this_test"
SOURCE = """
def longer(question, first, second): return len(first.answer), len(second.answer)
def length(question, candidate): return len(candidate.answer)
async def later(question, candidate): return 1.0
"""
QUESTION = Question(task="t")
ONE, OTHER = (
    Candidate(
        key=EpisodeKey(stream="train", iteration=0, group=0, member=i),
        transcript="",
        answer="x" * (i + 1),
    )
    for i in (0, 1)
)


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[None]:
    (tmp_path / f"{MODULE}.py").write_text(SOURCE)
    sys.path.append(str(tmp_path))
    yield
    sys.path.remove(str(tmp_path))
    sys.modules.pop(MODULE, None)


@pytest.mark.usefixtures("folder")
def test_a_function_compares_or_rates() -> None:
    pairwise = find_judge(f"{MODULE}:longer", pairwise=True)
    assert pairwise.compare(QUESTION, OTHER, ONE) == Verdict(first=2, second=1)
    assert find_judge(f"{MODULE}:length", pairwise=False).rate(QUESTION, OTHER, 5) == 2
    assert pairwise.take_figures() == {"judge/calls": 1, "judge/fail_frac": 0}
    assert pairwise.take_figures() == {"judge/calls": 0}


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize(
    ("name", "pairwise", "message"),
    [
        ("length", True, "expected a function of question, first, second; "),
        ("longer", False, "expected a function of question, candidate; "),
        ("later", False, "expected a plain function"),
        ("lenght", False, "did you mean 'length'?"),
    ],
)
def test_what_can_not_judge_is_a_clear_error(name: str, pairwise: bool, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        find_judge(f"{MODULE}:{name}", pairwise=pairwise)
    assert str(caught.value).startswith("scoring.judge.function: ") and message in str(caught.value)


def always(value: Any) -> Callable[..., Any]:
    return lambda *shown: value


@pytest.mark.parametrize(
    "value", [[1, 2], (1.0, 2), np.array([1, 2]), [np.float64(1), True + 1], [False + 1, 2]]
)
def test_two_numbers_of_any_kind(value: Any) -> None:
    verdict = FunctionJudge(always(value)).compare(QUESTION, ONE, OTHER)
    assert verdict == Verdict(first=1, second=2) and type(verdict.first) is float


@pytest.mark.parametrize(
    "value",
    [None, 3, "12", [1], [1, 2, 3], [1, None], ["1", "2"], [1, float("nan")], [1e300, 1],
     {"first": 1}, [Decimal(1), Decimal(2)], [[1, 2], [3]], Verdict(first=1, second=2), [1j, 2]],
)  # fmt: skip
def test_anything_but_two_finite_numbers_is_no_verdict(value: Any) -> None:
    judge = FunctionJudge(always(value))
    with pytest.raises(JudgeError, match=r"scoring\.judge\.function: expected two finite marks"):
        judge.compare(QUESTION, ONE, OTHER)
    assert judge.take_figures()["judge/fail_frac"] == 1


@pytest.mark.parametrize("value", [None, "3", [3], [1, 2], float("inf"), np.zeros(1)])
def test_anything_but_a_finite_number_is_no_mark(value: Any) -> None:
    with pytest.raises(JudgeError, match=r"scoring\.judge\.function: expected one finite mark"):
        FunctionJudge(always(value)).rate(QUESTION, ONE, 0)


@pytest.mark.parametrize("error", [ValueError("no"), StopIteration(), ConfigError("own"), KeyError])
def test_what_it_raises_is_no_verdict(error: Any) -> None:
    def raises(*shown: object) -> None:
        raise error

    judge = FunctionJudge(raises)
    with pytest.raises(JudgeError):
        judge.compare(QUESTION, ONE, OTHER)
    assert judge.take_figures() == {"judge/calls": 1, "judge/fail_frac": 1}
