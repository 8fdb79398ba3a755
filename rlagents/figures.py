"""What an iteration's rollouts amount to: metrics, one line of words, trajectories to read."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from rlagents.algos.history import zero_variance
from rlagents.depth import BUCKETS, buckets
from rlagents.rollout.collected import Collected
from rlagents.telemetry.depth import Survival, means_by_depth, survival, survival_by_depth
from rlagents.types import FloatArray, ScoredGroup, StopReason, Trajectory, TurnKind


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
        **_partial(collected),
        **_staleness(collected, version),
    }
    if len(scores):
        figures["train/score_mean"] = float(scores.mean())
    if healthy:
        figures |= {
            "train/return_mean": float(np.mean([t.episode_return for t in healthy])),
            "rollout/turns_per_trajectory": float(np.mean([t.actions for t in healthy])),
            "rollout/tokens_per_trajectory": float(np.mean([t.sampled_tokens for t in healthy])),
            **_kinds(healthy),
            **_contexts(healthy),
        }
        names = {name for t in healthy for name in t.metrics if name.startswith("env/")}
        for name in sorted(names):
            figures[name] = float(np.mean([t.metrics[name] for t in healthy if name in t.metrics]))
    return figures


_COUNTED: Mapping[TurnKind, str] = {
    TurnKind.SUMMARY: "summaries",
    TurnKind.MEMORY: "memory_edits",
    TurnKind.CODE: "code_blocks",
    TurnKind.CALL: "calls",
}


def _kinds(trajectories: Sequence[Trajectory]) -> dict[str, float]:
    """Turns and tokens by kind, where there are others than actions."""
    turns, tokens = Counter[TurnKind](), Counter[TurnKind]()
    for turn in (turn for t in trajectories for turn in t.turns):
        turns[turn.kind] += 1
        tokens[turn.kind] += len(turn.action_ids)
    others = [kind for kind in _COUNTED if turns[kind]]
    shown = [TurnKind.ACTION, *others] if others else []
    return {
        f"rollout/{_COUNTED[kind]}_per_trajectory": turns[kind] / len(trajectories)
        for kind in others
    } | {f"rollout/tokens_{kind}_frac": tokens[kind] / tokens.total() for kind in shown}


def _contexts(trajectories: Sequence[Trajectory]) -> dict[str, float]:
    """How many contexts trajectories have, and what fresh ones leave out.

    `context/dropped_frac` is over what there was to see: the history and the new observation.
    """
    counts = np.array([t.contexts for t in trajectories])
    cuts = [turn for t in trajectories for turn in t.turns if turn.dropped_tokens]
    dropped = sum(turn.dropped_tokens for turn in cuts)
    shown = sum(len(turn.observation_ids) for turn in cuts)
    figures = {
        "context/segments_per_trajectory": float(counts.mean()),
        "context/segments_p50": float(np.percentile(counts, 50)),
        "context/segments_p90": float(np.percentile(counts, 90)),
        "context/segments_max": float(counts.max()),
        "context/cuts_per_trajectory": len(cuts) / len(trajectories),
    }
    if cuts:
        figures["context/dropped_tokens"] = dropped / len(cuts)
        figures["context/dropped_frac"] = dropped / (dropped + shown)
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


def _partial(collected: Collected) -> dict[str, float]:
    """How many trajectories went on from earlier iterations, and how many will in the next."""
    if collected.resumed is None or collected.paused is None:
        return {}
    return {
        "rollout/resumed": float(collected.resumed),
        "rollout/paused": float(collected.paused),
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


TOKENS = 64
"""Sampled tokens that count as one step of depth."""


def depth_of_rollouts(collected: Collected) -> dict[str, float]:
    """Rewards by turn, scores by the depth at which episodes ended, survival and success.

    Turns count in the trajectory, those that never reach the environment included, as they do in
    the learner; a reward is a mean over turns with the environment. Episodes that broke are in the
    survival alone, as cut ones.
    """
    rewards, turns = np.zeros(BUCKETS), np.zeros(BUCKETS)
    scores = {axis: np.zeros((2, BUCKETS)) for axis in ("turn", "segment")}
    for trajectory, score in _scored(collected):
        if trajectory.stop.failed:
            continue
        acted = [(i, t) for i, t in enumerate(trajectory.turns) if t.kind is TurnKind.ACTION]
        places = buckets([i for i, _ in acted])
        np.add.at(rewards, places, [turn.reward for _, turn in acted])
        np.add.at(turns, places, 1)
        if trajectory.turns and np.isfinite(score):
            ends = {"turn": len(trajectory.turns), "segment": trajectory.contexts}
            for axis, end in ends.items():
                scores[axis][:, buckets(end - 1)] += np.array([score, 1.0])
    figures = means_by_depth("reward", "turn", rewards, turns)
    for axis, (sums, counts) in scores.items():
        figures |= means_by_depth("score", axis, sums, counts)
    by_turn, by_token = survivals(collected)
    return (
        figures | survival_by_depth(by_turn, "turn") | survival_by_depth(by_token, "token", TOKENS)
    )


def survivals(collected: Collected) -> tuple[Survival, Survival]:
    """Survival and success against turns, and against sampled tokens.

    A success is a score of `plan.success` or more, and an end even where a limit cut the episode.
    """
    pairs = list(_scored(collected))
    success = [bool(score >= np.float32(collected.plan.success)) for _, score in pairs]
    seen = [
        t.stop is StopReason.TERMINATED or good for (t, _), good in zip(pairs, success, strict=True)
    ]
    return (
        survival([len(t.turns) for t, _ in pairs], seen, success),
        survival([t.sampled_tokens for t, _ in pairs], seen, success),
    )


def dropped_by_context(trajectories: Sequence[Trajectory]) -> dict[int, list[int]]:
    """Number of a context -> tokens that each context of that number left out, where any did."""
    found: dict[int, list[int]] = {}
    for turn in (turn for t in trajectories for turn in t.turns if turn.dropped_tokens):
        found.setdefault(turn.context, []).append(turn.dropped_tokens)
    return found


def _scored(collected: Collected) -> Iterator[tuple[Trajectory, np.float32]]:
    """Every trajectory that this iteration sampled, and its score, which may be NaN."""
    for group in collected.sampled:
        yield from zip(group.group.trajectories, group.scores, strict=True)


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
        f"{collected.paused} trajectories paused" if collected.paused else "",
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
