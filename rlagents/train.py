"""The whole experiment: warm start, reinforcement learning, evaluations. One loop, one screen."""

from __future__ import annotations

import functools
import time
from collections.abc import Mapping
from typing import Any, Self

import numpy as np

from rlagents.algos.history import learn as remember
from rlagents.evaluate import Mode, evaluate
from rlagents.learner.step import REFERENCE
from rlagents.learning import batches_of, learn, plan_of
from rlagents.parts import Parts, RunState
from rlagents.reporting import ended, log, settle, write_summary
from rlagents.rollout.collected import Collected
from rlagents.stages import Stage, advanced, stage_of
from rlagents.stages import words as words_of_stage
from rlagents.telemetry.progress import stage_words
from rlagents.types import Trajectory
from rlagents.versions import due, freeze


def train(parts: Parts, state: RunState) -> RunState:
    """Run from `state` to the end; `state` is kept up to date for whoever saves it.

    Raises:
        Interrupted: at a safe point after Ctrl-C; learner and state are then consistent.
    """
    config = parts.config
    if state.finished and ended(config, state):
        parts.display.print("this run is finished")
        return state
    with _Clock(state) as clock:
        if not state.warm:
            _start(parts, state, clock)
        _publish(parts)
        if config.schedule.stages:
            parts.display.print(words_of_stage(stage_of(config, state.schedule.stage), config))
        while True:
            # At the head, so that a run that was stopped in an evaluation makes up for it.
            over, every = ended(config, state), config.eval.every
            if due(config, state):
                freeze(parts, state)
            if state.iteration and (over or (every and state.iteration % every == 0)):
                assess(parts, state, "rl")
            if over:
                break
            iterate(parts, state)
            clock.stamp()
            if config.checkpoint.every and state.iteration % config.checkpoint.every == 0:
                parts.save(parts, state)
            write_summary(parts, state)
        state.finished = True
        clock.stamp()
        parts.save(parts, state)
        write_summary(parts, state)
    return state


def iterate(parts: Parts, state: RunState) -> None:
    """One iteration: rollouts, advantages, optimizer steps, new weights to the workers."""
    config, spans = parts.config, parts.spans
    title = f"iteration {state.iteration + 1}/{config.train.iterations}"
    stage = stage_of(config, state.schedule.stage)
    parts.lag.publish(parts.pool, parts.learner)
    collected = _collect(parts, state, stage, title)
    with spans.span("score", iteration=state.iteration):
        credits = parts.algorithm.advantages(collected.kept, state.algo)
    batches = batches_of(config, collected.kept, credits, parts.pad_id)
    parts.interrupt.check()
    steps = len(batches) * config.algo.epochs
    with (
        parts.display.phase(f"{title} learning", steps) as phase,
        spans.span("learn", iteration=state.iteration),
    ):
        figures = learn(parts, state, batches, lambda loss: phase.advance(loss=loss))
    with spans.span("sync", iteration=state.iteration):
        _publish(parts)
    settle(parts, collected, credits)
    # What an interrupted iteration would have taught is learned when it is repeated.
    state.algo = parts.algorithm.after_groups(state.algo, collected.sampled)
    state.history = remember(
        state.history, collected.outcomes(stage.number), config.algo.sampling, collected.block
    )
    state.league = state.league.remembered(collected.trajectories)
    _record_paused(parts, state)
    played = parts.stream.take_played()
    state.iteration += 1
    state.env_turns += played.turns
    state.tokens_sampled += played.tokens
    log(parts, state, collected, played, figures)
    _advance(parts, state, stage, collected)


def _collect(parts: Parts, state: RunState, stage: Stage, title: str) -> Collected:
    """Roll out the iteration's groups."""
    config, stream = parts.config, parts.stream
    rollout, before = config.rollout, parts.ledger.started
    total = None if rollout.partial else rollout.groups * rollout.group_size
    with (
        parts.display.phase(f"{title} rollouts", total) as phase,
        parts.spans.span("rollout", iteration=state.iteration),
    ):

        def advance(trajectory: Trajectory) -> None:
            if not rollout.partial:
                phase.expect(parts.ledger.started - before)  # dropped groups start others
            phase.advance()

        plans = functools.partial(plan_of, config, state)
        return stream.collect(state.iteration, plans, stage, advance)


def _advance(parts: Parts, state: RunState, stage: Stage, collected: Collected) -> None:
    """On to the next stage of the schedule, where this one has ended."""
    config = parts.config
    groups = collected.of_stage(stage.number)
    if not groups:  # with a budget, those of the stage before may still have to end
        return
    scores = np.concatenate([np.zeros(0), *(group.scores for group in groups)])
    scores = scores[np.isfinite(scores)]
    score = float(scores.mean()) if len(scores) else None
    state.schedule = advanced(config, state.schedule, score)
    following = stage_of(config, state.schedule.stage)
    if following.number != stage.number:
        parts.display.print(words_of_stage(following, config))
        # Other tasks, or other limits: what failed every time may succeed now.
        state.history = {}


def _record_paused(parts: Parts, state: RunState) -> None:
    """What is paused goes to the journal after each iteration, whoever saves the run next.

    Weights were loaded just before, so no paused episode is in the middle of a turn. An iteration
    that is interrupted leaves this as it was.
    """
    if parts.config.rollout.partial:
        for part in parts.stream.snapshot():
            parts.journal.append(part)
    state.rollouts = parts.stream.state


def assess(parts: Parts, state: RunState, stage: str) -> None:
    """Held-out score now, sampled and, where asked for, greedy; once for the same weights."""
    section = parts.config.eval
    if not section.episodes:
        return
    warm = parts.warm_start is not None
    # The most probable actions of a policy that is yet to be warm-started say nothing.
    cold = stage == "initial" and warm
    modes: tuple[Mode, ...] = ("sampled", "greedy") if section.greedy and not cold else ("sampled",)
    for mode in modes:
        if (stage, parts.learner.steps, mode) in map(_place, state.evals):
            continue
        when = stage_words(stage, warm)
        if stage == "rl" and not ended(parts.config, state):
            when = f"after iteration {state.iteration}"
        title = f"evaluation {when}{'' if mode == 'sampled' else ', greedy'}"
        with (
            parts.display.phase(title, section.episodes) as phase,
            parts.spans.span("evaluate", stage=stage),
        ):
            result = evaluate(
                parts.pool,
                parts.tasks,
                parts.queue,
                parts.eval_sampling,
                parts.watch,
                stage=stage,
                step=parts.learner.steps,
                episodes=section.episodes,
                mode=mode,
                record=lambda trajectory, score: _record(parts, trajectory, score),
                advance=lambda trajectory: phase.advance(),
            )
        tag = _eval_tag(parts, state, stage, mode)
        state.evals.append({**result.as_dict(), "tokens_sampled": state.tokens_sampled})
        if tag is not None and result.score_mean is not None:
            figures = {tag: result.score_mean}
            if tag == "eval/score_mean":
                figures |= {f"eval/{name}": value for name, value in result.metrics.items()}
            parts.sink.log(parts.learner.steps, figures)
        parts.display.print(f"{title}: {result.words}")


def _record(parts: Parts, trajectory: Trajectory, score: float) -> None:
    parts.journal.append(trajectory, {"score": score} if np.isfinite(score) else None)


def _eval_tag(parts: Parts, state: RunState, stage: str, mode: str) -> str | None:
    """The curve of an evaluation, which has one point a step; None where that is taken."""
    curve = "score_mean" if mode == "sampled" else "greedy_score_mean"
    apart = "initial" if parts.warm_start is not None else None
    if stage == apart:
        return f"eval/initial_{curve}"
    taken = [(e["step"], e["mode"]) for e in state.evals if e["stage"] != apart]
    return None if (parts.learner.steps, mode) in taken else f"eval/{curve}"


def _start(parts: Parts, state: RunState, clock: _Clock) -> None:
    """Score the fresh policy, warm-start it, score it again; the result is a checkpoint."""
    _publish(parts)
    assess(parts, state, "initial")
    if parts.warm_start is not None:
        parts.warm_start(parts)
        _publish(parts)
        assess(parts, state, "warm_start")
    if REFERENCE in parts.algorithm.columns:
        parts.learner.freeze_reference()
    state.algo = parts.algorithm.initial_state()
    parts.interrupt.check()
    state.warm = True
    clock.stamp()
    parts.save(parts, state)
    write_summary(parts, state)


def _publish(parts: Parts) -> None:
    weights, version = parts.learner.weights(), parts.learner.steps
    parts.pool.load(weights, version)
    for judge in parts.judging:
        judge.load(weights, version)


def _place(entry: Mapping[str, Any]) -> tuple[str, int, str]:
    return entry["stage"], entry["step"], entry["mode"]


class _Clock:
    """Wall clock of the run, over all of its sittings."""

    def __init__(self, state: RunState) -> None:
        self._state = state
        self._before = state.wall_s
        self._begun = time.monotonic()

    def stamp(self) -> None:
        self._state.wall_s = self._before + time.monotonic() - self._begun

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.stamp()
