"""What finished runs say: scores against sampled tokens, and statistics over seeds.

Cost is counted in sampled tokens, those of discarded rollouts included, so that arms which throw
rollouts away pay for them. A curve is a series of (tokens, score), tokens being what had been
sampled when the scored weights were made: 0 for those before reinforcement learning.
"""

from __future__ import annotations

import difflib
import json
import math
import statistics
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import numpy as np

from rlagents.ablate.plan import Run, read_summary
from rlagents.errors import ConfigError, RlagentsError, boundary

Curve = tuple[tuple[float, float], ...]
Source = Literal["held-out", "training"]

FEWEST_EVALUATIONS = 3
"""A line between a first and a last evaluation is not a curve."""

# Quantiles 0.975 of Student's t with 1 to 30 degrees of freedom.
_T975 = (
    *(12.7062, 4.3027, 3.1824, 2.7764, 2.5706, 2.4469, 2.3646, 2.3060, 2.2622, 2.2281),
    *(2.2010, 2.1788, 2.1604, 2.1448, 2.1314, 2.1199, 2.1098, 2.1009, 2.0930, 2.0860),
    *(2.0796, 2.0739, 2.0687, 2.0639, 2.0595, 2.0555, 2.0518, 2.0484, 2.0452, 2.0423),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Level:
    """Where a metric of one run lay. Lines without a finite value do not count."""

    mean: float
    """Over all lines."""
    end: float
    """Over the last fifth of them, rounded down, at least one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """One finished run."""

    arm: str
    seed: int
    held_out: Curve
    """Sampled evaluations; of several with the same tokens the last, as that after a warm start."""
    training: Curve
    """Mean scores of training rollouts."""
    tokens: int
    steps: int
    wall_s: float
    metrics: Mapping[str, Level | None] = field(default_factory=dict[str, Level | None])
    """By tag of `metrics.jsonl`; None for one that was never finite."""

    @property
    def final(self) -> float | None:
        """The last held-out score, or of training where nothing was evaluated."""
        curve = self.held_out or self.training
        return curve[-1][1] if curve else None

    @property
    def start(self) -> float | None:
        """The first score of the same kind."""
        curve = self.held_out or self.training
        return curve[0][1] if curve else None

    def curve(self, source: Source) -> Curve:
        """Held-out scores, or those of training between the evaluations at both ends."""
        if source == "held-out":
            return self.held_out
        return tuple(sorted({**dict(self.held_out), **dict(self.training)}.items()))


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """A mean over seeds with the 95% t-interval of the mean."""

    mean: float
    low: float | None
    """None where there is no interval: of one seed, or where the mean is only a bound."""
    high: float | None
    n: int
    bound: Literal["", ">", "<"] = ""
    """`>`: the mean is at least this, because some runs never got there; `<`: at most."""


def read(run: Run) -> Result:
    """A finished run.

    Raises:
        RlagentsError: when its summary is not one.
    """
    folder, summary = run.folder, read_summary(run.folder)
    with boundary(RlagentsError, f"{folder.summary}: expected the summary of a run"):
        lines = tuple(_lines(folder.path / "metrics.jsonl"))
        return Result(
            arm=run.arm,
            seed=run.seed,
            held_out=_held_out(summary["evals"], summary["tokens_sampled"]),
            training=_training(lines),
            tokens=summary["tokens_sampled"],
            steps=summary["steps"],
            wall_s=summary["wall_s"],
            metrics=_metrics(lines),
        )


def check_tags(tags: Sequence[str], results: Sequence[Result]) -> None:
    """See that each tag is in some run's metrics.

    Raises:
        ConfigError: for the first that is in none.
    """
    known = sorted({tag for result in results for tag in result.metrics})
    for tag in tags:
        if tag not in known:
            near = ", ".join(difflib.get_close_matches(tag, known, cutoff=0.5))
            hint = f"; nearest: {near}" if near else ""
            raise ConfigError(f"--report {tag[:200]}: in no finished run's metrics{hint}")


def source(results: Sequence[Result]) -> Source:
    """Which curves are compared, the same for all runs: held-out ones where they are curves."""
    evaluated = all(len(result.held_out) >= FEWEST_EVALUATIONS for result in results)
    return "held-out" if evaluated else "training"


def at(curve: Curve, tokens: float) -> float:
    """The score after so many tokens, linear between two points.

    Raises:
        ValueError: outside of the curve.
    """
    if not (curve and curve[0][0] <= tokens <= curve[-1][0]):
        ends = f"{curve[0][0]:g} to {curve[-1][0]:g}" if curve else "no points"
        raise ValueError(f"tokens: expected a place on the curve ({ends}), got {tokens:g}")
    places, scores = zip(*curve, strict=True)
    return float(np.interp(tokens, places, scores))


def crossing(curve: Curve, threshold: float) -> float | None:
    """Tokens after which the curve is at the threshold for the first time; None if it never is."""
    if curve and curve[0][1] >= threshold:
        return curve[0][0]
    for (before, low), (after, high) in pairwise(curve):
        if high >= threshold:
            return before + (after - before) * (threshold - low) / (high - low)
    return None


def estimate(values: Sequence[float]) -> Estimate | None:
    """Mean and 95% t-interval; None of nothing.

    mean +- t(0.975, n - 1) * s / sqrt(n), with s the sample's standard deviation. Exact where the
    values are independent and normal; seeds are few, so that 1.96 would be far too narrow.
    """
    if not values:
        return None
    mean, n = statistics.fmean(values), len(values)
    if n == 1:
        return Estimate(mean=mean, low=None, high=None, n=1)
    half = t_quantile(n - 1) * statistics.stdev(values) / math.sqrt(n)
    return Estimate(mean=mean, low=mean - half, high=mean + half, n=n)


def t_quantile(freedom: int) -> float:
    """The 0.975 quantile of Student's t; above 30 degrees of freedom by Cornish and Fisher."""
    if freedom <= len(_T975):
        return _T975[freedom - 1]
    z = statistics.NormalDist().inv_cdf(0.975)
    return z + (z**3 + z) / (4 * freedom) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * freedom**2)


def _held_out(evals: Sequence[Mapping[str, Any]], tokens: float) -> Curve:
    """Held-out scores up to the run's end.

    Weights are evaluated once: the last score stands for iterations without a step after it, too.
    """
    sampled = [entry for entry in evals if entry["mode"] == "sampled"]
    points = {
        float(entry["tokens_sampled"]): float(entry["score_mean"])
        for entry in sampled
        if entry["score_mean"] is not None
    }
    if sampled and sampled[-1]["score_mean"] is not None:
        points.setdefault(float(tokens), float(sampled[-1]["score_mean"]))
    return tuple(sorted(points.items()))


def _training(lines: Iterable[Mapping[str, Any]]) -> Curve:
    """Each iteration's score, at the tokens sampled before it: those made the weights it scores."""
    points: dict[float, float] = {}
    before = 0.0
    for line in lines:
        tokens, score = line.get("train/tokens_sampled"), line.get("train/score_mean")
        if isinstance(tokens, int | float):
            if isinstance(score, int | float):
                points[before] = float(score)
            before = float(tokens)
    return tuple(points.items())


def _metrics(lines: Iterable[Mapping[str, Any]]) -> dict[str, Level | None]:
    found: dict[str, list[float]] = {}
    for line in lines:
        for tag, value in line.items():
            values = found.setdefault(tag, [])
            if isinstance(value, int | float):
                values.append(float(value))
    found.pop("step", None)  # the line's number
    return {tag: _level(values) if values else None for tag, values in found.items()}


def _level(values: Sequence[float]) -> Level:
    last = max(len(values) // 5, 1)
    return Level(mean=statistics.fmean(values), end=statistics.fmean(values[-last:]))


def _lines(path: Path) -> Iterator[Mapping[str, Any]]:
    if path.is_file():
        for text in path.read_text(encoding="utf-8").splitlines():
            yield json.loads(text)
