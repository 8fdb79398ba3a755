"""What is written of an iteration: the ledger, the journal's notes, metrics, the summary."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set

import numpy as np

from rlagents.algos.crediting import Credit
from rlagents.config import RunConfig
from rlagents.errors import ConfigError
from rlagents.figures import (
    best_and_worst,
    depth_of_rollouts,
    dropped_by_context,
    rollout_metrics,
    survivals,
    words,
)
from rlagents.league import report as league_report
from rlagents.league import win_rates
from rlagents.parts import Parts, RunState
from rlagents.rollout.collected import Collected
from rlagents.rollout.worker import Played
from rlagents.telemetry.curves import iteration_lines
from rlagents.telemetry.figures import contexts_figure, survival_figure, turns_figure
from rlagents.telemetry.show import trajectory_text
from rlagents.types import EpisodeKey, ScoredGroup
from rlagents.visible import escape


def write_summary(parts: Parts, state: RunState, running: int | None = None) -> None:
    """`summary.json`, checked first: the ledger must add up.

    Args:
        running: trajectories in flight; None are those of groups that are open.
    """
    parts.ledger.check(parts.stream.unsettled if running is None else running)
    league = {}
    if state.league.versions:
        league["league"] = league_report(state.league, parts.config.run.seed)
    parts.folder.write_summary(
        {
            "ledger": parts.ledger.as_dict(),
            "evals": state.evals,
            "iterations": state.iteration,
            "steps": parts.learner.steps,
            "idle_iterations": state.idle_iterations,
            "wall_s": round(state.wall_s, 3),
            "env_turns": state.env_turns,
            "tokens_sampled": state.tokens_sampled,
            "tokens_trained": state.tokens_trained,
            **league,
        }
    )


def settle(parts: Parts, collected: Collected, credits: Sequence[Sequence[Credit]]) -> None:
    """Every trajectory of the iteration into the ledger, and why into the journal.

    A member of a trained group that gets no gradient itself was not trained on: it counts as
    filtered, `no_gradient`.
    """
    for scored, members in zip(collected.kept, credits, strict=True):
        reasons = [None if c.gradient else "no_gradient" for c in members]
        _settle_group(parts, scored, reasons, collected.replayed)
    for scored, reason in collected.dropped:
        _settle_group(parts, scored, [reason] * len(scored.scores), collected.replayed)
    parts.ledger.check(running=parts.stream.unsettled)


def _settle_group(
    parts: Parts,
    scored: ScoredGroup,
    reasons: Sequence[str | None],
    replayed: Set[EpisodeKey],
) -> None:
    """Count and note each member; a reason of None is one that was trained on."""
    ledger = parts.ledger
    rows = zip(scored.group.trajectories, scored.scores, reasons, strict=True)
    for trajectory, score, reason in rows:
        if trajectory.key in replayed:
            continue  # settled in the iteration that sampled it
        if trajectory.stop.failed:
            ledger.failed[trajectory.stop.value] += 1
            disposition = f"failed:{trajectory.stop.value}"
        elif reason is None:
            ledger.trained += 1
            disposition = "trained"
        else:
            ledger.filtered[reason] += 1
            disposition = f"filtered:{reason}"
        notes: dict[str, str | float] = {"disposition": disposition}
        if np.isfinite(score):
            notes["score"] = float(score)
        parts.journal.annotate(trajectory.key, notes)


def log(
    parts: Parts,
    state: RunState,
    collected: Collected,
    played: Played,
    figures: Sequence[Mapping[str, float]],
) -> None:
    """Learner figures at each step; those of the iteration at its last step.

    `played` is what the iteration sampled, of unfinished trajectories too.
    """
    last = parts.learner.steps
    first = last - len(figures) + 1
    for step, figure in enumerate(figures, start=first):
        if step < last:
            parts.sink.log(step, figure)
    current = last - len(figures)  # the version that an up-to-date sampler had
    metrics = {**rollout_metrics(collected, current), **parts.spans.take_totals()}
    seconds = metrics.get("time/rollout_s", 0.0)
    if seconds > 0:
        metrics["rollout/tokens_per_s"] = played.tokens / seconds
    metrics |= figures[-1] if figures else {}
    if parts.config.scoring.name != "return":
        metrics |= parts.queue.take_figures()
    if parts.config.league.plays:
        metrics |= win_rates(collected.trajectories)
    if parts.config.schedule.stages:
        metrics["schedule/stage"] = float(state.schedule.stage)
        metrics["schedule/iterations_in_stage"] = float(state.schedule.iterations)
    metrics["train/iteration"] = float(state.iteration)
    metrics["train/tokens_sampled"] = float(state.tokens_sampled)
    telemetry = parts.config.telemetry
    if telemetry.depth:
        metrics |= depth_of_rollouts(collected)
    if figures:  # without a step there is no new place on the axis
        parts.sink.log(last, metrics)
        for tag, score, trajectory in best_and_worst(collected.sampled, telemetry.trajectories):
            parts.sink.text(last, tag, trajectory_text(trajectory, score))
        if telemetry.tensorboard and _drawn(parts.config, state):
            _draw(parts, collected)
    if metrics.get("score/failed") and (error := parts.queue.last_error) is not None:
        count = f"{metrics['score/failed']:.0f} groups without scores"
        parts.display.print(f"{count}, the last with: {escape(error.message)}")
    state.idle_iterations += not figures
    parts.display.print(
        f"iteration {state.iteration}/{parts.config.train.iterations}: "
        + words(collected, metrics)
        + f", {metrics.get('time/rollout_s', 0):.1f} s rollouts, "
        f"{metrics.get('time/learn_s', 0):.1f} s learning"
    )
    if state.idle_iterations == 1 and not figures:
        parts.display.print(
            "  a group trains when its scores differ: easier tasks, a larger rollout.group_size "
            "or a warm start make that more likely"
        )


def ended(config: RunConfig, state: RunState) -> bool:
    """Whether reinforcement learning is over: its iterations done, its tokens or turns spent."""
    tokens = 0 < config.train.max_tokens <= state.tokens_sampled
    turns = 0 < config.train.max_turns <= state.env_turns
    return tokens or turns or state.iteration >= config.train.iterations


def _drawn(config: RunConfig, state: RunState) -> bool:
    """Whether this iteration gets figures."""
    every = config.telemetry.figures_every
    return bool(every) and (state.iteration % every == 0 or ended(config, state))


def _draw(parts: Parts, collected: Collected) -> None:
    """Figures of depth, where there is matplotlib."""
    step = parts.learner.steps
    by_turn, by_token = survivals(collected)
    episodes = collected.trajectories
    title = (
        f"{len(episodes)} episodes, {sum(t.stop.cut for t in episodes)} cut by a limit; "
        f"success is a score of {collected.plan.success:g} or more"
    )
    contexts, dropped = [t.contexts for t in episodes if t.turns], dropped_by_context(episodes)
    try:
        panels = {"turns": by_turn, "sampled tokens": by_token}
        parts.sink.image(step, "depth/survival", survival_figure(panels, title))
        by_depth = turns_figure(iteration_lines(parts.folder.path / "metrics.jsonl"))
        if by_depth is not None:
            parts.sink.image(step, "depth/by_turn", by_depth)
        if max(contexts, default=0) > 1:
            parts.sink.image(step, "depth/contexts", contexts_figure(contexts, dropped))
    except ConfigError as error:  # without matplotlib
        parts.display.print(f"  no figures in TensorBoard: {error}")
