"""From scored groups to the credit of each turn: shaping, truncation policy, advantages."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from rlagents.algos import shaping
from rlagents.algos.advantages import EPSILON, group_relative, several_rewards
from rlagents.algos.configs import AlgoConfig, require
from rlagents.algos.credit import combined, turn_advantages
from rlagents.algos.shaping import Moments
from rlagents.errors import ConfigError, nearest
from rlagents.types import BoolArray, FloatArray, ScoredGroup, Trajectory, Turn, TurnKind


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Credit:
    """What the learner is told of one trajectory."""

    advantages: FloatArray
    """[N] one value a turn."""
    trained: BoolArray
    """[N] turns whose tokens get gradient."""

    @property
    def gradient(self) -> bool:
        """Whether any token gets gradient."""
        return bool(self.trained.any())


def credits_of(
    config: AlgoConfig, groups: Sequence[ScoredGroup], moments: Moments
) -> list[tuple[Credit, ...]]:
    """Credit of each trajectory of each group, in order: [G] credits a group.

    Args:
        moments: of the scores so far, for `shaping.running`.

    Raises:
        ConfigError: for a score below 0 where the scale can't have one.
    """
    counts = [counted(config, group) for group in groups]
    scores = [shaped_scores(config, group) for group in groups]
    if config.shaping.running:
        scores = [shaping.running_scale(s, moments) for s in scores]
    _check_scores(config, scores)
    values = _trajectory_advantages(config, groups, scores, counts)
    return [
        _group_credits(config, group, scores_G, values_G, counts_G)
        for group, scores_G, values_G, counts_G in zip(groups, scores, values, counts, strict=True)
    ]


def counted(config: AlgoConfig, scored: ScoredGroup) -> BoolArray:
    """[G] members in the group's statistics."""
    statistics, _, _ = config.truncation.resolved
    return np.array(
        [not t.stop.failed and (statistics or not t.stop.cut) for t in scored.group.trajectories]
    )


def differs_within(config: AlgoConfig, scored: ScoredGroup) -> bool:
    """Whether a group of equal scores has a signal all the same: in its turns, or its rewards."""
    if not (config.credit.turn > 0 or config.advantage.rewards):
        return False
    (credits,) = credits_of(config, [scored], Moments())
    return any(np.any(np.abs(c.advantages[c.trained]) > EPSILON) for c in credits)


def shaped_scores(config: AlgoConfig, scored: ScoredGroup) -> FloatArray:
    """[G] scores after truncation policy and shaping; NaN without a score.

    In order: cut trajectories scored as zero, cosine length, then what adds up (overlong,
    repetition, format), then the bounds.
    """
    trajectories = scored.group.trajectories
    scores = scored.scores.copy()
    _, reward, _ = config.truncation.resolved
    if not reward:
        cut = np.array([t.stop.cut for t in trajectories])
        scores = np.where(cut & np.isfinite(scores), np.float32(0), scores)
    lengths = np.array([t.sampled_tokens for t in trajectories], np.int32)
    s = config.shaping
    if s.cosine.limit:
        scores = shaping.cosine_length(
            scores,
            lengths,
            limit=s.cosine.limit,
            threshold=s.cosine.threshold,
            correct=s.cosine.correct,
            wrong=s.cosine.wrong,
            exceeded=s.cosine.exceeded,
        )
    scores = scores + shaping.soft_overlong(
        lengths, limit=s.overlong.limit, cache=s.overlong.cache, factor=s.overlong.factor
    )
    if s.repetition.penalty:
        ngram, penalty = s.repetition.ngram, s.repetition.penalty
        repeated = [
            shaping.repetition(_sampled(t), ngram=ngram, penalty=penalty) for t in trajectories
        ]
        scores = scores + np.array(repeated, np.float32)
    if s.format.pattern:
        scores = scores + np.array(
            [_format_penalties(config, t).sum() for t in trajectories], np.float32
        )
    return scores if s.clip is None else np.clip(scores, *s.clip).astype(np.float32)


def _sampled(trajectory: Trajectory) -> np.ndarray:
    ids = [turn.action_ids for turn in trajectory.turns]
    return np.concatenate(ids) if ids else np.zeros(0, np.int32)


def _format_penalties(config: AlgoConfig, trajectory: Trajectory) -> FloatArray:
    """[A] of the turns with the environment."""
    form = config.shaping.format
    actions = [turn.action for turn in _acted(trajectory)]
    return shaping.format_penalties(actions, form.pattern, form.penalty)


def _check_scores(config: AlgoConfig, scores: Sequence[FloatArray]) -> None:
    least = min((float(s[np.isfinite(s)].min(initial=0.0)) for s in scores), default=0.0)
    require(
        config.advantage.scale != "mean" or least >= 0,
        "algo.advantage.scale",
        "mean",
        f"another scale where scores (with shaping) may be below 0, as {least:.4g} is",
    )


def _trajectory_advantages(
    config: AlgoConfig,
    groups: Sequence[ScoredGroup],
    scores: Sequence[FloatArray],
    counts: Sequence[BoolArray],
) -> list[FloatArray]:
    advantage = config.advantage
    if advantage.rewards:
        rewards = [
            {name: _named(group, name, s) for name in advantage.rewards}
            for group, s in zip(groups, scores, strict=True)
        ]
        for name in advantage.rewards:
            if all(np.isnan(found[name]).all() for found in rewards):
                raise _unknown_reward(name, groups)
        return several_rewards(rewards, counts, advantage.rewards)
    lengths = [np.array([t.sampled_tokens for t in g.group.trajectories], np.int32) for g in groups]
    return group_relative(
        scores, counts, baseline=advantage.baseline, scale=advantage.scale, lengths=lengths
    )


def _unknown_reward(name: str, groups: Sequence[ScoredGroup]) -> ConfigError:
    known = {"score", *(part for group in groups for part in group.parts)}
    known |= {m for group in groups for t in group.group.trajectories for m in t.metrics}
    return ConfigError(
        f"algo.advantage.rewards.{name}: expected the score, a part of it or a metric of the "
        f"trajectories ({', '.join(sorted(known))}){nearest(name, sorted(known))}"
    )


def _named(group: ScoredGroup, name: str, scores: FloatArray) -> FloatArray:
    """[G] the score, a part of it, or a metric of the trajectories; NaN where there is none."""
    if name == "score":
        return scores
    if name in group.parts:
        return group.parts[name]
    return np.array([t.metrics.get(name, np.nan) for t in group.group.trajectories], np.float32)


def _group_credits(
    config: AlgoConfig,
    group: ScoredGroup,
    scores_G: FloatArray,
    values_G: FloatArray,
    counts_G: BoolArray,
) -> tuple[Credit, ...]:
    trajectories, credit = group.group.trajectories, config.credit
    turns = [np.zeros(len(t.turns), np.float32) for t in trajectories]
    if credit.turn > 0:
        anchored = credit.grouping == "anchor"
        of_actions = turn_advantages(
            [_turn_rewards(config, *pair) for pair in zip(trajectories, scores_G, strict=True)],
            [[turn.observation for turn in _acted(t)] for t in trajectories] if anchored else None,
            counts_G,
            discount=credit.discount,
            normalise=config.advantage.scale != "none",
        )
        turns = [_spread(*pair) for pair in zip(trajectories, of_actions, strict=True)]
    return tuple(
        Credit(
            advantages=combined(
                float(value), turns_N, trajectory=credit.trajectory, turn=credit.turn
            ),
            trained=_trained(config, trajectory),
        )
        for trajectory, value, turns_N in zip(trajectories, values_G, turns, strict=True)
    )


def _acted(trajectory: Trajectory) -> list[Turn]:
    """The turns with the environment: only they have rewards, states and a place in time."""
    return [turn for turn in trajectory.turns if turn.kind is TurnKind.ACTION]


def _trained(config: AlgoConfig, trajectory: Trajectory) -> BoolArray:
    """[N] turns that get gradient."""
    _, _, gradient = config.truncation.resolved
    if trajectory.stop.failed or (trajectory.stop.cut and not gradient):
        return np.zeros(len(trajectory.turns), np.bool_)
    left_out = {
        kind
        for kind, wanted in (
            (TurnKind.SUMMARY, config.credit.summaries),
            (TurnKind.CALL, config.credit.sub_calls),
        )
        if not wanted
    }
    return np.array([turn.kind not in left_out for turn in trajectory.turns], np.bool_)


def _spread(trajectory: Trajectory, of_actions_A: FloatArray) -> FloatArray:
    """[N] the advantage of each turn: that of the action it is, or that it prepares.

    A summary, a note or a block of code comes before the action at the same point of time, and is
    credited with what followed from there. After the last action there is nothing to compare: 0.
    """
    values = np.zeros(len(trajectory.turns), np.float32)
    following, action = np.float32(0), len(of_actions_A)
    for number in reversed(range(len(values))):
        if trajectory.turns[number].kind is TurnKind.ACTION:
            action -= 1
            following = of_actions_A[action]
        values[number] = following
    return values


def _turn_rewards(config: AlgoConfig, trajectory: Trajectory, score: float) -> FloatArray:
    """[A] rewards of the actions, whose sum is the score: what is not of a turn comes at the end.

    So turn credit sees a judge's score, and shaping of whole trajectories, too. Potential-based
    shaping is on top: it moves credit and adds nothing.
    """
    acted = _acted(trajectory)
    rewards = np.array([turn.reward for turn in acted], np.float32)
    if not acted:
        return rewards
    if config.shaping.format.pattern:
        rewards = rewards + _format_penalties(config, trajectory)
    if np.isfinite(score):
        rewards[-1] += score - rewards.sum()
    if config.shaping.potential:
        potentials = [turn.potential for turn in acted] + [trajectory.final_potential]
        rewards = rewards + config.shaping.potential * shaping.potential_shaping(
            np.array(potentials, np.float32),
            config.credit.discount,
            ended=not trajectory.stop.cut,
        )
    return rewards.astype(np.float32)
