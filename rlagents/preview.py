"""What would be trained, before anything is: one real batch as text, masks, advantages, weights."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
from rich.text import Text

from rlagents.algos.registry import Algorithm
from rlagents.config import RunConfig
from rlagents.data.batches import make_batches
from rlagents.rollout.stream import Collected
from rlagents.telemetry.show import escape
from rlagents.types import Batch, ScoredGroup, Trajectory

TRAINED, PINNED, CONTEXT = "bold green", "cyan", "dim"
OPEN, CLOSE = "[[", "]]"
"""Around trained tokens where there is no colour."""
MAX_SEGMENTS = 6
MAX_CHARACTERS = 2000


def report(
    config: RunConfig,
    collected: Collected,
    algorithm: Algorithm,
    decode: Callable[[Sequence[int]], str],
    *,
    pad_id: int,
    colour: bool,
) -> Iterator[Text]:
    """Lines for the terminal, best and worst trajectory of the first kept group first."""
    groups = collected.kept
    yield Text(
        f"{len(collected.groups)} groups sampled, {len(groups)} kept"
        + "".join(f", dropped: {reason}" for reason in _reasons(collected))
    )
    if not groups:
        yield Text("no group has a signal: nothing would be trained in this iteration")
        groups = collected.groups
    credits = algorithm.advantages(groups)
    batches = make_batches(
        groups,
        credits,
        aggregation=algorithm.aggregation,
        updates=config.algo.updates,
        row_tokens=config.learner.row_tokens or config.context.window,
        pad_id=pad_id,
    )
    for number, batch in enumerate(batches):
        yield Text(_batch_line(number, batch))
    yield Text(
        "legend: "
        + (f"{OPEN}trained{CLOSE}" if not colour else "trained, ")
        + ", pinned or repeated, context only",
        style="italic",
    )
    shown = 0
    for group, members in zip(groups, credits, strict=True):
        for member in _ends(group):
            trajectory = group.group.trajectories[member]
            if not trajectory.turns or shown >= MAX_SEGMENTS:
                continue
            credit = members[member]
            weight = _weights(batches)
            yield Text(
                f"\n{trajectory.key}  score {float(group.scores[member]):.4g}  "
                f"advantage {float(credit.advantages[0]):+.4g}  "
                f"{'gets gradient' if credit.gradient else 'NO GRADIENT'}  "
                f"{len(trajectory.turns)} turns, {trajectory.contexts} segments, "
                f"stop: {trajectory.stop.value}  weight of a token {weight}",
                style="bold",
            )
            for part in _segments(trajectory, decode, credit.gradient, colour):
                shown += 1
                yield part


def _reasons(collected: Collected) -> list[str]:
    reasons = [reason for _, reason in collected.dropped]
    return [f"{reasons.count(reason)} {reason}" for reason in sorted(set(reasons))]


def _batch_line(number: int, batch: Batch) -> str:
    rows, tokens = batch.token_ids.shape
    share = batch.tokens / max(rows * tokens, 1)
    return (
        f"batch {number}: {rows} rows of {tokens} tokens ({share:.0%} filled), "
        f"{int((batch.segment_ids.max(axis=1) + 1).sum())} segments, "
        f"{batch.trained_tokens} trained tokens, weights sum to {batch.loss_weights.sum():.4f}"
    )


def _weights(batches: Sequence[Batch]) -> str:
    weights = np.concatenate([b.loss_weights[b.loss_weights != 0] for b in batches] or [[]])
    if not len(weights):
        return "0"
    low, high = float(weights.min()), float(weights.max())
    return f"{low:.3g}" if low == high else f"{low:.3g} to {high:.3g}"


def _ends(group: ScoredGroup) -> list[int]:
    """The best and the worst member that have a score."""
    order = [int(i) for i in np.argsort(group.scores) if np.isfinite(group.scores[i])]
    return list(dict.fromkeys([order[-1], order[0]])) if order else []


def _segments(
    trajectory: Trajectory,
    decode: Callable[[Sequence[int]], str],
    gradient: bool,
    colour: bool,
) -> Iterator[Text]:
    """Each context of a trajectory as text, every token shown as what it is in training."""
    first = trajectory.turns[0].observation_ids
    for context in sorted({turn.context for turn in trajectory.turns}):
        turns = [turn for turn in trajectory.turns if turn.context == context]
        size = sum(len(t.observation_ids) + len(t.action_ids) for t in turns)
        trained = sum(len(t.action_ids) for t in turns) if gradient else 0
        text = Text(f"  segment {context}: {size} tokens, {trained} trained\n    ", style="bold")
        for index, turn in enumerate(turns):
            ids = turn.observation_ids
            repeated = _common(ids, first) if context and index == 0 else 0
            text.append(escape(decode(ids[:repeated].tolist())), style=PINNED)
            text.append(escape(decode(ids[repeated:].tolist())), style=CONTEXT)
            action = escape(decode(turn.action_ids.tolist()))
            marked = action if colour or not gradient else f"{OPEN}{action}{CLOSE}"
            text.append(marked, style=TRAINED if gradient else CONTEXT)
            if len(text) > MAX_CHARACTERS:
                text.append(f" ... {len(turns) - index - 1} more turns", style="italic")
                break
        yield text


def _common(ids: np.ndarray, first: np.ndarray) -> int:
    """Length of the common start: what a fresh context repeats of the first one."""
    size = min(len(ids), len(first))
    differ = np.flatnonzero(ids[:size] != first[:size])
    return int(differ[0]) if len(differ) else size
