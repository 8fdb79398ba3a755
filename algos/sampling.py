"""Which tasks are attempted, how often, and which groups are worth training on.

    history --plan--> slots --rollouts--> outcomes --learn--> history

A plan depends on the run's seed, the iteration and what earlier iterations gave, never on scores
of its own iteration: the attempts of a task are independent of their number, so the estimate of
that task's gradient is as unbiased as it is with groups of one size. What all of this does change
is how often a task is seen: the policy is trained on another mixture of tasks than `env` has. Log
what was left out.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rlagents.algos.configs import SamplingConfig
from rlagents.algos.history import History, TaskRecord, record_of, zero_variance
from rlagents.types import BoolArray, EpisodeKey, FloatArray

EXPLORED = 0.1
"""Share of a curriculum's choices that heeds no history, so that every task keeps a chance."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Slot:
    """One group to sample."""

    index: int | None
    """Of the task among `env.train_tasks`; None is a fresh task."""
    attempts: int
    replay: tuple[EpisodeKey, ...] = ()
    """Earlier successes of the task, to be added where the group has none of its own."""
    seat: int = 0
    """Which seat the policy has, where the environment has several."""
    opponents: tuple[str, ...] = ()
    """Players of the other seats."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What an iteration samples."""

    slots: tuple[Slot, ...]
    """Slot n is for the n-th group that is started."""
    groups: int
    """So many slots are started at once; each dropped group starts one more while any are left."""
    success: float
    """Score from which a trajectory is a success."""
    skipped: int = 0
    """Tasks that dealing the slots passed over."""
    retired: int = 0
    """Tasks that are solved."""
    exhausted: bool = False
    """Every task is retired: all of them are dealt as if none were."""

    @property
    def attempts(self) -> int:
        """Of the groups that are started at once."""
        return sum(slot.attempts for slot in self.slots[: self.groups])


def plan(
    config: SamplingConfig,
    history: History,
    *,
    tasks: int,
    groups: int,
    group_size: int,
    seed: int,
    iteration: int,
) -> Plan:
    """Decide which tasks an iteration attempts, and how often: the same for the same arguments.

    The tasks are dealt in a new order each iteration, and again in that order when there are more
    slots than tasks to deal. Where the config says so, in this order:

    - *retirement* (ScaleRL, arXiv 2510.13786): solved tasks are left out;
    - *curriculum*: the order is drawn without replacement with weights
      (1 - e) v_i / sum(v) + e / K, v_i the expected variance p (1 - p) of task i's scores
      (`uncertain`: the expected squared advantage of an attempt, arXiv 2504.03380), or goes by
      falling expected score, but for a share e of the tasks that take a place at random
      (`easy_first`), e = `EXPLORED`;
    - *skipping* (GRESO, arXiv 2506.02177): a task whose last z groups had no variance is passed
      over with probability 1 - skip^z, which is never 1. Deviations: one fixed `skip` instead of
      one each for easy and hard tasks that follow targets, and the number of groups stays;
    - *group sizes*: see `allocate`. Refills are divided like the first groups, a full set at a
      time.

    Args:
        config: the switches.
        history: what `learn` made of earlier iterations.
        tasks: number K of tasks that come back; 0 makes fresh ones, of which nothing is known.
        groups: groups of an iteration, refills aside.
        group_size: attempts a group, or their mean.
        seed: of the run.
        iteration: number of the iteration.

    Raises:
        ValueError: when `config.group_sizes` do not allow a mean of `group_size`.
    """
    sets = 1 + (config.max_refills if config.filter != "none" else 0)
    dealt: Sequence[int | None] = [None] * (groups * sets)
    skipped, retired = 0, 0
    if tasks:
        generator = np.random.default_rng([seed, 2, iteration])
        dealt, skipped, retired = _deal(config, history, tasks, len(dealt), generator)
    records = [record_of(history, index) for index in dealt]
    attempts = [group_size] * len(dealt)
    if config.group_sizes is not None:
        low, high = config.group_sizes
        variances, total = [record.variance for record in records], groups * group_size
        rounds = [variances[i : i + groups] for i in range(0, len(variances), groups)]
        attempts = [n for v in rounds for n in allocate(v, total, low=low, high=high)]
    seen: Counter[int | None] = Counter()
    slots: list[Slot] = []
    for index, size, record in zip(dealt, attempts, records, strict=True):
        # Only the first group of a task: a trajectory is replayed at most once an iteration.
        replay = () if seen[index] else record.successes[: config.replay]
        slots.append(Slot(index=index, attempts=size, replay=replay))
        seen[index] += 1
    return Plan(
        slots=tuple(slots),
        groups=groups,
        success=config.success,
        skipped=skipped,
        retired=retired,
        exhausted=bool(tasks) and retired == tasks,
    )


def allocate(variances: Sequence[float], total: int, *, low: int, high: int) -> list[int]:
    """Share out attempts so that the variance of the sum of the groups' means is smallest.

    Minimises sum_i v_i / n_i subject to sum_i n_i = total and low <= n_i <= high. Without bounds
    and whole numbers the answer is n_i proportional to sqrt(v_i) = sqrt(p_i (1 - p_i)) (Neyman
    1934); whole numbers are exact when each attempt goes to the task of highest v / (n (n + 1)),
    the gain of one more (Wright 2012, The American Statistician 66). For group-relative gradients:
    arXiv 2602.01601, whose success probabilities come from a Gaussian process and ours from the
    task's own history.

    Valid where groups count alike, as under `algo.aggregation: prompt_mean`: under the others a
    task weighs what it has attempts, so uncertain tasks weigh more. With `baseline: group` the
    expected gradient of a task is (n - 1) / n of the true one, less for smaller groups.

    Args:
        variances: expected variance of a score, one a group.
        total: attempts of all groups.
        low: fewest attempts of a group.
        high: most attempts of a group.

    Returns:
        Attempts of each group; where variances are equal, equal to within one, earlier groups
        first.

    Raises:
        ValueError: when the bounds do not allow `total`.
    """
    if not low * len(variances) <= total <= high * len(variances):
        raise ValueError(
            f"{len(variances)} groups of {low} to {high} attempts cannot have {total} in all"
        )
    sizes = np.full(len(variances), low)
    values = np.asarray(variances, np.float64)
    for _ in range(total - low * len(variances)):
        gains = np.where(sizes < high, values / (sizes * (sizes + 1)), -1.0)
        sizes[int(np.argmax(gains))] += 1
    assert int(sizes.sum()) == total
    return [int(size) for size in sizes]


def rejected(config: SamplingConfig, scores_G: FloatArray, counts_G: BoolArray) -> str | None:
    """Why a group is not worth training on, or None.

    `too_few_scores` whatever the filter: fewer than two members can't be compared. The band's
    bounds are inside it; it drops groups without variance too, wherever their score.

    Args:
        config: the filter.
        scores_G: [G] scores, NaN where a member has none.
        counts_G: [G] members in the statistics.
    """
    counted = scores_G[counts_G & np.isfinite(scores_G)]
    if len(counted) < 2:
        return "too_few_scores"
    if config.filter == "band":
        low, high = config.band
        mean = float(counted.mean(dtype=np.float64))
        if mean < low or mean > high:
            return "below_band" if mean < low else "above_band"
    if config.filter != "none" and zero_variance(scores_G, counts_G):
        return "zero_variance"
    return None


def _deal(
    config: SamplingConfig,
    history: History,
    tasks: int,
    count: int,
    generator: np.random.Generator,
) -> tuple[list[int], int, int]:
    """(indices of `count` tasks, how many tasks were passed over, how many are retired)."""
    order: list[int] = generator.permutation(tasks).tolist()
    active = [i for i in order if not record_of(history, i).retired]
    retired = tasks - len(active)
    active = active or order
    records = [record_of(history, i) for i in active]
    places: list[int] = _places(config, records, generator).tolist()
    luck = generator.random(len(active))
    dealt: list[int] = []
    skipped = 0
    for place in places:
        if len(dealt) == count:
            break
        if config.skip and luck[place] >= config.skip ** records[place].flat:
            skipped += 1
        else:
            dealt.append(active[place])
    if not dealt:  # better tasks that promise nothing than none
        dealt, skipped = [active[place] for place in places], 0
    return [dealt[n % len(dealt)] for n in range(count)], skipped, retired


def _places(
    config: SamplingConfig, records: Sequence[TaskRecord], generator: np.random.Generator
) -> NDArray[np.intp]:
    """The order in which a curriculum takes shuffled tasks."""
    size = len(records)
    if config.curriculum == "uncertain":
        values = np.array([record.variance for record in records])
        weights = (1 - EXPLORED) * values / values.sum() + EXPLORED / size
        # Taking them by exponential variables over weights is drawing without replacement.
        return np.argsort(generator.exponential(size=size) / weights)
    if config.curriculum == "easy_first":
        ranks = np.empty(size)
        ranks[np.argsort([-record.mean for record in records], kind="stable")] = np.arange(size)
        at_random = generator.random(size) < EXPLORED
        ranks = np.where(at_random, generator.uniform(0, size, size), ranks)
        return np.argsort(ranks, kind="stable")
    return np.arange(size)
