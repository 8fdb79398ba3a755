"""The whole experiment: warm start, reinforcement learning, evaluations. One loop, one screen."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np

from rlagents.algos.crediting import Credit
from rlagents.algos.grpo import GRPO
from rlagents.algos.history import History
from rlagents.algos.history import learn as remember
from rlagents.algos.sampling import Plan
from rlagents.algos.sampling import plan as plan_tasks
from rlagents.algos.state import AlgoState
from rlagents.config import RunConfig
from rlagents.data.batches import make_batches
from rlagents.data.tasks import TaskSource
from rlagents.evaluate import Mode, evaluate
from rlagents.figures import best_and_worst, rollout_metrics, words
from rlagents.interrupt import Interrupt
from rlagents.journal import Journal
from rlagents.learner.group import LearnerGroup
from rlagents.learner.step import REFERENCE
from rlagents.policy.chat import Chat
from rlagents.policy.sampler import Sampling
from rlagents.rollout.lag import WeightLag
from rlagents.rollout.ledger import Ledger
from rlagents.rollout.pool import Pool
from rlagents.rollout.stream import Collected, RolloutStream, Watch
from rlagents.runs import RunFolder
from rlagents.scoring.scorer import Scorer
from rlagents.telemetry.progress import Display, stage_words
from rlagents.telemetry.show import trajectory_text
from rlagents.telemetry.sinks import Sink
from rlagents.telemetry.spans import Spans
from rlagents.types import Batch, EpisodeKey, ScoredGroup, Trajectory


@dataclass(slots=True, kw_only=True)
class RunState:
    """How far a run is: what a checkpoint holds beside the learner."""

    iteration: int = 0
    """Finished iterations of reinforcement learning."""
    warm: bool = False
    """The warm start is done, or there is none."""
    evals: list[dict[str, Any]] = field(default_factory=list)
    env_turns: int = 0
    tokens_sampled: int = 0
    tokens_trained: int = 0
    idle_iterations: int = 0
    """Iterations that made no optimizer step, because no group had a signal."""
    wall_s: float = 0.0
    algo: AlgoState = field(default_factory=AlgoState)
    history: History = field(default_factory=dict)
    """What is known of each training task, where tasks come back."""
    finished: bool = False
    """The last evaluation is in `evals`, and all is saved."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """What a run is wired from (`rlagents.build`)."""

    config: RunConfig
    folder: RunFolder
    learner: LearnerGroup
    algorithm: GRPO
    pool: Pool
    lag: WeightLag
    stream: RolloutStream
    tasks: TaskSource
    scorer: Scorer
    sampling: Sampling
    """Of training turns."""
    eval_sampling: Sampling
    journal: Journal
    ledger: Ledger
    sink: Sink
    spans: Spans
    display: Display
    watch: Watch
    interrupt: Interrupt
    chat: Chat
    pad_id: int
    warm_start: Callable[[Parts], None] | None
    save: Callable[[Parts, RunState], None]


def train(parts: Parts, state: RunState) -> RunState:
    """Run from `state` to the end; `state` is kept up to date for whoever saves it.

    Raises:
        Interrupted: at a safe point after Ctrl-C; learner and state are then consistent.
    """
    config = parts.config
    if state.finished and _ended(config, state):
        parts.display.print("this run is finished")
        return state
    with _Clock(state) as clock:
        if not state.warm:
            _start(parts, state, clock)
        _publish(parts)
        while True:
            # At the head, so that a run that was stopped in an evaluation makes up for it.
            ended, every = _ended(config, state), config.eval.every
            if state.iteration and (ended or (every and state.iteration % every == 0)):
                assess(parts, state, "rl")
            if ended:
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
    plan = plan_of(config, state)
    parts.lag.publish(parts.pool, parts.learner)
    collected = _collect(parts, state, plan, title)
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
    _settle(parts, collected, credits)
    # What an interrupted iteration would have taught is learned when it is repeated.
    state.algo = parts.algorithm.after_groups(state.algo, collected.sampled)
    state.history = remember(
        state.history, collected.outcomes, config.algo.sampling, state.iteration
    )
    state.iteration += 1
    state.env_turns += sum(len(t.turns) for t in collected.trajectories)
    state.tokens_sampled += sum(t.sampled_tokens for t in collected.trajectories)
    _log(parts, state, collected, figures)


def plan_of(config: RunConfig, state: RunState) -> Plan:
    """Which tasks the next iteration attempts, and how often."""
    return plan_tasks(
        config.algo.sampling,
        state.history,
        tasks=config.env.train_tasks,
        groups=config.rollout.groups,
        group_size=config.rollout.group_size,
        seed=config.run.seed,
        iteration=state.iteration,
    )


def _collect(parts: Parts, state: RunState, plan: Plan, title: str) -> Collected:
    """Roll out the iteration's groups."""
    before = parts.ledger.started
    with (
        parts.display.phase(f"{title} rollouts", plan.attempts) as phase,
        parts.spans.span("rollout", iteration=state.iteration),
    ):

        def advance(trajectory: Trajectory) -> None:
            phase.expect(parts.ledger.started - before)  # dropped groups start others
            phase.advance()

        return parts.stream.collect(state.iteration, plan, advance)


def batches_of(
    config: RunConfig,
    groups: Sequence[ScoredGroup],
    credits: Sequence[Sequence[Credit]],
    pad_id: int,
) -> list[Batch]:
    """The batches of an iteration, one optimizer step each in every epoch."""
    algo = config.algo
    return make_batches(
        groups,
        credits,
        aggregation=algo.aggregation,
        length_constant=algo.length_constant or config.rollout.max_turns * config.policy.max_tokens,
        updates=algo.updates,
        row_tokens=config.learner.row_tokens or config.context.window,
        pad_id=pad_id,
    )


def learn(
    parts: Parts, state: RunState, batches: Sequence[Batch], advance: Callable[[float], None]
) -> list[Mapping[str, float]]:
    """The optimizer steps of an iteration; their figures."""
    algorithm, learner, figures = parts.algorithm, parts.learner, []
    if algorithm.columns:
        batches = [learner.columns(batch, algorithm.columns) for batch in batches]
    for batch in list(batches) * parts.config.algo.epochs:
        if algorithm.derives:  # from the weights as they are now
            batch = learner.columns(
                batch, algorithm.step_columns, derive=algorithm.derive, seed=learner.steps
            )
        stats = learner.step(
            batch, algorithm.objective(state.algo), entropy_gradient=algorithm.entropy_gradient
        )
        metrics = dict(stats.metrics)
        if algorithm.entropy_gradient:
            metrics["policy/entropy_coef"] = algorithm.entropy_coef(state.algo)
            if not stats.skipped:
                state.algo = algorithm.after_step(state.algo, metrics["policy/entropy"])
        state.tokens_trained += batch.trained_tokens
        figures.append(metrics)
        advance(metrics["train/loss"])
    kl = parts.config.algo.kl
    if figures and kl.coef > 0 and kl.reference == "moving":
        learner.move_reference(kl.decay)
    return figures


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
        if stage == "rl" and not _ended(parts.config, state):
            when = f"after iteration {state.iteration}"
        title = f"evaluation {when}{'' if mode == 'sampled' else ', greedy'}"
        with (
            parts.display.phase(title, section.episodes) as phase,
            parts.spans.span("evaluate", stage=stage),
        ):
            result = evaluate(
                parts.pool,
                parts.tasks,
                parts.scorer,
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
            parts.sink.log(parts.learner.steps, {tag: result.score_mean})
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


def write_summary(parts: Parts, state: RunState, running: int = 0) -> None:
    """`summary.json`, checked first: the ledger must add up, with `running` in flight."""
    parts.ledger.check(running)
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
        }
    )


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


def _ended(config: RunConfig, state: RunState) -> bool:
    spent = 0 < config.train.max_tokens <= state.tokens_sampled
    return spent or state.iteration >= config.train.iterations


def _publish(parts: Parts) -> None:
    parts.pool.load(parts.learner.weights(), parts.learner.steps)


def _settle(parts: Parts, collected: Collected, credits: Sequence[Sequence[Credit]]) -> None:
    """Every trajectory of the iteration into the ledger, and why into the journal.

    A member of a trained group that gets no gradient itself was not trained on: it counts as
    filtered, `no_gradient`.
    """
    for scored, members in zip(collected.kept, credits, strict=True):
        reasons = [None if c.gradient else "no_gradient" for c in members]
        _settle_group(parts, scored, reasons, collected.replayed)
    for scored, reason in collected.dropped:
        _settle_group(parts, scored, [reason] * len(scored.scores), collected.replayed)
    parts.ledger.check(running=0)


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


def _log(
    parts: Parts,
    state: RunState,
    collected: Collected,
    figures: Sequence[Mapping[str, float]],
) -> None:
    """Learner figures at each step; those of the iteration at its last step."""
    last = parts.learner.steps
    first = last - len(figures) + 1
    for step, figure in enumerate(figures, start=first):
        if step < last:
            parts.sink.log(step, figure)
    current = last - len(figures)  # the version that an up-to-date sampler had
    metrics = {**rollout_metrics(collected, current), **parts.spans.take_totals()}
    seconds = metrics.get("time/rollout_s", 0.0)
    if seconds > 0:
        sampled = sum(t.sampled_tokens for t in collected.trajectories)
        metrics["rollout/tokens_per_s"] = sampled / seconds
    metrics |= figures[-1] if figures else {}
    metrics["train/iteration"] = float(state.iteration)
    metrics["train/tokens_sampled"] = float(state.tokens_sampled)
    if figures:  # without a step there is no new place on the axis
        parts.sink.log(last, metrics)
        shown = best_and_worst(collected.sampled, parts.config.telemetry.trajectories)
        for tag, score, trajectory in shown:
            parts.sink.text(last, tag, trajectory_text(trajectory, score))
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
