"""Progressive RL: when a run goes on to its next stage, pure.

    score of an iteration --advance--> ScheduleState --rlagents.stages--> limits, horizon, window

Stages with limits T(1) < T(2) < ... < T(M) are KLong's (arXiv 2602.17547: a time limit; what an
episode has when it is stopped is scored). That the horizon itself grows is h1's automatic length
curriculum (arXiv 2510.07312), and what training at a reduced horizon transfers was measured on
tasks that differ in nothing else (arXiv 2605.02572). None of them says when exactly a stage ends:
the plateau rule is ours.

What it biases. Until the last stage the policy is trained for another objective than it is
evaluated on: what pays under a short limit (something to show early, no long preparation) is
learned first, and has to be unlearned where the long task wants otherwise. A group lies within one
stage, so each gradient is an unbiased one of its own stage's objective. A stage that ends by its
measured score ends at a time that the noise of those scores decides; this selects a moment, and
no trajectories. With partial rollouts the first groups of a stage to end are its short ones: where
those are the good ones, its first scores lie too high, and it ends early.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class ScheduleState:
    """How far a schedule is. `dataclasses.asdict` and `ScheduleState(**plain)` for a checkpoint."""

    stage: int = 0
    """Number of the stage, from 0."""
    iterations: int = 0
    """Finished in this stage."""
    best: float | None = None
    """The score that a gain is measured from; None before the first one of the stage. Scores of
    different stages are not compared: they are of different tasks."""
    stale: int = 0
    """Scored iterations since the last gain."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plateau:
    """When a score is said to have stopped rising."""

    patience: int
    """Scored iterations in a row without a gain."""
    min_gain: float
    """A score above `best` by less than this is no gain; one above 0 keeps noise from being one."""
    min_score: float | None = None
    """A score below this ends no stage: nothing was learned yet, or it was lost again. None: any
    score may end one."""


def advance(
    state: ScheduleState,
    score: float | None,
    *,
    lengths: Sequence[int],
    plateau: Plateau | None = None,
) -> ScheduleState:
    """The state after one more iteration.

    Without `plateau`, stage m ends after lengths[m] iterations. With it, when `patience` scored
    iterations in a row were below best + min_gain and this one's score is not below min_score.
    `best` is the score of the last gain, so a slow rise adds up until it is one. It is a maximum
    over noisy means and lies above the policy's score by the more the longer a stage lasts: noise
    hides gains and ends a stage early; the number of an iteration's trajectories is what lessens
    it.

    The last stage lasts to the end of the run, whatever its length.

    Args:
        state: before it.
        score: mean training score of the iteration; None or NaN where it has none, which is
            neither a gain nor the want of one.
        lengths: [M] iterations of each stage; empty: one stage without end.
        plateau: the rule to go by instead of the lengths.

    Raises:
        ValueError: when the schedule has no stage of the state's number.
    """
    if not 0 <= state.stage < max(len(lengths), 1):
        raise ValueError(f"stage: expected one of {len(lengths)}, got number {state.stage}")
    rule = plateau or _ANY
    best, stale, ended = state.best, state.stale, False
    if score is not None and math.isfinite(score):
        gained = best is None or (score > best and score >= best + rule.min_gain)
        best, stale = (score, 0) if gained else (best, stale + 1)
        enough = rule.min_score is None or score >= rule.min_score
        ended = stale >= rule.patience and enough
    iterations = state.iterations + 1
    if state.stage + 1 < len(lengths):
        if plateau is None:
            ended = iterations >= lengths[state.stage]
        if ended:
            return ScheduleState(stage=state.stage + 1)
    return ScheduleState(stage=state.stage, iterations=iterations, best=best, stale=stale)


_ANY = Plateau(patience=1, min_gain=0.0)
"""Under lengths `best` and `stale` are only there to be looked at."""
