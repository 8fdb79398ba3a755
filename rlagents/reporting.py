"""What is written of an iteration: the ledger, the journal's notes, metrics, the summary."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from typing import Any

import numpy as np

from rlagents.algos.crediting import Credit
from rlagents.config import RunConfig, find_endpoint
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
from rlagents.scoring.scorer import JUDGE_ERROR
from rlagents.telemetry.curves import iteration_lines
from rlagents.telemetry.figures import contexts_figure, survival_figure, turns_figure
from rlagents.telemetry.show import trajectory_text
from rlagents.types import EpisodeKey, ScoredGroup
from rlagents.visible import escape

SUMMED = ("calls", "tokens", "cost", "failed")
"""Last part of the names of figures of scoring that count; the others are means and levels."""


def write_summary(parts: Parts, state: RunState, running: int | None = None) -> None:
    """`summary.json`, checked first: the ledger must add up.

    Args:
        running: trajectories in flight; None are those of groups that are open.
    """
    parts.ledger.check(parts.stream.unsettled if running is None else running)
    more: dict[str, Any] = {}
    if parts.config.scoring.name != "return":
        scoring = state.scoring
        more["scoring"] = {
            "calls": scoring.calls,
            "cost": scoring.cost,
            "unscored_groups": scoring.unscored_groups,
            "unjudged_iterations": scoring.unjudged_iterations,
        }
    if parts.config.endpoints:
        more["spent"] = parts.endpoints.spent
    if state.league.versions:
        more["league"] = league_report(state.league, parts.config.run.seed)
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
            **more,
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


def take_scoring(parts: Parts, state: RunState) -> dict[str, float]:
    """Figures of scoring since the last call; they also join the run's totals, and what is held.

    An iteration without an optimizer step has no place on the axis: its figures wait for the next
    one that has. Of counts and costs the sum is held, of anything else the latest.
    """
    if parts.config.scoring.name == "return":
        return {}
    figures, totals = parts.queue.take_figures(), state.scoring
    totals.calls += int(figures.get("judge/calls", 0))
    totals.cost += figures.get("judge/cost", 0.0)
    totals.unscored_groups += int(figures["score/failed"])
    for name, value in figures.items():
        before = totals.held.get(name, 0.0) if name.rpartition("/")[2] in SUMMED else 0.0
        totals.held[name] = before + value
    return figures


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
    scored = take_scoring(parts, state)
    metrics |= state.scoring.held
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
        state.scoring.held = {}
        for tag, score, trajectory in best_and_worst(collected.sampled, telemetry.trajectories):
            parts.sink.text(last, tag, trajectory_text(trajectory, score))
        if telemetry.tensorboard and _drawn(parts.config, state):
            _draw(parts, collected)
    if scored.get("score/failed") and (error := parts.queue.last_error) is not None:
        count = f"{scored['score/failed']:.0f} groups without scores"
        parts.display.print(f"{count}, the last with: {escape(error.message)}")
    for endpoint in parts.endpoints.take_exhausted():
        parts.display.print(
            f"endpoint {escape(endpoint.name)}: max_cost is spent ({endpoint.max_cost:g}); "
            + _without(parts.config, endpoint.name)
        )
    state.idle_iterations += not figures
    parts.display.print(
        f"iteration {state.iteration}/{parts.config.train.iterations}: "
        + words(collected, metrics)
        + f", {metrics.get('time/rollout_s', 0):.1f} s rollouts, "
        f"{metrics.get('time/learn_s', 0):.1f} s learning"
    )
    if _unjudged(collected):
        state.scoring.unjudged_iterations += 1
        if state.scoring.unjudged_iterations == 1:
            parts.display.print("  no group of this iteration has a verdict: nothing was learned")
    idle = state.idle_iterations - state.scoring.unjudged_iterations
    if idle == 1 and not figures and not scored.get("score/failed"):
        parts.display.print(
            "  a group trains when its scores differ: easier tasks, a larger rollout.group_size "
            "or a warm start make that more likely"
        )


def closing_lines(state: RunState) -> list[str]:
    """What is said at the end of what went wrong on the way."""
    count = state.scoring.unjudged_iterations
    return [f"{count} of {state.iteration} iterations without any verdict"] if count else []


def _unjudged(collected: Collected) -> bool:
    """Whether the scorer failed for all groups."""
    groups = collected.groups
    return bool(groups) and all(JUDGE_ERROR in scored.parts for scored in groups)


def _without(config: RunConfig, name: str) -> str:
    """What a run has to do without when an endpoint answers no more."""
    judges = config.scoring.judges if config.scoring.judged else ()
    silent = [
        judge.backend == "endpoint" and find_endpoint(config.endpoints, judge.endpoint).name == name
        for judge in judges
    ]
    if not any(silent):
        return "games with it fail"
    return "groups stay without scores" if all(silent) else "its verdicts are missing"


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
