"""What an iteration's rollouts amount to: metrics, one line of words, trajectories to read."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from rlagents.rollout.stream import Collected
from rlagents.types import ScoredGroup, Trajectory


def rollout_metrics(collected: Collected) -> dict[str, float]:
    """Means over all trajectories, or over those that did not fail; tags as in TensorBoard."""
    trajectories = collected.trajectories
    healthy = [t for t in trajectories if not t.stop.failed]
    scores = np.concatenate([g.scores for g in collected.groups])
    scores = scores[np.isfinite(scores)]
    flat = sum(reason == "zero_variance" for _, reason in collected.dropped)
    figures = {
        "rollout/truncated_frac": float(np.mean([t.stop.cut for t in trajectories])),
        "rollout/failed_frac": 1 - len(healthy) / len(trajectories),
        "sampling/zero_variance_frac": flat / len(collected.groups),
        "sampling/groups_dropped": float(len(collected.dropped)),
        "sampling/groups_kept": float(len(collected.kept)),
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
