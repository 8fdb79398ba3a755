"""Settings that count only while something else is so: one table.

`rlagents.rules` refuses them where somebody wrote them, and resets them where nobody did.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from rlagents.algos.configs import SEQUENCE_OBJECTIVES, AlgoConfig
from rlagents.config import RunConfig


def reads_sequences(algo: AlgoConfig) -> bool:
    """Whether any objective or correction looks at whole sequences."""
    correction = algo.correction
    return (
        algo.objective in SEQUENCE_OBJECTIVES
        or (correction.weight != "none" and correction.level == "sequence")
        or correction.reject != "none"
        or correction.off_policy > 0
    )


REPEATING = ("pinned_window", "compact", "notes", "recursive")
"""Strategies whose fresh contexts begin with turns of earlier ones."""
FITTING = ("seeded_margins", "active")
"""Topologies that fit margins."""


@dataclass(frozen=True, slots=True)
class Only:
    """Settings that count only while something else is so."""

    keys: tuple[str, ...]
    """Full keys of settings or of whole sections."""
    active: Callable[[RunConfig], bool]
    selectors: tuple[str, ...]
    """The keys that `active` reads."""
    need: str
    """What would make them count."""


TABLE = (
    Only(
        ("policy.tiny",),
        lambda c: c.policy.model == "tiny",
        ("policy.model",),
        "policy.model: tiny",
    ),
    Only(
        ("policy.fp32_head",),
        lambda c: c.learner.dtype == "bfloat16",
        ("learner.dtype",),
        "learner.dtype: bfloat16",
    ),
    Only(
        ("context.pinned_turns", "context.overlap"),
        lambda c: c.context.strategy in REPEATING,
        ("context.strategy",),
        f"context.strategy: {' or '.join(REPEATING)}",
    ),
    Only(
        ("context.truncation",),
        lambda c: c.context.overlap > 0 or any(s.overlap for s in c.schedule.stages),
        ("context.overlap", "context.strategy", "schedule.stages"),
        "context.overlap above 0",
    ),
    Only(
        ("context.compact",),
        lambda c: c.context.strategy == "compact",
        ("context.strategy",),
        "context.strategy: compact",
    ),
    Only(
        ("context.memory",),
        lambda c: c.context.strategy in ("notes", "reset_with_memory"),
        ("context.strategy",),
        "context.strategy: notes or reset_with_memory",
    ),
    Only(
        ("context.memory.sitting_turns",),
        lambda c: c.context.strategy == "reset_with_memory",
        ("context.strategy",),
        "context.strategy: reset_with_memory",
    ),
    Only(
        ("context.recursive",),
        lambda c: c.context.strategy == "recursive",
        ("context.strategy",),
        "context.strategy: recursive",
    ),
    Only(
        ("rollout.workers",),
        lambda c: c.rollout.executor == "ray" or c.rollout.workers == 1,
        ("rollout.executor",),
        "rollout.executor: ray",
    ),
    Only(
        ("rollout.ray_address", "rollout.gpus_per_worker"),
        lambda c: c.rollout.executor == "ray",
        ("rollout.executor",),
        "rollout.executor: ray",
    ),
    Only(
        ("schedule.advance",),
        lambda c: len(c.schedule.stages) > 1,
        ("schedule.stages",),
        "two schedule.stages or more",
    ),
    Only(
        ("schedule.patience", "schedule.min_gain", "schedule.min_score"),
        lambda c: c.schedule.advance == "plateau" and len(c.schedule.stages) > 1,
        ("schedule.advance", "schedule.stages"),
        "schedule.advance: plateau",
    ),
    Only(
        ("scoring.function",),
        lambda c: c.scoring.name == "function",
        ("scoring.name",),
        "scoring.name: function",
    ),
    Only(
        ("scoring.concurrency", "scoring.queue", "scoring.timeout_s"),
        lambda c: c.scoring.name != "return",
        ("scoring.name",),
        "scoring.name: function, pointwise or tournament",
    ),
    Only(
        ("scoring.judge", "scoring.panel", "scoring.outage_iterations"),
        lambda c: c.scoring.judged,
        ("scoring.name",),
        "scoring.name: pointwise or tournament",
    ),
    Only(
        ("scoring.tournament",),
        lambda c: c.scoring.name == "tournament",
        ("scoring.name",),
        "scoring.name: tournament",
    ),
    Only(
        ("scoring.tournament.matches",),
        lambda c: c.scoring.tournament.topology == "active",
        ("scoring.name", "scoring.tournament.topology"),
        "scoring.tournament.topology: active",
    ),
    Only(
        ("scoring.tournament.rounds",),
        lambda c: c.scoring.tournament.topology == "swiss",
        ("scoring.name", "scoring.tournament.topology"),
        "scoring.tournament.topology: swiss",
    ),
    Only(
        ("scoring.tournament.totals",),
        lambda c: c.scoring.tournament.topology in FITTING,
        ("scoring.name", "scoring.tournament.topology"),
        f"scoring.tournament.topology: {' or '.join(FITTING)}",
    ),
    Only(
        ("scoring.tournament.prior",),
        lambda c: (
            c.scoring.tournament.topology in FITTING
            or c.scoring.tournament.rewards in ("bradley_terry", "margin")
        ),
        ("scoring.name", "scoring.tournament.topology", "scoring.tournament.rewards"),
        f"scoring.tournament.topology: {' or '.join(FITTING)}, or scoring.tournament.rewards: "
        "bradley_terry or margin",
    ),
    Only(
        ("scoring.judge.repeats",),
        lambda c: c.scoring.name == "pointwise",
        ("scoring.name",),
        "scoring.name: pointwise",
    ),
    Only(
        tuple(
            f"scoring.judge.{n}"
            for n in ("noise", "drift", "position_bias", "scale", "failures", "latency_s")
        ),
        lambda c: c.scoring.judge.backend == "simulated",
        ("scoring.name", "scoring.judge.backend"),
        "scoring.judge.backend: simulated",
    ),
    Only(
        ("scoring.judge.position_bias",),
        lambda c: c.scoring.name != "pointwise",
        ("scoring.name",),
        "scoring.name: tournament",
    ),
    Only(
        ("scoring.judge.endpoint",),
        lambda c: c.scoring.judge.backend == "endpoint",
        ("scoring.name", "scoring.judge.backend"),
        "scoring.judge.backend: endpoint",
    ),
    Only(
        ("scoring.judge.model",),
        lambda c: c.scoring.judge.backend == "model",
        ("scoring.name", "scoring.judge.backend"),
        "scoring.judge.backend: model",
    ),
    Only(
        ("scoring.judge.function",),
        lambda c: c.scoring.judge.backend == "function",
        ("scoring.name", "scoring.judge.backend"),
        "scoring.judge.backend: function",
    ),
    Only(
        tuple(
            f"scoring.judge.{n}" for n in ("form", "rubric", "max_tokens", "temperature", "cache")
        ),
        lambda c: c.scoring.judge.asked,
        ("scoring.name", "scoring.judge.backend"),
        "scoring.judge.backend: endpoint, model or policy",
    ),
    Only(
        ("scoring.judge.cache",),
        lambda c: c.scoring.judge.backend != "policy",
        ("scoring.name", "scoring.judge.backend"),
        "scoring.judge.backend: endpoint or model: the policy answers anew after each step",
    ),
    Only(
        ("scoring.judge.window",),
        lambda c: c.scoring.judge.backend in ("model", "policy"),
        ("scoring.name", "scoring.judge.backend"),
        "scoring.judge.backend: model or policy",
    ),
    Only(
        ("scoring.judge.rubric",),
        lambda c: c.scoring.judge.form == "rubric",
        ("scoring.name", "scoring.judge.backend", "scoring.judge.form"),
        "scoring.judge.form: rubric",
    ),
    Only(
        ("league.learn",),
        lambda c: bool(c.league.opponents or c.league.eval_opponents),
        ("league.opponents", "league.eval_opponents"),
        "league.opponents or league.eval_opponents",
    ),
    Only(
        ("league.seats", "league.engines"),
        lambda c: bool(c.league.opponents or c.league.eval_opponents or c.league.rating_matches),
        ("league.opponents", "league.eval_opponents", "league.rating_matches"),
        "league.opponents, league.eval_opponents or league.rating_matches",
    ),
    Only(
        ("league.choice", "league.keep"),
        lambda c: "past" in c.league.opponents,
        ("league.opponents",),
        "past among league.opponents",
    ),
    Only(
        ("league.rating_matches",),
        lambda c: c.league.snapshot_every > 0,
        ("league.snapshot_every",),
        "league.snapshot_every above 0",
    ),
    Only(
        ("warm_start.expert", "warm_start.env_kwargs"),
        lambda c: c.warm_start.episodes > 0,
        ("warm_start.episodes", "warm_start.path"),
        "warm_start.episodes above 0",
    ),
    Only(
        (
            "warm_start.long",
            "warm_start.train_overlap",
            "warm_start.misfits",
            "warm_start.epochs",
            "warm_start.optimizer",
            "warm_start.lr",
            "warm_start.batch_segments",
        ),
        lambda c: c.warm_start.enabled,
        ("warm_start.episodes", "warm_start.path"),
        "warm_start.episodes above 0 or warm_start.path",
    ),
    Only(
        ("warm_start.train_overlap",),
        lambda c: (
            c.context.overlap > 0
            and c.context.strategy in REPEATING
            and c.policy.history != "template"
        ),
        ("context.overlap", "context.strategy", "policy.history"),
        f"context.overlap above 0, context.strategy: {' or '.join(REPEATING)}, and policy.history: "
        "keep",
    ),
    Only(
        ("algo.clip",),
        lambda c: c.algo.objective not in ("sapo", "vespo"),
        ("algo.objective",),
        "an objective with bounds",
    ),
    Only(
        ("algo.clip.dual", "algo.clip.ceiling"),
        lambda c: c.algo.objective == "clip",
        ("algo.objective",),
        "algo.objective: clip",
    ),
    *(
        Only(
            (f"algo.{name}",),
            lambda c, name=name: c.algo.objective == name,
            ("algo.objective",),
            f"algo.objective: {name}",
        )
        for name in ("sapo", "vespo")
    ),
    Only(
        ("algo.covariance.fraction",),
        lambda c: c.algo.covariance.method != "none",
        ("algo.covariance.method",),
        "algo.covariance.method: clip or kl",
    ),
    Only(
        ("algo.covariance.low", "algo.covariance.high"),
        lambda c: c.algo.covariance.method == "clip",
        ("algo.covariance.method",),
        "algo.covariance.method: clip",
    ),
    Only(
        ("algo.covariance.coef",),
        lambda c: c.algo.covariance.method == "kl",
        ("algo.covariance.method",),
        "algo.covariance.method: kl",
    ),
    Only(
        ("algo.kl.estimator", "algo.kl.reference"),
        lambda c: c.algo.kl.coef > 0,
        ("algo.kl.coef",),
        "algo.kl.coef above 0",
    ),
    Only(
        ("algo.kl.decay",),
        lambda c: c.algo.kl.coef > 0 and c.algo.kl.reference == "moving",
        ("algo.kl.coef", "algo.kl.reference"),
        "algo.kl.coef above 0 and algo.kl.reference: moving",
    ),
    Only(
        ("algo.entropy.delta", "algo.entropy.limit"),
        lambda c: c.algo.entropy.target > 0,
        ("algo.entropy.target",),
        "algo.entropy.target above 0",
    ),
    Only(
        ("algo.advantage.baseline", "algo.advantage.scale"),
        lambda c: not c.algo.advantage.rewards,
        ("algo.advantage.rewards",),
        "algo.advantage.rewards: {} (several rewards have their own normalisation)",
    ),
    Only(
        # Which kinds of turns get gradient at all is no matter of the objective.
        tuple(f"algo.credit.{name}" for name in ("trajectory", "turn", "grouping", "discount")),
        lambda c: c.algo.objective in ("clip", "gspo_token", "cispo", "sapo"),
        ("algo.objective",),
        "an objective of tokens (a sequence has one advantage): clip, gspo_token, cispo or sapo",
    ),
    Only(
        ("algo.advantage.baseline", "algo.advantage.rewards"),
        lambda c: c.algo.credit.trajectory > 0,
        ("algo.credit.trajectory",),
        "algo.credit.trajectory above 0",
    ),
    Only(
        ("algo.credit.summaries",),
        lambda c: c.context.strategy == "compact",
        ("context.strategy",),
        "context.strategy: compact",
    ),
    Only(
        ("algo.credit.sub_calls",),
        lambda c: c.context.strategy == "recursive",
        ("context.strategy",),
        "context.strategy: recursive",
    ),
    Only(
        ("algo.credit.grouping", "algo.credit.discount", "algo.shaping.potential"),
        lambda c: c.algo.credit.turn > 0,
        ("algo.credit.turn",),
        "algo.credit.turn above 0",
    ),
    Only(
        ("algo.length_constant",),
        lambda c: c.algo.aggregation == "constant",
        ("algo.aggregation",),
        "algo.aggregation: constant",
    ),
    Only(
        ("algo.correction.weight", "algo.correction.reject"),
        lambda c: c.algo.proximal == "recomputed",
        ("algo.proximal",),
        "algo.proximal: recomputed",
    ),
    Only(
        (
            "algo.correction.level",
            "algo.correction.low",
            "algo.correction.high",
            "algo.correction.normalise",
        ),
        lambda c: c.algo.correction.weight != "none",
        ("algo.correction.weight", "algo.proximal"),
        "algo.correction.weight: truncate or mask",
    ),
    Only(
        ("algo.correction.normalise",),
        lambda c: c.algo.objective != "vespo",
        ("algo.objective",),
        "another objective: VESPO's weight is made of ratios, not of their size in the batch",
    ),
    Only(
        ("algo.correction.reject_low", "algo.correction.reject_high"),
        lambda c: c.algo.correction.reject == "geometric",
        ("algo.correction.reject", "algo.proximal"),
        "algo.correction.reject: geometric",
    ),
    Only(
        ("algo.correction.reject_k3",),
        lambda c: c.algo.correction.reject == "k3",
        ("algo.correction.reject", "algo.proximal"),
        "algo.correction.reject: k3",
    ),
    Only(
        ("algo.sequence_unit",),
        lambda c: reads_sequences(c.algo),
        (
            "algo.objective",
            "algo.correction.level",
            "algo.correction.reject",
            "algo.correction.off_policy",
            "algo.correction.weight",
            "algo.proximal",
        ),
        "an objective or a correction of whole sequences",
    ),
    Only(
        (
            "algo.sampling.skip",
            "algo.sampling.retire",
            "algo.sampling.curriculum",
            "algo.sampling.group_sizes",
            "algo.sampling.replay",
        ),
        lambda c: c.env.train_tasks > 0,
        ("env.train_tasks",),
        "env.train_tasks above 0: tasks that come back have a history",
    ),
    Only(
        ("algo.sampling.replay",),
        lambda c: c.algo.proximal == "behaviour" or c.algo.correction.weight != "none",
        ("algo.proximal", "algo.correction.weight"),
        "algo.proximal: behaviour or an algo.correction.weight: older tokens need their own ratio",
    ),
    Only(
        ("algo.sampling.replay_window",),
        lambda c: c.algo.sampling.replay > 0,
        ("algo.sampling.replay", "env.train_tasks"),
        "algo.sampling.replay above 0",
    ),
    Only(
        ("algo.sampling.band",),
        lambda c: c.algo.sampling.filter == "band",
        ("algo.sampling.filter",),
        "algo.sampling.filter: band",
    ),
    Only(
        ("algo.sampling.max_refills",),
        lambda c: c.algo.sampling.filter != "none",
        ("algo.sampling.filter",),
        "algo.sampling.filter: zero_variance or band",
    ),
    Only(
        ("algo.shaping.overlong.cache", "algo.shaping.overlong.factor"),
        lambda c: c.algo.shaping.overlong.limit > 0,
        ("algo.shaping.overlong.limit",),
        "algo.shaping.overlong.limit above 0",
    ),
    Only(
        tuple(f"algo.shaping.cosine.{n}" for n in ("threshold", "correct", "wrong", "exceeded")),
        lambda c: c.algo.shaping.cosine.limit > 0,
        ("algo.shaping.cosine.limit",),
        "algo.shaping.cosine.limit above 0",
    ),
    Only(
        ("algo.shaping.repetition.ngram",),
        lambda c: c.algo.shaping.repetition.penalty > 0,
        ("algo.shaping.repetition.penalty",),
        "algo.shaping.repetition.penalty above 0",
    ),
    Only(
        ("algo.shaping.format.penalty",),
        lambda c: bool(c.algo.shaping.format.pattern),
        ("algo.shaping.format.pattern",),
        "algo.shaping.format.pattern",
    ),
    Only(
        ("eval.every", "eval.greedy", "eval.temperature"),
        lambda c: c.eval.episodes > 0,
        ("eval.episodes",),
        "eval.episodes above 0",
    ),
    Only(
        ("telemetry.trajectories", "telemetry.figures_every"),
        lambda c: c.telemetry.tensorboard,
        ("telemetry.tensorboard",),
        "telemetry.tensorboard: true",
    ),
)
