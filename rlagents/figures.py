"""What an iteration's rollouts amount to: metrics, one line of words, trajectories to read."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from rlagents.algos.history import zero_variance
from rlagents.rollout.stream import Collected
from rlagents.types import FloatArray, ScoredGroup, Trajectory


def rollout_metrics(collected: Collected, version: int) -> dict[str, float]:
    """Means over all trajectories that were sampled, or over those that did not fail.

    Tags are as in TensorBoard. Replayed members count in `sampling/replayed` and, as they are
    trained on, in the staleness; everything else is of this iteration, dropped groups included.

    Args:
        collected: of the iteration.
        version: weights version that learning began from.
    """
    trajectories = collected.trajectories
    healthy = [t for t in trajectories if not t.stop.failed]
    scores = np.concatenate([g.scores for g in collected.sampled])
    scores = scores[np.isfinite(scores)]
    figures = {
        "rollout/truncated_frac": float(np.mean([t.stop.cut for t in trajectories])),
        "rollout/failed_frac": 1 - len(healthy) / len(trajectories),
        **_sampling(collected),
        **_staleness(collected, version),
    }
    if len(scores):
        figures["train/score_mean"] = float(scores.mean())
    if healthy:
        figures |= {
            "train/return_mean": float(np.mean([t.episode_return for t in healthy])),
            "rollout/turns_per_trajectory": float(np.mean([len(t.turns) for t in healthy])),
            "rollout/tokens_per_trajectory": float(np.mean([t.sampled_tokens for t in healthy])),
            "context/segments_per_trajectory": float(np.mean([t.contexts for t in healthy])),
        }
        names = {name for t in healthy for name in t.metrics if name.startswith("env/")}
        for name in sorted(names):
            figures[name] = float(np.mean([t.metrics[name] for t in healthy if name in t.metrics]))
    return figures


def _sampling(collected: Collected) -> dict[str, float]:
    """What adaptive sampling did."""
    plan, sampled = collected.plan, collected.sampled
    flat = [_flat(group.scores) for group in sampled]
    for place, (_, reason) in enumerate(collected.dropped, start=len(collected.kept)):
        flat[place] |= reason == "zero_variance"  # of shaped scores
    sides = Counter(_side(group, reason, plan.success) for group, reason in collected.dropped)
    return {
        "sampling/zero_variance_frac": float(np.mean(flat)),
        "sampling/groups_kept": float(len(collected.kept)),
        "sampling/groups_dropped": float(len(collected.dropped)),
        "sampling/dropped_high": float(sides["high"]),
        "sampling/dropped_low": float(sides["low"]),
        "sampling/skipped": float(plan.skipped),
        "sampling/retired": float(plan.retired),
        "sampling/replayed": float(len(collected.replayed)),
        "sampling/attempts_mean": float(np.mean([len(group.scores) for group in sampled])),
    }


def _flat(scores_G: FloatArray) -> bool:
    """Whether there are scores to compare, and all are equal."""
    scored = np.isfinite(scores_G)
    return int(scored.sum()) > 1 and zero_variance(scores_G, scored)


def _side(scored: ScoredGroup, reason: str, success: float) -> str:
    """Whether a group was dropped because its task is too easy, too hard, or for something else."""
    if reason == "zero_variance":
        return "high" if np.nanmean(scored.scores) >= success else "low"
    return {"above_band": "high", "below_band": "low"}.get(reason, "neither")


def _staleness(collected: Collected, version: int) -> dict[str, float]:
    """How many versions older than `version` the weights were that sampled the kept tokens."""
    turns = [t for g in collected.kept for m in g.group.trajectories for t in m.turns]
    if not turns:
        return {}
    ages = np.array([version - turn.weights_version for turn in turns])
    tokens = np.array([len(turn.action_ids) for turn in turns])
    return {
        "staleness/mean": float(np.average(ages, weights=tokens)),
        "staleness/max": float(ages.max()),
    }


def words(collected: Collected, metrics: Mapping[str, float]) -> str:
    """What came of an iteration, on one line."""
    score = f"score {metrics['train/score_mean']:.3f}" if "train/score_mean" in metrics else ""
    failed = sum(t.stop.failed for t in collected.trajectories)
    causes = Counter(reason for _, reason in collected.dropped)
    dropped = ", ".join(f"{n} {reason}" for reason, n in sorted(causes.items()))
    parts = [
        score or "no score",
        f"{len(collected.kept)} of {len(collected.groups)} groups trained"
        if collected.kept
        else "NOTHING TRAINED",
        f"{causes.total()} dropped ({dropped})" if dropped else "",
        f"{len(collected.replayed)} successes replayed" if collected.replayed else "",
        "every task is retired: all are dealt again" if collected.plan.exhausted else "",
        f"{failed} episodes failed" if failed else "",
        f"entropy {metrics['policy/entropy']:.3f}" if "policy/entropy" in metrics else "",
    ]
    return ", ".join(part for part in parts if part)


def best_and_worst(
    groups: Sequence[ScoredGroup], count: int
) -> Iterator[tuple[str, float, Trajectory]]:
    """The trajectories of highest and lowest score: (tag, score, trajectory), `count` of each."""
    scored = [
        (float(score), trajectory)
        for group in groups
        for score, trajectory in zip(group.scores, group.group.trajectories, strict=True)
        if np.isfinite(score)
    ]
    scored.sort(key=lambda pair: (-pair[0], pair[1].key))
    for rank in range(min(count, len(scored))):
        yield f"trajectories/best_{rank}", *scored[rank]
        yield f"trajectories/worst_{rank}", *scored[-1 - rank]
