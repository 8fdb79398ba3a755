"""One error type for each boundary, and the one place where a failure gets its name.

Code behind a boundary raises plain Python errors; `boundary(...)` turns whatever escapes into
that boundary's type, and lets an already typed error pass. Every type survives pickling.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable

from rlagents.types import ErrorRecord


class RlagentsError(Exception):
    """Base of all our errors."""

    boundary = "rlagents"

    def record(self) -> ErrorRecord:
        """This error as data. The kind is that of the cause, where there is one."""
        origin = self.__cause__ or self
        return ErrorRecord(
            boundary=self.boundary, kind=type(origin).__name__, message=str(self)[:2000]
        )


class ConfigError(RlagentsError, ValueError):
    """The user's configuration can't be run. One clear line, exit code 2."""

    boundary = "config"


class EnvironmentFailure(RlagentsError, RuntimeError):
    """The environment raised or broke its contract."""

    boundary = "environment"


class SandboxBroken(RlagentsError, RuntimeError):
    """The sandbox itself failed: never shown to a model as a command's output."""

    boundary = "sandbox"


class SamplerError(RlagentsError, RuntimeError):
    """The sampler failed or did not answer."""

    boundary = "sampler"


class JudgeError(RlagentsError, RuntimeError):
    """A judge failed or did not answer."""

    boundary = "judge"


class CheckpointError(RlagentsError, RuntimeError):
    """A checkpoint is missing, damaged or of another shape."""

    boundary = "checkpoint"


class JournalError(RlagentsError, RuntimeError):
    """The journal can't be written or read at all (damaged records are skipped, not raised)."""

    boundary = "journal"


class LearnerError(RlagentsError, RuntimeError):
    """A learner rank failed, or a step was not finite."""

    boundary = "learner"


class WorkerLost(RlagentsError, RuntimeError):
    """The process that ran a rollout died."""

    boundary = "worker"


class boundary:
    """Turn whatever escapes the block into `error`; `doing` says what was tried.

    A class, because `contextlib` lets a StopIteration escape when it became a RuntimeError, and
    an environment that has run out of something raises just that.

    Raises:
        error: with the original as its cause. Typed errors and exits pass unchanged.
    """

    def __init__(self, error: type[RlagentsError], doing: str) -> None:
        self._error = error
        self._doing = doing

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, cause: BaseException | None, traceback: object) -> None:
        if isinstance(cause, Exception) and not isinstance(cause, RlagentsError):
            raise self.named(cause) from cause

    def named(self, cause: BaseException) -> RlagentsError:
        """The cause in this boundary's type."""
        return self._error(f"{self._doing}: {type(cause).__name__}: {cause}")


def nearest(name: str, known: Iterable[str]) -> str:
    """`; did you mean 'x'?`, or an empty string when nothing comes near."""
    match = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f"; did you mean {match[0]!r}?" if match else ""
