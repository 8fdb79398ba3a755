"""Trajectories for people to read: a list, or one of them turn by turn. Agent text is escaped."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Protocol

from rich.table import Table
from rich.text import Text

from rlagents.errors import ConfigError
from rlagents.types import EpisodeKey, Trajectory, Turn
from rlagents.visible import escape


class Recorded(Protocol):
    """A record of the journal."""

    @property
    def key(self) -> EpisodeKey:
        """Its name."""
        ...

    @property
    def trajectory(self) -> Trajectory:
        """What happened."""
        ...

    @property
    def notes(self) -> Mapping[str, Any]:
        """What was decided about it: `score`, `disposition`, ..."""
        ...


def parse_key(text: str) -> EpisodeKey:
    """Read a key as it is printed: `train/12/0/3`, `eval/rl/40/5/0`.

    Raises:
        ConfigError: when it is no such name.
    """
    parts = text.rsplit("/", 3)
    if len(parts) != 4 or not parts[0] or not all(re.fullmatch(r"\d{1,15}", p) for p in parts[1:]):
        raise ConfigError(f"{text!r} is not a key like train/ITERATION/GROUP/MEMBER")
    iteration, group, member = (int(part) for part in parts[1:])
    return EpisodeKey(stream=parts[0], iteration=iteration, group=group, member=member)


def in_stream(key: EpisodeKey, start: str | None) -> bool:
    """Whether a key begins like this: `eval` has `eval/rl/...`, `train/12` that iteration."""
    return start is None or str(key).startswith(f"{start.rstrip('/')}/")


def listing(records: Iterable[Recorded]) -> Table:
    """A table with one row a trajectory."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("key", "score", "return", "turns", "contexts", "tokens", "stop", "disposition"):
        right = name not in ("key", "stop", "disposition")
        least = len(name) if right else 8
        table.add_column(name, justify="right" if right else "left", no_wrap=True, min_width=least)
    for record in records:
        trajectory = record.trajectory
        cells = (
            str(record.key),
            _number(record.notes.get("score")),
            _number(trajectory.episode_return),
            str(len(trajectory.turns)),
            str(trajectory.contexts),
            str(trajectory.sampled_tokens),
            str(trajectory.stop),
            str(record.notes.get("disposition", "")),
        )
        table.add_row(*(Text(escape(cell)) for cell in cells))
    return table


def trajectory_text(trajectory: Trajectory, score: float | None = None) -> str:
    """One trajectory turn by turn as plain text, with contexts marked, safe to print."""
    return "\n".join(_lines(trajectory, score))


def trajectory_view(record: Recorded) -> Text:
    """One record turn by turn for the terminal, headings and actions set off."""
    text = Text()
    score = record.notes.get("score")
    for line in _lines(record.trajectory, score if isinstance(score, (int, float)) else None):
        style = ""
        if line.startswith(("=", "-- ", "!! ")):
            style = "bold"
        elif line.startswith("> "):
            style = "green"
        text.append(line + "\n", style=style)
    extra = {name: value for name, value in record.notes.items() if name != "score"}
    for name, value in extra.items():
        text.append(escape(f"{name}: {value}") + "\n", style="dim")
    return text


def _lines(trajectory: Trajectory, score: float | None) -> Iterator[str]:
    task = trajectory.task
    against = f"  seat {task.seat} against {', '.join(task.opponents)}" if task.opponents else ""
    head = f"== {trajectory.key}  {task.env_id}  seed {task.seed}{against}"
    yield escape(head)
    yield (
        f"score {_number(score)}  return {_number(trajectory.episode_return)}  "
        f"turns {len(trajectory.turns)}  contexts {trajectory.contexts}  "
        f"tokens {trajectory.sampled_tokens}  stop {trajectory.stop}"
    )
    if trajectory.error is not None:
        error = trajectory.error
        yield escape(f"!! {error.boundary}: {error.kind}: {_flat(error.message)}")
    if trajectory.metrics:
        yield escape("  ".join(f"{n} {_number(v)}" for n, v in trajectory.metrics.items()))
    context = None
    for number, turn in enumerate(trajectory.turns):
        if turn.context != context:
            context = turn.context
            again = any(t.context == context for t in trajectory.turns[:number])
            yield f"== context {context}{' (continued)' if again else ''}"
        yield from _turn_lines(number, turn)
    yield "-- end"
    yield from _quote(trajectory.final_observation, "  ")
    for other in trajectory.others:
        yield f"== seat {other.task.seat}  return {_number(other.metrics.get('return'))}"
        for number, turn in enumerate(other.turns):
            yield from _turn_lines(number, turn)


def _turn_lines(number: int, turn: Turn) -> Iterator[str]:
    added = len(turn.observation_ids)
    yield f"-- turn {number}  {added} tokens read"
    yield from _quote(turn.observation, "  ")
    yield from _quote(turn.action, "> ")
    yield (
        f"  [reward {_number(turn.reward)}, {len(turn.action_ids)} tokens sampled, "
        f"weights {turn.weights_version}]"
    )


def _quote(text: str, prefix: str) -> Iterator[str]:
    return (prefix + line for line in escape(text).split("\n"))


def _flat(text: str) -> str:
    return " ".join(text.split())


def _number(value: object) -> str:
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return f"{value:.4g}"
    return "-" if value is None else str(value)
