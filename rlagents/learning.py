"""From a plan and scored groups to optimizer steps: what an iteration asks for."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from rlagents.algos.crediting import Credit
from rlagents.algos.sampling import Plan
from rlagents.algos.sampling import plan as plan_tasks
from rlagents.config import RunConfig
from rlagents.data.batches import make_batches
from rlagents.depth import DepthSums
from rlagents.league import seated
from rlagents.parts import Parts, RunState
from rlagents.telemetry.depth import depth_metrics
from rlagents.types import Batch, ScoredGroup


def plan_of(config: RunConfig, state: RunState, block: int) -> Plan:
    """Which tasks a block attempts, how often, and against whom; without a budget, an iteration."""
    plan = plan_tasks(
        config.algo.sampling,
        state.history,
        tasks=config.env.train_tasks,
        groups=config.rollout.groups,
        group_size=config.rollout.group_size,
        seed=config.run.seed,
        iteration=block,
    )
    return seated(config, state.league, plan, block)


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
) -> Sequence[Mapping[str, float]]:
    """The optimizer steps of an iteration; their figures."""
    algorithm, learner = parts.algorithm, parts.learner
    figures: list[dict[str, float]] = []
    depths: list[DepthSums] = []
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
        depths.append(stats.depth)
        advance(metrics["train/loss"])
    if figures and parts.config.telemetry.depth:
        figures[-1] |= depth_metrics(depths)
    kl = parts.config.algo.kl
    if figures and kl.coef > 0 and kl.reference == "moving":
        learner.move_reference(kl.decay)
    return figures
