"""Packed rows: many segments in few rows, and the weight of each trained token.

Weights carry mask and global normaliser, so that a loss is one weighted sum: any split of the rows
gives the same gradient.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import fields

import numpy as np
from numpy.typing import NDArray

from rlagents.types import Batch, FloatArray, IntArray, Segment


def token_mean_weights(segments: Sequence[Segment]) -> list[FloatArray]:
    """[T] a segment: 1 / (trained tokens of all segments) on each trained token.

    The loss is then the mean over all trained tokens, so long trajectories count more: DAPO, arXiv
    2503.14476.
    """
    return _over(segments, _trained(segments).sum())


def sequence_mean_weights(segments: Sequence[Segment]) -> list[FloatArray]:
    """[T] a segment: 1 / (labels * trained tokens of its label) on each trained token.

    The loss is then the mean of the trajectories' own means, over trajectories with trained
    tokens, so that a token of a long one counts less: GRPO, arXiv 2402.03300.
    """
    totals_S, trajectories = _totals(segments, _labels(segments))
    return _over(segments, trajectories * totals_S)


def segment_mean_weights(segments: Sequence[Segment]) -> list[FloatArray]:
    """[T] a segment: 1 / (segments * trained tokens of the segment) on each trained token.

    The loss is then the mean of the segments' own means, over those with trained tokens: KLong's
    1 / (n K) over n rollouts of K windows each, arXiv 2602.17547. Where trajectories have different
    numbers of segments, one of more weighs more, and so does a token of a short last segment.
    """
    trained_S = _trained(segments)
    return _over(segments, trained_S * int(np.count_nonzero(trained_S)))


def sequence_sum_weights(segments: Sequence[Segment]) -> list[FloatArray]:
    """[T] a segment: 1 / labels on each trained token.

    The loss is then the mean of the trajectories' own sums, over trajectories with trained tokens.
    Its size grows with their length: it wants a smaller learning rate than a mean.
    """
    _, trajectories = _totals(segments, _labels(segments))
    return _over(segments, trajectories)


def constant_weights(segments: Sequence[Segment], constant: int) -> list[FloatArray]:
    """[T] a segment: 1 / (labels * constant) on each trained token.

    The loss is then `sequence_sum_weights`' over a number that no batch changes, usually the most
    tokens a trajectory can have: Dr. GRPO, arXiv 2503.20783.

    Raises:
        ValueError: when `constant` is below 1.
    """
    if constant < 1:
        raise ValueError(f"expected a length constant of 1 or more, got {constant}")
    _, trajectories = _totals(segments, _labels(segments))
    return _over(segments, trajectories * constant)


def prompt_mean_weights(segments: Sequence[Segment], tasks: IntArray) -> list[FloatArray]:
    """[T] a segment: 1 / (tasks * trained tokens of its task) on each trained token.

    The loss is then the mean of the tasks' own token means, over tasks with trained tokens, so
    that a task of long trajectories counts no more than another: ScaleRL, arXiv 2510.13786.

    Args:
        segments: of one batch.
        tasks: number of the task of each label. Keys do not tell: a replayed trajectory keeps the
            one of the iteration that sampled it.
    """
    totals_S, number = _totals(segments, tasks[_labels(segments)].astype(np.int64))
    return _over(segments, number * totals_S)


def _trained(segments: Sequence[Segment]) -> NDArray[np.int64]:
    """[S] trained tokens of each segment."""
    return np.array([np.count_nonzero(segment.loss_mask) for segment in segments], np.int64)


def _labels(segments: Sequence[Segment]) -> NDArray[np.int64]:
    """[S] the trajectory of each segment."""
    return np.array([segment.label for segment in segments], np.int64)


def _totals(
    segments: Sequence[Segment], owners_S: NDArray[np.int64]
) -> tuple[NDArray[np.int64], int]:
    """[S] trained tokens of each segment's owner, and how many owners have any."""
    owners, number_S = np.unique(owners_S, return_inverse=True)
    totals = np.zeros(len(owners), np.int64)
    np.add.at(totals, number_S, _trained(segments))
    return totals[number_S], int(np.count_nonzero(totals))


def _over(segments: Sequence[Segment], divisors: NDArray[np.int64] | int) -> list[FloatArray]:
    """[T] a segment: 1 / its divisor on each trained token."""
    divisors_S = np.broadcast_to(np.maximum(divisors, 1).astype(np.float32), len(segments))
    return [
        segment.loss_mask.astype(np.float32) / divisor
        for segment, divisor in zip(segments, divisors_S, strict=True)
    ]


def first_fit_decreasing(lengths: Sequence[int], capacity: int) -> list[list[int]]:
    """Indices of the items of each bin; longest first, each into the first bin with room.

    Deterministic: equal lengths keep their order. Uses at most 11/9 of the least number of bins,
    plus one.

    Raises:
        ValueError: when an item is longer than `capacity`, or empty.
    """
    order = np.argsort(-np.asarray(lengths, np.int64), kind="stable")
    bins: list[list[int]] = []
    room = np.zeros(len(lengths), np.int64)
    for index in order.tolist():
        length = lengths[index]
        if not 0 < length <= capacity:
            raise ValueError(f"a segment of {length} tokens doesn't fit into rows of {capacity}")
        fitting = room[: len(bins)] >= length
        chosen = int(fitting.argmax()) if fitting.any() else len(bins)
        if chosen == len(bins):
            bins.append([])
            room[chosen] = capacity
        bins[chosen].append(index)
        room[chosen] -= length
    return bins


def pack(
    segments: Sequence[Segment],
    *,
    row_tokens: int,
    pad_id: int,
    weights: Sequence[FloatArray] | None = None,
) -> Batch:
    """Pack segments into rows, the fullest rows first.

    Args:
        segments: at least one.
        row_tokens: most tokens of a row; rows are as long as the fullest of them.
        pad_id: token id of padding.
        weights: [T] a segment, zero where `loss_mask` is false; default `token_mean_weights`.

    Raises:
        ValueError: when a segment is longer than a row, a weight is on a masked token, or
            there is nothing to pack.
    """
    if not segments:
        raise ValueError("no segments to pack")
    weights = token_mean_weights(segments) if weights is None else weights
    for segment, weight in zip(segments, weights, strict=True):
        if weight.shape != segment.loss_mask.shape or np.any(weight[~segment.loss_mask]):
            raise ValueError(f"weights of {segment.source} must be [T], zero on masked tokens")
    lengths = [len(segment) for segment in segments]
    rows = first_fit_decreasing(lengths, row_tokens)
    rows.sort(key=lambda row: -sum(lengths[index] for index in row))
    shape = (len(rows), sum(lengths[index] for index in rows[0]))
    arrays = {
        "token_ids": np.full(shape, pad_id, np.int32),
        "positions": np.zeros(shape, np.int32),
        "segment_ids": np.full(shape, -1, np.int32),
        "sequence_labels": np.full(shape, -1, np.int32),
        "turns": np.full(shape, -1, np.int32),
        "contexts": np.full(shape, -1, np.int32),
        "temperatures": np.ones(shape, np.float32),
        "behaviour_logprobs": np.zeros(shape, np.float32),
        "advantages": np.zeros(shape, np.float32),
        "loss_weights": np.zeros(shape, np.float32),
    }
    for b, row in enumerate(rows):
        start = 0
        for number, index in enumerate(row):
            segment, stop = segments[index], start + lengths[index]
            values = {
                "token_ids": segment.token_ids,
                "positions": np.arange(len(segment), dtype=np.int32),
                "segment_ids": number,
                "sequence_labels": segment.label,
                "turns": segment.turns,
                "contexts": segment.source[1],
                "temperatures": segment.temperatures,
                "behaviour_logprobs": segment.behaviour_logprobs,
                "advantages": segment.advantages,
                "loss_weights": weights[index],
            }
            for name, value in values.items():
                arrays[name][b, start:stop] = value
            start = stop
    return Batch(**arrays)


def segment_spans(batch: Batch) -> Iterator[tuple[int, int, int]]:
    """(row, start, stop) of each segment, row by row, in order."""
    for b, ids in enumerate(batch.segment_ids):
        starts = np.flatnonzero((np.diff(ids, prepend=-1) != 0) & (ids >= 0)).tolist()
        stops = [*starts[1:], int((ids >= 0).sum())]
        for start, stop in zip(starts, stops, strict=True):
            yield b, start, stop


def segment_lengths(batch: Batch) -> IntArray:
    """[S] length of each segment, row by row, in order."""
    return np.array([stop - start for _, start, stop in segment_spans(batch)], np.int32)


def split_rows(batch: Batch, rows: int) -> list[Batch]:
    """Slices of at most `rows` consecutive rows, each cut to its own longest row.

    The slices together hold every token of the batch once; weights are unchanged, so the sum of
    their losses is the loss of the batch.
    """
    if rows < 1:
        raise ValueError(f"rows must be 1 or more, got {rows}")
    filled = (batch.segment_ids >= 0).sum(axis=1)
    slices = []
    for first in range(0, len(filled), rows):
        part = slice(first, first + rows), slice(0, int(filled[first : first + rows].max()))
        arrays = {
            field.name: getattr(batch, field.name)[part]
            for field in fields(batch)
            if field.name != "columns"
        }
        columns = {name: values[part] for name, values in batch.columns.items()}
        slices.append(Batch(**arrays, columns=columns))
    return slices
