"""What is known of the tasks that come back, from the scores of earlier attempts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from rlagents.algos.configs import SamplingConfig
from rlagents.types import BoolArray, EpisodeKey, FloatArray

REMEMBERED = 0.5
"""Weight of what was known of a task after another group of it: the policy has moved since.
Discounted counts as in MoPPS, arXiv 2507.04632."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskRecord:
    """What is known of one task; the defaults know nothing."""

    attempts: float = 0.0
    """Scored attempts, each group's at `REMEMBERED` of the weight of the next one's."""
    score_sum: float = 0.0
    """Of their scores, with the same weights."""
    square_sum: float = 0.0
    flat: int = 0
    """How many groups in a row, up to the last one, had no variance."""
    retired: bool = False
    successes: tuple[EpisodeKey, ...] = ()
    """Trajectories that may be replayed, newest first."""

    @property
    def mean(self) -> float:
        """Expected score: the mean with two imagined attempts more, of scores 0 and 1.

        (1 + sum of scores) / (2 + attempts), for scores of 0 and 1 the posterior mean under a
        uniform prior.
        """
        return (1 + self.score_sum) / (2 + self.attempts)

    @property
    def variance(self) -> float:
        """Expected variance of a score: (1 + sum of squares) / (2 + attempts) - mean^2.

        For scores of 0 and 1 it is p (1 - p) with p = `mean`; partial scores that hardly differ
        make it small where p (1 - p) would not be. Above 0 for any scores.
        """
        return (1 + self.square_sum) / (2 + self.attempts) - self.mean**2


History = Mapping[int, TaskRecord]
"""Records by index of the task among `env.train_tasks`; a task without one was never scored."""


def record_of(history: History, index: int | None) -> TaskRecord:
    """What is known of a task; of a fresh one (None) nothing is."""
    return TaskRecord() if index is None else history.get(index, TaskRecord())


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Outcome:
    """What the attempts of a task gave, replayed ones left out."""

    index: int
    keys: tuple[EpisodeKey, ...]
    """[G]"""
    scores: FloatArray
    """[G] NaN where an attempt has none."""


def learn(
    history: History, outcomes: Sequence[Outcome], config: SamplingConfig, iteration: int
) -> History:
    """What is known after an iteration; trajectories too old to be replayed are forgotten.

    Args:
        history: what was known before.
        outcomes: of all groups, dropped ones too, in the order of their slots.
        config: `retire`, `replay`, `replay_window` and `success`.
        iteration: the one that gave the outcomes.
    """
    records = dict(history)
    for outcome in outcomes:
        records[outcome.index] = _updated(record_of(records, outcome.index), outcome, config)
    oldest = iteration + 1 - config.replay_window
    return {
        index: replace(
            record, successes=tuple(key for key in record.successes if key.iteration >= oldest)
        )
        for index, record in records.items()
    }


def zero_variance(scores_G: FloatArray, counts_G: BoolArray, tolerance: float = 1e-6) -> bool:
    """True where the counted scores are all equal: the group's advantages are all zero.

    Source: dynamic sampling of DAPO, arXiv 2503.14476, for any scores instead of 0/1.
    Filtering on it changes the distribution of tasks: log what was dropped.

    Args:
        scores_G: [G] scores, NaN where a member has none.
        counts_G: [G] members in the statistics.
        tolerance: largest difference that still counts as equal.
    """
    counted = scores_G[counts_G & np.isfinite(scores_G)]
    return len(counted) < 2 or float(counted.max() - counted.min()) <= tolerance


def to_plain(history: History) -> dict[str, dict[str, Any]]:
    """A history as JSON has it; floats survive exactly."""
    return {
        str(index): {
            "attempts": record.attempts,
            "score_sum": record.score_sum,
            "square_sum": record.square_sum,
            "flat": record.flat,
            "retired": record.retired,
            "successes": [[k.stream, k.iteration, k.group, k.member] for k in record.successes],
        }
        for index, record in history.items()
    }


def from_plain(plain: Mapping[str, Mapping[str, Any]]) -> History:
    """The history that `to_plain` wrote.

    Raises:
        KeyError, TypeError, ValueError: when it is not one.
    """
    history: dict[int, TaskRecord] = {}
    for index, fields in plain.items():
        numbers = dict(fields)
        successes = tuple(
            EpisodeKey(stream=stream, iteration=iteration, group=group, member=member)
            for stream, iteration, group, member in numbers.pop("successes")
        )
        history[int(index)] = TaskRecord(**numbers, successes=successes)
    return history


def _updated(record: TaskRecord, outcome: Outcome, config: SamplingConfig) -> TaskRecord:
    scored = np.isfinite(outcome.scores)
    scores = outcome.scores[scored].astype(np.float64)
    if not len(scores):  # all of them failed, which says nothing of the task
        return record
    flat = record.flat
    if len(scores) > 1:  # one says nothing of their spread
        flat = flat + 1 if zero_variance(outcome.scores, scored) else 0
    attempts = REMEMBERED * record.attempts + len(scores)
    score_sum = REMEMBERED * record.score_sum + float(scores.sum())
    solved = config.retire > 0 and score_sum / attempts >= config.retire
    successes = tuple(
        key
        for key, score in zip(outcome.keys, outcome.scores, strict=True)
        if score >= config.success
    )
    return TaskRecord(
        attempts=attempts,
        score_sum=score_sum,
        square_sum=REMEMBERED * record.square_sum + float((scores**2).sum()),
        flat=flat,
        retired=record.retired or solved,
        successes=(*successes, *record.successes)[: config.replay],
    )
