"""How well each way to score orders a group under a noisy judge, and what it costs.

Qualities are N(0, 1). A mark is 7 + drift of the call + quality + N(0, 1), and 0.3 more for who is
shown first; the drift is N(0, drift), one number a call. A match is two calls, one in each order.

- tau: Kendall's with the true order; two members whose scores tie count as half right (tau-a).
- corr: of rank advantages with the true ones, that is Spearman's.

`totals` marks schemes that are sent the sum of a match's marks beside its margin. The second part
has a judge that takes 0.2 s, eight groups at once, and compares wall time with

    ideal = latency x max(rounds, ceil(calls of all groups / concurrency)),

which no order of the calls can beat.

Letters: N members, M matches of a round.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rlagents.algos.ratings import fit_margins
from rlagents.algos.topologies import topology
from rlagents.algos.tournaments import Standing, play
from rlagents.bench.report import Figure, Result, figure, machine
from rlagents.config import JudgeSection, TournamentSection
from rlagents.scoring.queue import ScoringQueue
from rlagents.scoring.simulated import SimulatedJudge
from rlagents.scoring.tournament import TournamentScorer
from rlagents.types import (
    EpisodeKey,
    FloatArray,
    Group,
    IntArray,
    StopReason,
    Task,
    Trajectory,
    Turn,
)

SIZES, DRIFTS, COMPARED = (8, 16, 32), (0.0, 1.0, 2.0), 16
LEVEL, BIAS = 7.0, 0.3
OURS, REFERENCE = "active, totals", "round_robin"
LATENCY_S, GROUPS_AT_ONCE = 0.2, 8

Floats = NDArray[np.float64]


class Judge:
    """Marks members of one group; counts its calls and its rounds."""

    def __init__(self, qualities: Floats, *, drift: float, rng: np.random.Generator) -> None:
        self._qualities = qualities
        self._drift = drift
        self._rng = rng
        self.calls = 0
        self.rounds = 0

    def compare(self, pairs: IntArray) -> FloatArray:
        """[M, 2] margin and total of each match, the mean over both orders."""
        self.rounds += 1
        self.calls += 2 * len(pairs)
        # [M, order, member of the pair]; each is shown first once.
        marks = self._qualities[pairs][:, None] + BIAS * np.eye(2)
        marks = marks + self._rng.normal(size=marks.shape)
        marks += LEVEL + self._drift * self._rng.normal(size=(len(pairs), 2, 1))
        first, second = marks.mean(1).T
        return np.stack([first - second, first + second], axis=1).astype(np.float32)

    def margins(self, pairs: IntArray) -> FloatArray:
        """[M] margins alone."""
        return self.compare(pairs)[:, 0]

    def rate(self, calls: int) -> Floats:
        """[N] mean marks, so many calls shared out over the members."""
        self.rounds += 1
        self.calls += calls
        size = len(self._qualities)
        each = calls // size + (self._rng.permutation(size) < calls % size)
        spread = np.sqrt((1 + self._drift**2) / each)
        return LEVEL + self._qualities + spread * self._rng.normal(size=size)


Scheme = Callable[[int, Judge, np.random.Generator], Floats]
"""(size, judge, randomness) -> [N] scores."""


def _played(name: str, *, totals: bool = False) -> Scheme:
    def scores(size: int, judge: Judge, rng: np.random.Generator) -> Floats:
        answer = judge.compare if totals else judge.margins
        return play(topology(name)(size, rng), answer).scores.astype(np.float64)

    return scores


def _fitted(size: int, judge: Judge, rng: np.random.Generator) -> Floats:
    standing: Standing = play(topology("round_robin")(size, rng), judge.margins)
    pairs = np.array([(match.first, match.second) for match in standing.matches], np.int32)
    margins = np.array([match.margin for match in standing.matches])
    return fit_margins(pairs, margins, size, prior=1.0)[0]


SCHEMES: dict[str, Scheme] = {
    "pointwise": lambda size, judge, rng: judge.rate(size),
    "pointwise, equal calls": lambda size, judge, rng: judge.rate(2 * (2 * size - 2)),
    "anchor": _played("anchor"),
    "swiss": _played("swiss"),
    "double_elimination": _played("double_elimination"),
    "seeded_single_elimination": _played("seeded_single_elimination"),
    "seeded_margins": _played("seeded_margins"),
    "active": _played("active"),
    "seeded_margins, totals": _played("seeded_margins", totals=True),
    OURS: _played("active", totals=True),
    REFERENCE: _played("round_robin"),
    "round_robin by margins": _fitted,
}


def kendall(true: Floats, scores: Floats) -> float:
    """Tau-a: pairs in the true order minus pairs in the other, over all pairs.

    One member has no order: 1.
    """
    size = len(true)
    if size < 2:
        return 1.0
    agree = np.sign(true[:, None] - true) * np.sign(scores[:, None] - scores)
    return float(agree.sum() / (size * (size - 1)))


def spearman(true: Floats, scores: Floats) -> float:
    """Correlation of ranks, ties sharing their mean place; 0 where all scores are equal."""
    ranks = [
        (values[:, None] > values).sum(1) - (values[:, None] < values).sum(1)
        for values in (true, scores)
    ]
    if not ranks[0].any() or not ranks[1].any():
        return 0.0
    return float(np.corrcoef(*ranks)[0, 1])


def measure(
    name: str, size: int, drift: float, *, groups: int, seed: int
) -> tuple[Floats, Floats, int, int]:
    """[groups] taus, [groups] correlations, calls and rounds of a group.

    Groups of one size and seed have the same qualities under every scheme and drift.
    """
    taus, correlations = np.zeros(groups), np.zeros(groups)
    calls = rounds = 0
    own = [list(SCHEMES).index(name), int(drift * 1000)]
    for group in range(groups):
        qualities = np.random.default_rng([seed, size, group]).normal(size=size)
        rng = np.random.default_rng([seed, size, group, *own])
        judge = Judge(qualities, drift=drift, rng=rng)
        scores = SCHEMES[name](size, judge, rng)
        taus[group], correlations[group] = kendall(qualities, scores), spearman(qualities, scores)
        calls, rounds = judge.calls, judge.rounds
    return taus, correlations, calls, rounds


def run(
    *,
    groups: int = 400,
    repeats: int = 3,
    sizes: Sequence[int] = SIZES,
    waits: Sequence[int] = (16, 64),
) -> Result:
    """The table over repeats x groups; figures have the range over the repeats. About 3 minutes.

    Args:
        groups: of a repeat; half as many at N = 32, where a group says more and costs more.
        waits: concurrencies of the judge whose wall time is measured.
    """
    rows: list[dict[str, Any]] = []
    taus: dict[tuple[int, str, float], Floats] = {}
    for size in sizes:
        count = math.ceil(groups * min(1, COMPARED / size))
        for name in SCHEMES:
            row: dict[str, Any] = {"N": size, "scheme": name}
            errors: list[float] = []
            for drift in DRIFTS:
                found = [
                    measure(name, size, drift, groups=count, seed=seed) for seed in range(repeats)
                ]
                every = np.array([one[0] for one in found])
                taus[size, name, drift] = every.mean(1)
                errors.append(float(every.std() / math.sqrt(every.size)))
                row |= {"calls": found[0][2], "rounds": found[0][3]}
                row[f"tau {drift:g}"] = round(float(every.mean()), 3)
                row[f"corr {drift:g}"] = round(float(np.mean([one[1] for one in found])), 3)
            rows.append({**row, "tau +-": round(max(errors), 4)})
    figures: dict[str, Figure] = {}
    for size in sizes:
        for drift in DRIFTS:
            suffix = "" if size == COMPARED else f"_n{size}"
            for key, name in (("best", OURS), ("margins", "active")):
                ratios = taus[size, name, drift] / taus[size, REFERENCE, drift]
                figures[f"{key}_over_round_robin_drift{drift:g}{suffix}"] = figure(ratios.tolist())
    for concurrency in waits:
        suffix = "" if concurrency == waits[0] else f"_{concurrency}"
        found = [wall_over_ideal(concurrency, seed=seed) for seed in range(repeats)]
        figures[f"wall_over_ideal{suffix}"] = figure(found)
    extra = {"groups": groups, "repeats": repeats}
    return Result(bench="tournaments", machine=machine(**extra), rows=rows, figures=figures)


def wall_over_ideal(
    concurrency: int,
    *,
    seed: int,
    size: int = COMPARED,
    groups: int = GROUPS_AT_ONCE,
    latency_s: float = LATENCY_S,
) -> float:
    """Wall time of groups that are scored at once by `active`, over the ideal."""
    section = JudgeSection(
        backend="simulated", latency_s=latency_s, concurrency=concurrency, call_timeout_s=60
    )
    tournament = TournamentSection(topology="active")
    judge = SimulatedJudge(section, seed)
    scorer = TournamentScorer([(judge, section)], tournament, seed)
    queue = ScoringQueue(scorer, concurrency=groups, limit=groups, timeout_s=300)
    try:
        rng = np.random.default_rng(seed)
        waiting = [_group(number, rng.normal(size=size)) for number in range(groups)]
        began = time.perf_counter()
        for number, group in enumerate(waiting):
            queue.submit(number, group)
        for _ in waiting:
            answer = queue.wait(60)
            if answer is None or np.isnan(answer[1].scores).any():
                raise RuntimeError(f"a group without scores: {queue.last_error}")
        wall_s = time.perf_counter() - began
    finally:
        queue.close()
    planned = play(topology("active")(size, rng), lambda pairs: np.zeros(len(pairs), np.float32))
    rounds = planned.matches[-1].round + 1
    waves = max(rounds, math.ceil(2 * groups * planned.comparisons / concurrency))
    return wall_s / (latency_s * waves)


def _group(number: int, returns: Floats) -> Group:
    """Members with these returns."""
    task = Task(env_id="bench", seed=number)
    ids = np.zeros(1, np.int32)
    return Group(
        task=task,
        trajectories=tuple(
            Trajectory(
                key=EpisodeKey(stream="train", iteration=0, group=number, member=member),
                task=task,
                turns=(
                    Turn(
                        observation="",
                        action="",
                        observation_ids=ids,
                        action_ids=ids,
                        behaviour_logprobs=np.zeros(1, np.float32),
                        reward=float(value),
                    ),
                ),
                final_observation="",
                stop=StopReason.TERMINATED,
            )
            for member, value in enumerate(returns)
        ),
    )
