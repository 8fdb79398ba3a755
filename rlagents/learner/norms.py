"""What gradient norms tell: the usual size, steps that are out of line, and who pulls hardest."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np

from rlagents.data.packing import segment_spans
from rlagents.learner.columns import FIELDS
from rlagents.learner.model import trained_places
from rlagents.types import Batch

DECAY = 0.9
WARM_UP = 5
"""Norms that the running one must have seen before it is acted on."""
PATIENCE = 5
"""Outliers in a row that are skipped. The next one is accepted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunningNorm:
    """The usual norm: an exponential mean over accepted steps, corrected for its start at 0.

    total_t = 0.9 total_{t-1} + 0.1 x_t,  value_t = total_t / (1 - 0.9**t)

    A norm that is clipped relative to the running one counts as what it was clipped to, so that one
    spike can't raise the limit by much, and a lasting rise does, by up to a factor a step.
    """

    total: float = 0.0
    count: int = 0
    """Norms in `total`."""
    refused: int = 0
    """Outliers in a row so far."""
    lowest: float = 0.0
    """The smallest of them."""

    @property
    def ready(self) -> bool:
        """Whether there have been enough norms to judge others by."""
        return self.count >= WARM_UP

    @property
    def value(self) -> float:
        """The running norm; 0 before the first."""
        return self.total / (1 - DECAY**self.count) if self.count else 0.0

    def limit(self, clip: float, factor: float) -> float:
        """What gradients are clipped to: `clip`, or less than that where `factor` x value is less.

        Args:
            clip: the fixed limit.
            factor: 0 is the fixed limit alone.
        """
        return min(clip, factor * self.value) if factor > 0 and self.ready else clip

    def judge(self, norm: float, *, clip: float, skip: float) -> tuple[RunningNorm, bool]:
        """The running norm after a step's finite norm above 0, and whether the step is accepted.

        A norm above `skip` x value is an outlier and refused, but for one that follows `PATIENCE`
        others in a row: the gradient's size has then changed for good, and the running norm starts
        again at the smallest of them.

        Args:
            norm: of the step's gradient before clipping.
            clip: factor of the adaptive limit, 0 where there is none.
            skip: factor beyond which a norm is an outlier, 0 where none is.
        """
        usual = self.value
        outlier = skip > 0 and self.ready and norm > skip * usual
        lowest = min(norm, self.lowest) if self.refused else norm
        if outlier and self.refused < PATIENCE:
            return replace(self, refused=self.refused + 1, lowest=lowest), False
        if outlier:
            return RunningNorm()._with(lowest), True
        return self._with(min(norm, clip * usual) if clip > 0 and self.ready else norm), True

    def _with(self, norm: float) -> RunningNorm:
        return RunningNorm(total=DECAY * self.total + (1 - DECAY) * norm, count=self.count + 1)


def label_batches(batch: Batch) -> Iterator[tuple[int, Batch]]:
    """(label, its segments alone, one a row) for each label with a trained token, in order."""
    trained = trained_places(batch)
    spans: dict[int, list[tuple[int, int, int]]] = {}
    for b, start, stop in segment_spans(batch):
        if trained[b, start:stop].any():
            spans.setdefault(int(batch.sequence_labels[b, start]), []).append((b, start, stop))
    for label in sorted(spans):
        rows, starts, stops = np.array(spans[label]).T[:, :, None]
        offsets = np.arange(int((stops - starts).max()))
        real = offsets < stops - starts
        places = rows, np.minimum(starts + offsets, stops - 1)
        arrays = {name: getattr(batch, name)[places] for name in FIELDS}
        arrays["segment_ids"] = np.where(real, 0, -1).astype(np.int32)
        arrays["loss_weights"] = np.where(real, arrays["loss_weights"], np.float32(0))
        columns = {name: values[places] for name, values in batch.columns.items()}
        yield label, Batch(**arrays, columns=columns)


def label_metrics(norms: Mapping[int, float]) -> dict[str, float]:
    """How unevenly labels pull: largest and median norm, and the share of the largest tenth.

    The share is the sum of squares of the largest tenth of the norms (of one at least) over that of
    all: near 0.1 where labels pull alike, near 1 where a few make the gradient; 0 where none pulls.
    Norms that are not finite make figures that are not.
    """
    if not norms:
        return {}
    values = np.sort(np.array(list(norms.values()), np.float64))[::-1]
    squares = values**2
    top, total = squares[: math.ceil(len(values) / 10)].sum(), squares.sum()
    with np.errstate(invalid="ignore"):
        share = top / total if total != 0 else 0.0
    return {
        "policy/label_norm_max": float(values.max()),
        "policy/label_norm_median": float(np.median(values)),
        "policy/label_norm_top_share": float(share),
    }
