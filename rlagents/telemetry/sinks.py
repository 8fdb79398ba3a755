"""Where metrics and texts go: JSON lines, TensorBoard, the terminal.

A step is one optimizer update. A sink that resumes at step `k` forgets what it held for `k` and
later, so that no step appears twice. Imports neither torch nor tensorboard until it must.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Protocol, Self

import numpy as np

from rlagents.errors import ConfigError, RlagentsError, boundary
from rlagents.telemetry.tb import TensorBoardSink

__all__ = ["JsonLines", "JsonlSink", "MultiSink", "Sink", "TensorBoardSink"]


class Sink(Protocol):
    """Takes what is logged."""

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Figures of a step."""

    def text(self, step: int, tag: str, text: str) -> None:
        """A plain text, which nobody may take for markup."""

    def image(self, step: int, tag: str, png: bytes) -> None:
        """A picture."""

    def close(self) -> None:
        """Finish; may be called twice."""


class JsonLines:
    """A file of one JSON object a line, each handed to the system as soon as it is written.

    Args:
        path: continued where it exists; a torn last line is cut off.
        below: on resume, lines whose `step` is this or more are removed.

    Raises:
        ConfigError: when the file can't be written.
    """

    def __init__(self, path: str | os.PathLike[str], *, below: int | None = None) -> None:
        self.path = Path(path)
        self.last: dict[str, Any] = {}
        """The last line of the file; empty when it has none."""
        self._mark = 0
        with boundary(ConfigError, f"can't write {self.path}"):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            if self.path.exists():
                self._tidy(below)
            self._file: IO[bytes] = self.path.open("ab", buffering=0)

    def write(self, line: Mapping[str, Any]) -> None:
        """Append an object. Numbers that are not finite become null: JSON has no others.

        Raises:
            RlagentsError: when the disk refuses.
        """
        with boundary(RlagentsError, f"can't write {self.path}"):
            self._mark = self._file.seek(0, os.SEEK_END)
            self._put(line)

    def rewrite(self, line: Mapping[str, Any]) -> None:
        """Put `line` in the place of the last one.

        Raises:
            RlagentsError: when the disk refuses.
        """
        with boundary(RlagentsError, f"can't write {self.path}"):
            self._file.truncate(self._mark)
            self._put(line)

    def close(self) -> None:
        """Close the file; may be called twice."""
        self._file.close()

    def _put(self, line: Mapping[str, Any]) -> None:
        text = json.dumps(_finite(line), allow_nan=False, default=str)
        data = memoryview(text.encode() + b"\n")
        try:
            while data:
                data = data[self._file.write(data) :]
        except OSError:
            with contextlib.suppress(OSError):  # half a line must not precede the next
                self._file.truncate(self._mark)
            raise
        self.last = dict(line)

    def _tidy(self, below: int | None) -> None:
        """Drop a torn last line, lines that are not JSON, and steps that will be repeated."""
        data = self.path.read_bytes()
        kept = [line for line in data.splitlines(keepends=True) if _keep(line, below)]
        if kept:
            self.last = json.loads(kept[-1])
            self._mark = sum(map(len, kept[:-1]))
        if b"".join(kept) == data:
            return
        temporary = self.path.with_name(self.path.name + ".new")
        with temporary.open("wb") as file:
            file.writelines(kept)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(self.path)


def _keep(line: bytes, below: int | None) -> bool:
    if not line.endswith(b"\n"):
        return False
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        return False
    if not isinstance(value, dict):
        return False
    step = value.get("step")
    return below is None or not isinstance(step, (int, float)) or step < below


def _finite(value: Any) -> Any:
    match value:
        case float():
            return value if math.isfinite(value) else None
        case Mapping():
            return {str(key): _finite(item) for key, item in value.items()}
        case list() | tuple():
            return [_finite(item) for item in value]
        case np.generic():
            return _finite(value.item())
    return value


class JsonlSink:
    """`metrics.jsonl`: one object a step, `{"step": 3, "train/loss": 0.1, ...}`.

    Args:
        path: of the file.
        resume_step: lines of this step and later are removed.
    """

    def __init__(self, path: str | os.PathLike[str], *, resume_step: int | None = None) -> None:
        self._lines = JsonLines(path, below=resume_step)

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Write the step's line, or add to it when it is the last one."""
        values = {name: float(value) for name, value in metrics.items()}
        if self._lines.last.get("step") == step:
            self._lines.rewrite(self._lines.last | values)
        else:
            self._lines.write({"step": step, **values})

    def text(self, step: int, tag: str, text: str) -> None:
        """Texts are in the journal."""

    def image(self, step: int, tag: str, png: bytes) -> None:
        """Pictures are of what the lines hold."""

    def close(self) -> None:
        """Close the file."""
        self._lines.close()


class MultiSink:
    """Hands everything to several sinks, in order."""

    def __init__(self, sinks: Sequence[Sink]) -> None:
        self.sinks = tuple(sinks)

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Figures of a step, to each."""
        for sink in self.sinks:
            sink.log(step, metrics)

    def text(self, step: int, tag: str, text: str) -> None:
        """A text, to each."""
        for sink in self.sinks:
            sink.text(step, tag, text)

    def image(self, step: int, tag: str, png: bytes) -> None:
        """A picture, to each."""
        for sink in self.sinks:
            sink.image(step, tag, png)

    def close(self) -> None:
        """Close each, the last first."""
        for sink in reversed(self.sinks):
            sink.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
