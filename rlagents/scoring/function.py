"""A scorer of the user's own: `scoring.function: module:name`."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable
from typing import Any

import numpy as np

from rlagents.errors import ConfigError, boundary, nearest
from rlagents.scoring.scorer import failed, returns_of
from rlagents.types import FloatArray, Group, ScoredGroup

KEY = "scoring.function"


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


def find_function(path: str) -> Callable[[Group], Any]:
    """Import what `module:name` names: a function of one argument, or an object like one.

    The module is found where those of environments are: `sys.path`, to which the command line adds
    the working folder.

    Raises:
        ConfigError: there is no such thing, the module can't be imported, or it can't be called
            with a group.
    """
    module_name, _, name = path.partition(":")
    if not module_name or not name:
        raise ConfigError(f"{KEY}: expected module:name, got {path!r}")
    with boundary(ConfigError, f"{KEY}: importing {module_name!r}"):
        module = importlib.import_module(module_name)
    if not hasattr(module, name):
        known = [n for n, value in vars(module).items() if callable(value) and n[0] != "_"]
        raise ConfigError(f"{KEY}: {module_name!r} has no {name!r}{nearest(name, known)}")
    function = getattr(module, name)
    if inspect.isclass(function):
        raise ConfigError(f"{KEY}: expected a function or an instance, got the class {path!r}")
    if not callable(function):
        kind = type(function).__name__
        raise ConfigError(f"{KEY}: expected a function, got {path!r}, which is of type {kind}")
    if inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(
        getattr(function, "__call__", None)  # noqa: B004  (of an instance)
    ):
        raise ConfigError(f"{KEY}: expected a plain function, got the coroutine function {path!r}")
    _check_signature(path, function)
    return function


def _check_signature(path: str, function: Callable[..., Any]) -> None:
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):  # written in C: it will be seen when it is called
        return
    try:
        signature.bind(None)
    except TypeError:
        raise ConfigError(
            f"{KEY}: expected a function of one argument, the group; {path!r} takes {signature}"
        ) from None
