"""Demonstrations on disk: JSON lines, ours or a user's own chat transcripts.

Our line:   {"task": {"env_id": ..., "seed": ...}, "turns": [[observation, action], ...],
             "score": 0.5, "final_observation": ""}
Chat line:  {"messages": [{"role": "user", "content": ...}, {"role": "assistant", ...}, ...]}
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import msgspec

from rlagents.errors import ConfigError
from rlagents.types import Task


@dataclass(frozen=True, slots=True, kw_only=True)
class Demonstration:
    """An episode as text, to be imitated."""

    task: Task
    """Where it comes from a chat transcript: no environment, `task_id` is file and line."""
    turns: tuple[tuple[str, str], ...]
    """Observation and action of each turn, at least one turn, no action empty."""
    score: float | None = None
    final_observation: str = ""
    """What came after the last action."""

    def __post_init__(self) -> None:
        if not self.turns:
            raise ValueError("no turns: there is no action to imitate")
        for number, (_, action) in enumerate(self.turns):
            if not action:
                raise ValueError(f"the action of turn {number} is empty")


class _Task(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    env_id: str
    seed: int
    kwargs: dict[str, Any] = {}
    options: dict[str, Any] = {}
    task_id: str = ""
    human_minutes: float | None = None
    family: str | None = None


class _Record(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    task: _Task
    turns: list[tuple[str, str]]
    score: float | None = None
    final_observation: str = ""


class _Part(msgspec.Struct):
    text: str
    type: str = "text"


class _Message(msgspec.Struct):
    role: str
    content: str | list[_Part]


class _Chat(msgspec.Struct):
    messages: list[_Message]


class _Keys(msgspec.Struct):
    """Tells the two formats apart without reading a line's content."""

    messages: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET


def write(path: str, demonstrations: Iterable[Demonstration]) -> int:
    """Write one line a demonstration, streaming; the file appears when it is complete.

    Returns:
        How many were written.

    Raises:
        ConfigError: when the file can't be made.
    """
    partial, count = f"{path}.partial", 0
    encoder = msgspec.json.Encoder()
    try:
        os.makedirs(os.path.dirname(os.path.abspath(path)), exist_ok=True)
        with open(partial, "wb") as file:
            for demonstration in demonstrations:
                file.write(encoder.encode(demonstration) + b"\n")
                count += 1
        os.replace(partial, path)
    except OSError as error:
        raise ConfigError(f"{path}: can't write demonstrations: {error}") from error
    return count


def read(path: str) -> Iterator[Demonstration]:
    """Read demonstrations one by one; empty lines are passed over.

    Raises:
        ConfigError: for a file that can't be read or holds none, or for a line that is not a
            demonstration; names the file and the line.
    """
    count = 0
    try:
        with open(path, "rb") as file:
            for number, line in enumerate(file, start=1):
                if line.strip():
                    yield _decode(line, f"{path}, line {number}")
                    count += 1
    except OSError as error:
        reason = error.strerror or str(error)
        raise ConfigError(f"warm_start.path: {path}: {reason.lower()}") from error
    if count == 0:
        raise ConfigError(f"warm_start.path: {path} holds no demonstrations")


_KEYS = msgspec.json.Decoder(_Keys)
_RECORD = msgspec.json.Decoder(_Record)
_CHAT = msgspec.json.Decoder(_Chat)


def _decode(line: bytes, where: str) -> Demonstration:
    try:
        if _KEYS.decode(line).messages is not msgspec.UNSET:
            return _from_chat(_CHAT.decode(line), where)
        record = _RECORD.decode(line)
        return Demonstration(
            task=Task(**msgspec.structs.asdict(record.task)),
            turns=tuple(record.turns),
            score=record.score,
            final_observation=record.final_observation,
        )
    except (msgspec.DecodeError, UnicodeDecodeError, ValueError) as error:
        raise ConfigError(f"warm_start.path: {where}: {error}") from error


def _from_chat(chat: _Chat, where: str) -> Demonstration:
    """Whatever comes between two assistant messages is one observation.

    Raises:
        ValueError: for an unknown role, or an assistant message with nothing before it.
    """
    turns: list[tuple[str, str]] = []
    waiting: list[str] = []
    for message in chat.messages:
        content = message.content
        if not isinstance(content, str):
            content = "".join(part.text for part in content)
        if message.role in ("system", "developer", "user", "tool"):
            waiting.append(content)
        elif message.role != "assistant":
            raise ValueError(f"unknown role {message.role!r}")
        elif not waiting:
            raise ValueError("an assistant message must follow one of another role")
        else:
            turns.append(("\n\n".join(waiting), content))
            waiting = []
    return Demonstration(
        task=Task(env_id="", seed=0, task_id=where),
        turns=tuple(turns),
        final_observation="\n\n".join(waiting),
    )
