"""Demonstrations on disk: JSON lines, ours or a user's own chat transcripts.

Our line:   {"task": {"env_id": ..., "seed": ...}, "turns": [[observation, action], ...],
             "score": 0.5, "final_observation": ""}
Chat line:  {"messages": [{"role": "user", "content": ...}, {"role": "assistant", ...}, ...],
             "tools": [...]}

Chat lines are what most frameworks log. An observation is all that stands between two answers of
the assistant, an action is an answer as the policy would have to say it:

- `tool_calls` (and the older `function_call`) and `reasoning_content` (or `reasoning`) become text
  as the policy's chat template writes them (`rlagents.policy.tool_calls`).
- Assistant messages in a row are one action: nothing was observed in between.
- Results of tools are observations. Where several come at once each begins with its tool's name in
  brackets, found by `tool_call_id` where it has no `name`. A `name` of a user or of the system
  stands in front of the text.
- `tools` are described in the first observation, behind the system message.
- Content is text, a list of text parts, or null; other parts are an error.
- What follows the last answer is no part of any action's context: `final_observation`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import msgspec

from rlagents.errors import ConfigError
from rlagents.policy.chat import Chat
from rlagents.policy.tool_calls import ToolCall, action_text, tools_text
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
    seat: int = 0
    opponents: tuple[str, ...] = ()


class _Record(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    task: _Task
    turns: list[tuple[str, str]]
    score: float | None = None
    final_observation: str = ""


_SYSTEM, _RESULT = ("system", "developer"), ("tool", "function")
"""Roles, by what is done with them."""


class _Part(msgspec.Struct):
    text: str = ""
    type: str = "text"


class _Function(msgspec.Struct):
    name: str
    arguments: Any = None


class _Call(msgspec.Struct):
    function: _Function
    id: str | None = None


class _Message(msgspec.Struct):
    role: str
    content: str | list[_Part] | None = None
    name: str | None = None
    tool_calls: list[_Call] | None = None
    function_call: _Function | None = None
    tool_call_id: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None

    @property
    def text(self) -> str:
        if not isinstance(self.content, list):
            return self.content or ""
        for part in self.content:
            if part.type not in ("text", "input_text", "output_text"):
                raise ValueError(f"a content part of type {part.type!r}: only text can be imitated")
        return "".join(part.text for part in self.content)

    @property
    def calls(self) -> list[_Call]:
        old = [] if self.function_call is None else [_Call(function=self.function_call)]
        return [*(self.tool_calls or ()), *old]


class _Chat(msgspec.Struct):
    messages: list[_Message]
    tools: list[dict[str, Any]] | None = None


class _Keys(msgspec.Struct):
    """Tells the two formats apart without reading a line's content."""

    messages: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET


@contextmanager
def writer(path: str) -> Iterator[Callable[[Demonstration], None]]:
    """Write one line a demonstration, as they come; the file appears when the block has ended.

    Raises:
        ConfigError: when the file can't be made.
    """
    partial = f"{path}.partial"
    encoder = msgspec.json.Encoder()
    with _naming(path):
        os.makedirs(os.path.dirname(os.path.abspath(path)), exist_ok=True)
        file = open(partial, "wb")  # noqa: SIM115 - closed below, before it gets its name

    def record(demonstration: Demonstration) -> None:
        with _naming(path):
            file.write(encoder.encode(demonstration) + b"\n")

    try:
        yield record
        with _naming(path):
            file.close()
            os.replace(partial, path)
    finally:
        with suppress(OSError):
            file.close()
        with suppress(OSError):
            os.unlink(partial)


@contextmanager
def _naming(path: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise ConfigError(f"{path}: can't write demonstrations: {error}") from error


def write(path: str, demonstrations: Iterable[Demonstration]) -> int:
    """Write all of them, streaming; how many there were.

    Raises:
        ConfigError: when the file can't be made.
    """
    count = 0
    with writer(path) as record:
        for demonstration in demonstrations:
            record(demonstration)
            count += 1
    return count


def _refuse(error: ConfigError) -> None:
    raise error


def read(
    path: str, chat: Chat | None = None, odd: Callable[[ConfigError], None] = _refuse
) -> Iterator[Demonstration]:
    """Read demonstrations one by one; empty lines are passed over.

    Args:
        chat: whose template writes tool calls and reasoning; without one they are plain text.
        odd: what becomes of a line that is not a demonstration; where it returns, the next one is
            read. The error names the file and the line.

    Raises:
        ConfigError: for a file that can't be read or holds no demonstration, and by `odd`.
    """
    count, first = 0, ""
    try:
        with open(path, "rb") as file:
            for number, line in enumerate(file, start=1):
                if not line.strip():
                    continue
                try:
                    demonstration = _decode(line, f"{path}, line {number}", chat)
                except ConfigError as error:
                    first = first or f": {error}"
                    odd(error)
                    continue
                yield demonstration
                count += 1
    except OSError as error:
        reason = error.strerror or str(error)
        raise ConfigError(f"warm_start.path: {path}: {reason.lower()}") from error
    if count == 0:
        raise ConfigError(f"warm_start.path: {path} holds no demonstrations{first}")


_KEYS = msgspec.json.Decoder(_Keys)
_RECORD = msgspec.json.Decoder(_Record)
_CHAT = msgspec.json.Decoder(_Chat)


def _decode(line: bytes, where: str, chat: Chat | None) -> Demonstration:
    try:
        if _KEYS.decode(line).messages is not msgspec.UNSET:
            return _from_chat(_CHAT.decode(line), where, chat)
        record = _RECORD.decode(line)
        return Demonstration(
            task=Task(**msgspec.structs.asdict(record.task)),
            turns=tuple(record.turns),
            score=record.score,
            final_observation=record.final_observation,
        )
    except (msgspec.DecodeError, UnicodeDecodeError, ValueError) as error:
        raise ConfigError(f"warm_start.path: {where}: {error}") from error


def _from_chat(transcript: _Chat, where: str, chat: Chat | None) -> Demonstration:
    """Whatever comes between two answers of the assistant is one observation.

    Raises:
        ValueError: for an unknown role, or an assistant message with nothing before it.
    """
    told = tools_text(chat, transcript.tools) if transcript.tools else ""
    names: dict[str | None, str] = {}  # of the tools that were called, by the call's id
    turns: list[tuple[str, str]] = []
    observation: str | None = None
    for assistant, group in groupby(transcript.messages, lambda m: m.role == "assistant"):
        messages = list(group)
        if not assistant:
            observation = _observation(messages, "" if turns else told, names)
        elif observation is None:
            raise ValueError("an assistant message must follow one of another role")
        else:
            turns.append((observation, _action(messages, chat)))
            observation = None
            names |= {c.id: c.function.name for m in messages for c in m.calls if c.id}
    return Demonstration(
        task=Task(env_id="", seed=0, task_id=where),
        turns=tuple(turns),
        final_observation=observation or "",
    )


def _observation(messages: Sequence[_Message], told: str, names: Mapping[str | None, str]) -> str:
    """Messages between two answers as one text; `told` of the tools goes behind the system's."""
    results = sum(message.role in _RESULT for message in messages)
    said: list[str] = []
    for message in messages:
        if told and message.role not in _SYSTEM:
            said.append(told)
            told = ""
        text = message.text
        if message.role in _RESULT:
            name = message.name or names.get(message.tool_call_id)
            text = f"[{name}] {text}" if name and results > 1 else text
        elif message.role in (*_SYSTEM, "user"):
            text = f"{message.name}: {text}" if message.name else text
        else:
            raise ValueError(f"unknown role {message.role!r}")
        said.append(text)
    return "\n\n".join([*said, told] if told else said)


def _action(messages: Sequence[_Message], chat: Chat | None) -> str:
    """Assistant messages in a row as one text."""
    return action_text(
        chat,
        "\n\n".join(m.text for m in messages if m.text),
        [
            ToolCall(c.function.name, _object(c.function.arguments))
            for m in messages
            for c in m.calls
        ],
        "\n\n".join(t for m in messages if (t := m.reasoning_content or m.reasoning)),
    )


def _object(arguments: Any) -> Any:
    """Arguments of a call, which travel as an object or as its JSON; what is neither stays text."""
    if not isinstance(arguments, str):
        return {} if arguments is None else arguments
    try:
        return msgspec.json.decode(arguments) if arguments.strip() else {}
    except msgspec.DecodeError:
        return arguments
