"""The comparison of arms by their finished runs: scores at equal cost, cost of equal scores."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from rlagents.ablate import results
from rlagents.ablate.plan import Ablation
from rlagents.ablate.results import Estimate, Result, Source, estimate

SHARE = 0.9
"""Of the way from the start to the best arm's final score: the threshold where none is given."""


_Values = Mapping[tuple[str, int], float]
"""By arm and seed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One arm. Means are over its finished runs; None is what its runs do not say."""

    arm: str
    runs: int
    """Finished ones."""
    final: Estimate | None
    """Held-out score at the end (of training rollouts where nothing was evaluated)."""
    at_equal_tokens: Estimate | None
    to_threshold: Estimate | None
    """Sampled tokens. Runs that never got there count with all their tokens: a lower bound."""
    reached: int
    """Runs that got to the threshold."""
    tokens: float | None
    """Sampled, discarded rollouts included."""
    steps: float | None
    wall_s: float | None
    final_difference: Estimate | None
    """To the first arm, paired by seed; None for that arm itself."""
    at_equal_tokens_difference: Estimate | None
    to_threshold_ratio: Estimate | None
    """Tokens to the threshold over the first arm's: geometric mean of the seeds' ratios."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """A metric of one arm. Means are over its finished runs that have it; None of no run."""

    tag: str
    arm: str
    mean: Estimate | None
    """Over all of a run's lines."""
    end: Estimate | None
    """Over the last fifth of them."""
    end_difference: Estimate | None
    """To the first arm, paired by seed; None for that arm itself."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """What the finished runs of an ablation say."""

    seeds: int
    """Asked for."""
    source: Source
    """Which scores curves are made of."""
    budget: float | None
    """The most tokens that every run's curve has."""
    threshold: float | None
    """A score; None where no arm came above its start."""
    rows: tuple[Row, ...]
    figures: tuple[Figure, ...] = ()
    """Metrics that were asked for: tag by tag, each arm."""


def compare(
    ablation: Ablation,
    finished: Sequence[Result],
    threshold: float | None = None,
    tags: Sequence[str] = (),
) -> Comparison:
    """Compare the arms by their finished runs.

    Args:
        threshold: a score; by default 90% of the way from the mean start of all runs to the best
            arm's mean final score.
        tags: metrics to compare, too; those that no run has are left out.
    """
    source = results.source(finished)
    curves = {(r.arm, r.seed): r.curve(source) for r in finished if r.curve(source)}
    budget = min((curve[-1][0] for curve in curves.values()), default=None)
    arms = {arm.name: [r for r in finished if r.arm == arm.name] for arm in ablation.arms}
    if threshold is None:
        threshold = _threshold(list(arms.values()))
    final = {(r.arm, r.seed): r.final for r in finished if r.final is not None}
    reached = {k: c for k, c in curves.items() if budget is not None and c[0][0] <= budget}
    equal = {k: results.at(curve, budget or 0) for k, curve in reached.items()}
    ends = {} if threshold is None else {k: curve[-1][0] for k, curve in curves.items()}
    found = {k: results.crossing(curves[k], threshold or 0.0) for k in ends}
    crossed = {k: tokens for k, tokens in found.items() if tokens is not None}
    first = ablation.arms[0].name
    rows = []
    for arm, runs in arms.items():
        other = first if arm != first else None
        rows.append(
            Row(
                arm=arm,
                runs=len(runs),
                final=estimate(_of(final, arm)),
                at_equal_tokens=estimate(_of(equal, arm)),
                to_threshold=_to_threshold(_of(crossed, arm), _of({**ends, **crossed}, arm)),
                reached=len(_of(crossed, arm)),
                tokens=_mean([r.tokens for r in runs]),
                steps=_mean([r.steps for r in runs]),
                wall_s=_mean([r.wall_s for r in runs]),
                final_difference=_paired(final, arm, other),
                at_equal_tokens_difference=_paired(equal, arm, other),
                to_threshold_ratio=_ratio(crossed, ends, arm, other),
            )
        )
    return Comparison(
        seeds=len(ablation.seeds),
        source=source,
        budget=budget,
        threshold=threshold,
        rows=tuple(rows),
        figures=tuple(f for tag in tags for f in _figures(tag, list(arms), finished)),
    )


def _figures(tag: str, arms: Sequence[str], finished: Sequence[Result]) -> Iterator[Figure]:
    levels = {(r.arm, r.seed): r.metrics[tag] for r in finished if tag in r.metrics}
    if not levels:
        return
    means = {key: level.mean for key, level in levels.items() if level}
    ends = {key: level.end for key, level in levels.items() if level}
    for arm in arms:
        yield Figure(
            tag=tag,
            arm=arm,
            mean=estimate(_of(means, arm)),
            end=estimate(_of(ends, arm)),
            end_difference=_paired(ends, arm, arms[0] if arm != arms[0] else None),
        )


def _threshold(arms: Sequence[Sequence[Result]]) -> float | None:
    starts = [r.start for runs in arms for r in runs if r.start is not None]
    finals = [[r.final for r in runs if r.final is not None] for runs in arms]
    best = max((statistics.fmean(scores) for scores in finals if scores), default=None)
    if best is None:
        return None
    start = statistics.fmean(starts)
    return start + SHARE * (best - start) if best > start else None


def _of(values: _Values, arm: str) -> list[float]:
    return [value for (name, _), value in values.items() if name == arm]


def _mean(values: Sequence[float]) -> float | None:
    return statistics.fmean(values) if values else None


def _to_threshold(crossed: Sequence[float], tokens: Sequence[float]) -> Estimate | None:
    if len(crossed) == len(tokens):
        return estimate(crossed)
    return Estimate(mean=statistics.fmean(tokens), low=None, high=None, n=len(tokens), bound=">")


def _paired(values: _Values, arm: str, other: str | None) -> Estimate | None:
    """Mean difference over the seeds that both have: seeds share tasks and initial weights."""
    if other is None:
        return None
    pairs = _pairs(values, arm, other)
    return estimate([ours - theirs for ours, theirs in pairs])


def _pairs(values: _Values, arm: str, other: str) -> list[tuple[float, float]]:
    return [
        (value, values[other, seed])
        for (name, seed), value in values.items()
        if name == arm and (other, seed) in values
    ]


def _ratio(
    crossed: _Values,
    ends: _Values,
    arm: str,
    other: str | None,
) -> Estimate | None:
    """Geometric mean of the ratios; a bound where only one of the arms was always there."""
    if other is None:
        return None
    pairs = _pairs({**ends, **crossed}, arm, other)
    whole = {name: len(_of(crossed, name)) == len(_of(ends, name)) for name in (arm, other)}
    if not pairs or not any(whole.values()) or any(min(pair) <= 0 for pair in pairs):
        return None
    logs = estimate([math.log(ours / theirs) for ours, theirs in pairs])
    assert logs is not None
    if not all(whole.values()):
        bound = "<" if whole[arm] else ">"
        return Estimate(mean=math.exp(logs.mean), low=None, high=None, n=logs.n, bound=bound)
    low, high = (None if end is None else math.exp(end) for end in (logs.low, logs.high))
    return Estimate(mean=math.exp(logs.mean), low=low, high=high, n=logs.n)
