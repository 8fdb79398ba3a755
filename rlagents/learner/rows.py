"""Segments on disk for supervised training, and the count that nothing was lost on the way.

They are written one by one and read through a memory map: memory does not grow with their number.
"""

from __future__ import annotations

import heapq
import math
import os
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from datasets import Dataset

from rlagents.errors import LearnerError
from rlagents.types import Segment

IGNORED = -100
"""The label of a token that is not trained."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rows:
    """Segments on disk: `input_ids`, `labels`, and `trained`, how many labels count."""

    path: str
    tokens: int
    """Trained tokens of all rows, by the segments' masks."""
    longest: tuple[int, ...]
    """Lengths of the longest ones, longest first."""

    def dataset(self) -> Dataset:
        """All rows through a memory map."""
        return Dataset.from_file(self.path).with_format("numpy")


_SCHEMA = pa.schema(
    {"input_ids": pa.list_(pa.int32()), "labels": pa.list_(pa.int32()), "trained": pa.int64()}
)


def spool(segments: Iterable[Segment], folder: str, *, keep: int) -> Rows:
    """Write segments to `folder` one by one; those without a trained token are left out.

    Args:
        keep: how many of the longest lengths to return.
    """
    path = os.path.join(folder, "segments.arrow")
    tokens, longest = 0, list[int]()
    with pa.OSFile(path, "wb") as file, pa.ipc.new_stream(file, _SCHEMA) as stream:
        for segment in segments:
            trained = int(segment.loss_mask.sum())
            if not trained:
                continue
            labels = np.where(segment.loss_mask, segment.token_ids, np.int32(IGNORED))
            row = {"input_ids": [segment.token_ids], "labels": [labels], "trained": [trained]}
            stream.write_batch(pa.record_batch(row, schema=_SCHEMA))
            tokens += trained
            heapq.heappush(longest, len(segment))
            if len(longest) > keep:
                heapq.heappop(longest)
    return Rows(path=path, tokens=tokens, longest=tuple(sorted(longest, reverse=True)))


def check_count(received: int, expected: int, an_epoch: int, epochs: float) -> None:
    """Compare the labels that reached the model with the masks of the segments.

    Args:
        received: labels that the model was trained on.
        expected: trained tokens of the segments that it was given, each time it was given one.
        an_epoch: trained tokens of all segments.
        epochs: a fraction of one trains part of the segments; which, only the trainer knows.

    Raises:
        LearnerError: where labels were lost inside segments, or whole segments were.
    """
    least, most = int(epochs) * an_epoch, math.ceil(epochs) * an_epoch
    if received != expected or not least <= received <= most:
        raise LearnerError(
            f"warm start: {received} tokens were trained; the segments given to the model have "
            f"{expected}, and {epochs:g} epochs of all segments {least}"
            + (f" to {most}" if most > least else "")
        )
