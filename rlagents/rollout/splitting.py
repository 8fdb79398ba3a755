"""Demonstrations of any length as segments, one demonstration in memory at a time.

    demonstration --replay through the context window--> contexts --> segments, and a report

The window cuts by the rule of `rlagents.algos.chunking`, as it does in rollouts. Each action is
trained once, in the context that owns it; `warm_start.train_overlap` also trains it where the next
context repeats it.
"""

from __future__ import annotations

import bisect
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field, replace

import numpy as np

from rlagents.config import WarmStartSection
from rlagents.data.demonstrations import Demonstration
from rlagents.data.segments import segments_of
from rlagents.errors import ConfigError
from rlagents.policy.chat import Chat
from rlagents.rollout.context import Window
from rlagents.rollout.replay import Replay, Spans, replay
from rlagents.types import EpisodeKey, Segment, Trajectory

STREAM = "demonstrations"
"""The stream of a demonstration's key."""
AFTER, BEFORE = "after the first window", "before the last window"


@dataclass(frozen=True, slots=True, kw_only=True)
class Dropped:
    """What was left out for one reason."""

    demonstrations: int = 0
    """Of which nothing was left."""
    turns: int = 0
    tokens: int = 0
    """Of their actions: what would have been trained."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SplitReport:
    """What became of the demonstrations."""

    demonstrations: int = 0
    turns: int = 0
    split: int = 0
    """Demonstrations that became more than one context."""
    contexts: int = 0
    trained_tokens: int = 0
    repeated_tokens: int = 0
    """Tokens of earlier turns, pinned or repeated, with which later contexts begin."""
    dropped: Mapping[str, Dropped] = field(default_factory=dict)
    """By reason."""
    odd_lines: int = 0
    """Lines of the file that are no demonstrations."""
    first_odd: str = ""
    """What is wrong with the first of them."""

    def lines(self) -> list[str]:
        """In words: one line, and others for what was dropped."""
        said = [
            f"demonstrations: {self.demonstrations:,} with {self.turns:,} turns, {self.split:,} "
            f"split, {self.contexts:,} contexts, {self.trained_tokens:,} tokens to train, "
            f"{self.repeated_tokens:,} repeated"
        ]
        if self.dropped:
            said.append(
                "dropped: "
                + "; ".join(
                    f"{d.turns:,} turns ({d.tokens:,} tokens, {d.demonstrations:,} whole "
                    f"demonstrations): {reason}"
                    for reason, d in self.dropped.items()
                )
            )
        if self.odd_lines:
            said.append(
                f"dropped: {self.odd_lines:,} lines that are no demonstrations, the first: "
                f"{self.first_odd}"
            )
        return said


class Splitter:
    """Makes segments of demonstrations, and counts what it does.

    Examples:
        >>> splitter = Splitter(config.warm_start, chat, make_window, config.policy.max_tokens)
        >>> for demonstration in read(path, chat):
        ...     for segment in splitter.split(demonstration):
        ...         ...
        >>> print(splitter.report.lines())
    """

    def __init__(
        self,
        section: WarmStartSection,
        chat: Chat,
        make_window: Callable[[], Window],
        reserve: int,
    ) -> None:
        """`reserve` is the most tokens of an action."""
        self._section = section
        self._chat = chat
        self._make_window = make_window
        self._reserve = reserve
        self.report = SplitReport()
        """Of what was split so far."""

    def split(self, demonstration: Demonstration) -> Iterator[Segment]:
        """The segments of one demonstration.

        Raises:
            ConfigError: for a turn that can't be shown, with `warm_start.misfits: error`: the
                policy could never do what it is shown.
        """
        mode, count = self._section.long, len(demonstration.turns)
        first = self._tail(demonstration) if mode == "keep_tail" else 0
        made = self._replay(demonstration, first, None if mode == "split" else 1)
        end, misfit = first + len(made.trajectory.turns), made.misfit
        if misfit is not None and self._section.misfits == "error":
            raise ConfigError(
                f"warm_start.misfits: turn {end} of "
                f"{_name(demonstration, self.report.demonstrations)} can't be shown: "
                f"{misfit.value}; `drop` leaves out the rest of such demonstrations"
            )
        segments = self._segments(made)
        lost: dict[str, tuple[int, int]] = {}
        if first:
            lost[BEFORE] = (0, first)
        if end < count:
            lost[AFTER if misfit is None else misfit.value] = (end, count)
        self._count(demonstration, segments, made.carried_tokens, lost)
        yield from segments

    def recorded(self, demonstration: Demonstration, trajectory: Trajectory) -> Iterator[Segment]:
        """The segments of an episode that was played through a context window already.

        Raises:
            ConfigError: with `warm_start.train_overlap` or a `warm_start.long` that keeps a part.
        """
        self._section.check_windowed()
        segments = segments_of(
            trajectory, np.ones(len(trajectory.turns), np.float32), label=trajectory.key.group
        )
        self._count(demonstration, segments, 0, {})
        yield from segments

    def odd(self, error: ConfigError) -> None:
        """Take note of a line that is no demonstration.

        Raises:
            ConfigError: that one, unless `warm_start.misfits` is `drop`.
        """
        if self._section.misfits == "error":
            raise error
        report = self.report
        self.report = replace(
            report, odd_lines=report.odd_lines + 1, first_odd=report.first_odd or str(error)
        )

    def _replay(self, demonstration: Demonstration, first: int, contexts: int | None) -> Replay:
        number = self.report.demonstrations
        with closing(self._make_window()) as window:
            return replay(
                demonstration.turns[first:],
                demonstration.task,
                EpisodeKey(stream=STREAM, iteration=0, group=number, member=0),
                window,
                self._chat,
                self._reserve,
                contexts,
            )

    def _tail(self, demonstration: Demonstration) -> int:
        """The first turn of the longest tail that one context holds, the last turn if none is."""

        def whole(first: int) -> bool:
            made = self._replay(demonstration, first, 1)
            return len(made.trajectory.turns) == len(demonstration.turns) - first

        return bisect.bisect_left(range(len(demonstration.turns) - 1), True, key=whole)

    def _segments(self, made: Replay) -> tuple[Segment, ...]:
        turns = made.trajectory.turns
        ones = np.ones(len(turns), np.float32)
        segments = segments_of(made.trajectory, ones, label=made.trajectory.key.group)
        if not self._section.train_overlap:
            return segments
        opening: dict[int, Spans] = {}
        for turn, spans in zip(turns, made.repeated, strict=True):
            opening.setdefault(turn.context, spans)
        return tuple(with_repeats(part, opening[part.source[1]]) for part in segments)

    def _count(
        self,
        demonstration: Demonstration,
        segments: tuple[Segment, ...],
        carried: int,
        lost: Mapping[str, tuple[int, int]],
    ) -> None:
        report = self.report
        dropped = dict(report.dropped)
        for reason, (start, stop) in lost.items():
            before = dropped.get(reason, Dropped())
            actions = [action for _, action in demonstration.turns[start:stop]]
            dropped[reason] = Dropped(
                demonstrations=before.demonstrations + (not segments),
                turns=before.turns + len(actions),
                tokens=before.tokens + sum(len(self._chat.encode_action(a)) for a in actions),
            )
        self.report = replace(
            report,
            demonstrations=report.demonstrations + 1,
            turns=report.turns + len(demonstration.turns),
            split=report.split + (len(segments) > 1),
            contexts=report.contexts + len(segments),
            trained_tokens=report.trained_tokens + sum(int(s.loss_mask.sum()) for s in segments),
            repeated_tokens=report.repeated_tokens + carried,
            dropped=dropped,
        )


def with_repeats(segment: Segment, spans: Spans) -> Segment:
    """The segment with the actions in `spans` trained too: they count twice.

    Raises:
        ValueError: for a segment that is no demonstration's. A sampled action has the behaviour
            log-probability of the context it was sampled in, so that in another one its ratio, and
            with it any policy gradient, means nothing.
    """
    if segment.source[0].stream != STREAM or segment.behaviour_logprobs.any():
        raise ValueError(
            "repeated actions are trained in demonstrations only, expected a segment of stream "
            f"{STREAM!r} without behaviour log-probabilities, got {segment.source[0]}"
        )
    mask = segment.loss_mask.copy()
    for begin, end in spans:
        mask[begin:end] = True
    return replace(segment, loss_mask=mask)


def _name(demonstration: Demonstration, number: int) -> str:
    task = demonstration.task
    return task.task_id if not task.env_id and task.task_id else f"demonstration {number}"
