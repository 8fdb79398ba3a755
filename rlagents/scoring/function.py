"""Scorers and judges of the user's own: `module:name` of a function."""

from __future__ import annotations

import importlib
import inspect
import threading
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from rlagents.errors import ConfigError, JudgeError, RlagentsError, boundary, nearest
from rlagents.scoring.judge import Candidate, Question, Verdict
from rlagents.scoring.scorer import failed, returns_of
from rlagents.types import FloatArray, Group, ScoredGroup

KEY = "scoring.function"
JUDGE_KEY = "scoring.judge.function"


class FunctionScorer:
    """What a function (Group) -> [G] numbers says; NaN for a member that failed."""

    def __init__(self, function: Callable[[Group], Any]) -> None:
        self._function = function

    def score(self, group: Group) -> ScoredGroup:
        """Scores [G]. The function is not asked where every member failed.

        Raises:
            TypeError, ValueError: when it returns something else than G numbers.
        """
        broken = failed(group)
        if broken.all():
            scores = np.full(len(broken), np.nan, np.float32)
        else:
            scores = numbers(self._function(group), len(broken))
            scores[broken] = np.nan
        return ScoredGroup(group=group, scores=scores, parts={"return": returns_of(group)})


def numbers(answer: Any, size: int) -> FloatArray:
    """[G] The answer of a function as a new array of floats.

    Raises:
        TypeError: when it is not numbers.
        ValueError: when there are not `size` of them.
    """
    values = np.asarray(answer)
    if values.dtype.kind not in "biuf":
        kind = type(answer).__name__
        raise TypeError(f"expected [G] = ({size},) numbers, got {kind} ({values.dtype})")
    if values.shape != (size,):
        raise ValueError(f"expected [G] = ({size},) numbers, got shape {values.shape}")
    with np.errstate(over="ignore"):  # becomes infinite, which is refused
        return values.astype(np.float32)


class FunctionJudge:
    """A function as a judge; it is called from many threads at once.

    To compare it takes (question, first, second) and returns two marks, to rate it takes
    (question, candidate) and returns one. Whatever else it does is a JudgeError: no verdict.
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function
        self._lock = threading.Lock()
        self._calls = self._failed = 0

    def compare(
        self, question: Question, first: Candidate, second: Candidate, repeat: int = 0
    ) -> Verdict:
        """Marks of both; the function is not told `repeat`.

        Raises:
            JudgeError: as above.
        """
        expected = "two finite marks, of first and of second"
        marks = self._marks(expected, 2, question, first, second)
        return Verdict(first=marks[0], second=marks[1])

    def rate(self, question: Question, candidate: Candidate, repeat: int) -> float:
        """A mark; the function is not told `repeat`.

        Raises:
            JudgeError: as above.
        """
        return self._marks("one finite mark", None, question, candidate)[0]

    def take_figures(self) -> dict[str, float]:
        """`judge/calls` and `judge/fail_frac` since the last time."""
        with self._lock:
            figures = {"judge/calls": float(self._calls)}
            if self._calls:
                figures["judge/fail_frac"] = self._failed / self._calls
            self._calls = self._failed = 0
            return figures

    def close(self) -> None:
        """There is nothing to close."""

    def _marks(self, expected: str, size: int | None, *shown: Question | Candidate) -> list[float]:
        with self._lock:
            self._calls += 1
        try:
            with boundary(JudgeError, JUDGE_KEY):
                answer = self._function(*shown)
            with boundary(JudgeError, f"{JUDGE_KEY}: expected {expected}"):
                values = numbers([answer], 1) if size is None else numbers(answer, size)
            if not np.isfinite(values).all():
                raise JudgeError(f"{JUDGE_KEY}: expected {expected}, got {values.tolist()}")
        except RlagentsError as error:  # also one that the function raised itself
            with self._lock:
                self._failed += 1
            raise JudgeError(str(error)) from error
        return [float(value) for value in values]


def find_judge(path: str, *, pairwise: bool) -> FunctionJudge:
    """The judge whose function `module:name` names.

    Raises:
        ConfigError: as of `find_function`.
    """
    wanted = ("question", "first", "second") if pairwise else ("question", "candidate")
    return FunctionJudge(find_function(path, key=JUDGE_KEY, arguments=wanted))


def find_function(
    path: str, *, key: str = KEY, arguments: Sequence[str] = ("group",)
) -> Callable[..., Any]:
    """Import what `module:name` names: a function of these arguments, or an object like one.

    The module is found where those of environments are: `sys.path`, to which the command line adds
    the working folder.

    Raises:
        ConfigError: there is no such thing, the module can't be imported, or it can't be called
            with these arguments; names `key`.
    """
    module_name, _, name = path.partition(":")
    if not module_name or not name:
        raise ConfigError(f"{key}: expected module:name, got {path!r}")
    with boundary(ConfigError, f"{key}: importing {module_name!r}"):
        module = importlib.import_module(module_name)
    if not hasattr(module, name):
        known = [n for n, value in vars(module).items() if callable(value) and n[0] != "_"]
        raise ConfigError(f"{key}: {module_name!r} has no {name!r}{nearest(name, known)}")
    function = getattr(module, name)
    if inspect.isclass(function):
        raise ConfigError(f"{key}: expected a function or an instance, got the class {path!r}")
    if not callable(function):
        kind = type(function).__name__
        raise ConfigError(f"{key}: expected a function, got {path!r}, which is of type {kind}")
    if inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(
        getattr(function, "__call__", None)  # noqa: B004  (of an instance)
    ):
        raise ConfigError(f"{key}: expected a plain function, got the coroutine function {path!r}")
    _check_signature(path, function, key, arguments)
    return function


def _check_signature(
    path: str, function: Callable[..., Any], key: str, arguments: Sequence[str]
) -> None:
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):  # written in C: it will be seen when it is called
        return
    try:
        signature.bind(*arguments)
    except TypeError:
        count = "one argument, the group" if len(arguments) == 1 else ", ".join(arguments)
        raise ConfigError(
            f"{key}: expected a function of {count}; {path!r} takes {signature}"
        ) from None
