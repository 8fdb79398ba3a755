"""What would be trained, before anything is: one real batch as text, masks, advantages, weights."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from rich.text import Text

from rlagents.algos.crediting import Credit
from rlagents.algos.grpo import GRPO
from rlagents.config import RunConfig
from rlagents.learning import batches_of
from rlagents.policy.chat import Chat
from rlagents.rollout.collected import Collected
from rlagents.scoring.scorer import JUDGE_ERROR
from rlagents.types import (
    Batch,
    BoolArray,
    EpisodeKey,
    ErrorRecord,
    FloatArray,
    IntArray,
    ScoredGroup,
    Trajectory,
)
from rlagents.visible import escape

TRAINED, PINNED, CONTEXT = "bold green", "cyan", "dim"
OPEN, CLOSE = "[[", "]]"
"""Around trained tokens where there is no colour."""
PIN_OPEN, PIN_CLOSE = "{{", "}}"
"""Around the pinned prefix of a later context, likewise."""
MAX_SEGMENTS = 6
MAX_CHARACTERS = 2000


def report(
    config: RunConfig,
    collected: Collected,
    algorithm: GRPO,
    chat: Chat,
    *,
    pad_id: int,
    colour: bool,
    error: ErrorRecord | None = None,
) -> Iterator[Text]:
    """Lines for the terminal, best and worst trajectory of the first kept group first.

    `error` is why the group has no scores that was left without them last.
    """
    groups = collected.kept
    yield Text(
        f"{len(collected.groups)} groups sampled, {len(groups)} kept"
        + "".join(f", dropped: {reason}" for reason in _reasons(collected))
    )
    unscored = sum(JUDGE_ERROR in scored.parts for scored in collected.groups)
    if unscored and error is not None:
        yield Text(f"{unscored} groups without scores, the last with: {escape(error.message)}")
    if not groups:
        yield Text("no group has a signal: nothing would be trained in this iteration")
        groups = collected.groups
    credits = algorithm.advantages(groups, algorithm.initial_state())
    batches = batches_of(config, groups, credits, pad_id) if collected.kept else []
    for number, batch in enumerate(batches):
        yield Text(_batch_line(number, batch))
    yield _legend(colour)
    weights = _weights(batches, groups, credits, config.algo.updates) if batches else {}
    shown, skipped = 0, 0
    for group, members in zip(groups, credits, strict=True):
        for member in _ends(group):
            trajectory = group.group.trajectories[member]
            if not trajectory.turns or shown >= MAX_SEGMENTS:
                skipped += 1
                continue
            credit = members[member]
            yield Text(
                f"\n{trajectory.key}  score {float(group.scores[member]):.4g}  "
                f"advantage {_span(credit.advantages, sign='+')}  "
                f"{'gets gradient' if credit.gradient else 'NO GRADIENT'}  "
                f"{len(trajectory.turns)} turns, {trajectory.contexts} segments, "
                f"stop: {trajectory.stop.value}  "
                f"weight of a token {_span(weights.get(trajectory.key, np.zeros(0, np.float32)))}",
                style="bold",
            )
            for part in _segments(trajectory, config, chat, credit.trained, colour):
                shown += 1
                yield part
    if skipped:
        yield Text(f"\n{skipped} more, of the best and the worst of each group, are not shown")


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


def _weights(
    batches: Sequence[Batch],
    groups: Sequence[ScoredGroup],
    credits: Sequence[Sequence[Credit]],
    updates: int,
) -> dict[EpisodeKey, FloatArray]:
    """[A] weights of the trained tokens of each trajectory, as `make_batches` deals and labels."""
    weights: dict[EpisodeKey, FloatArray] = {}
    left = iter(batches)
    for part in range(updates):
        members = [
            (trajectory, credit)
            for group, several in zip(groups[part::updates], credits[part::updates], strict=True)
            for trajectory, credit in zip(group.group.trajectories, several, strict=True)
        ]
        trains = any(credit.gradient for _, credit in members)
        batch = next(left) if trains else None
        for label, (trajectory, _) in enumerate(members):
            mine = batch.loss_weights[batch.sequence_labels == label] if batch else np.zeros(0)
            weights[trajectory.key] = mine[mine != 0].astype(np.float32)
    return weights


def _span(values: FloatArray, sign: str = "") -> str:
    if not len(values):
        return "0"
    low, high = float(values.min()), float(values.max())
    return f"{low:{sign}.3g}" if low == high else f"{low:{sign}.3g} to {high:{sign}.3g}"


def _ends(group: ScoredGroup) -> list[int]:
    """The best and the worst member that have a score."""
    order = [int(i) for i in np.argsort(group.scores) if np.isfinite(group.scores[i])]
    return list(dict.fromkeys([order[-1], order[0]])) if order else []


def _segments(
    trajectory: Trajectory,
    config: RunConfig,
    chat: Chat,
    trained: BoolArray,
    colour: bool,
) -> Iterator[Text]:
    """Each context of a trajectory as text, every token shown as what it is in training."""

    def text_of(ids: IntArray) -> str:
        return escape(chat.decode(ids.tolist()))

    pinned = _pinned(trajectory, config, chat)
    for context in sorted({turn.context for turn in trajectory.turns}):
        numbered = zip(trajectory.turns, trained, strict=True)
        turns = [(turn, gets) for turn, gets in numbered if turn.context == context]
        size = sum(len(t.observation_ids) + len(t.action_ids) for t, _ in turns)
        count = sum(len(t.action_ids) for t, gets in turns if gets)
        text = Text(f"  segment {context}: {size} tokens, {count} trained\n    ", style="bold")
        for index, (turn, gradient) in enumerate(turns):
            ids = turn.observation_ids
            repeated = _common(ids, pinned) if context and index == 0 else 0
            if repeated:
                text.append(_marked(text_of(ids[:repeated]), PIN_OPEN, PIN_CLOSE, colour), PINNED)
            text.append(text_of(ids[repeated:]), style=CONTEXT)
            action = text_of(turn.action_ids)
            if gradient:
                text.append(_marked(action, OPEN, CLOSE, colour), style=TRAINED)
            else:
                text.append(action, style=CONTEXT)
            if len(text) > MAX_CHARACTERS:
                text.append(f" ... {len(turns) - index - 1} more turns", style="italic")
                break
        yield text


def _legend(colour: bool) -> Text:
    if colour:
        parts = [("trained", TRAINED), ", ", ("pinned", PINNED), ", ", ("context only", CONTEXT)]
        return Text.assemble("legend: ", *parts)
    return Text(f"legend: {OPEN}trained{CLOSE}, {PIN_OPEN}pinned{PIN_CLOSE}, context only")


def _marked(text: str, opening: str, closing: str, colour: bool) -> str:
    return text if colour else f"{opening}{text}{closing}"


def _pinned(trajectory: Trajectory, config: RunConfig, chat: Chat) -> IntArray:
    """[P] what a fresh context of this trajectory begins with: system message, first turns."""
    if not config.context.pinned_turns:
        return chat.head_ids
    turns = [turn for turn in trajectory.turns if turn.context == 0][: config.context.pinned_turns]
    return np.concatenate([ids for t in turns for ids in (t.observation_ids, t.action_ids)])


def _common(ids: IntArray, first: IntArray) -> int:
    """Length of the common start."""
    size = min(len(ids), len(first))
    differ = np.flatnonzero(ids[:size] != first[:size])
    return int(differ[0]) if len(differ) else size
