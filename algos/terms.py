"""From a configuration to the columns and the loss terms of tokens. Legend: n trained tokens.

    once an iteration      columns(config)        log-probabilities under the weights of its start
    before each step       step_columns(config)   the same under the weights as they are, and
                           derive(...)            what needs other tokens: statistics of a sequence,
                                                  of the batch, and the weight of each token
    per micro-batch        loss_terms(...)        reads its own tokens only

What looks beyond a token is in `derive`, which sees the whole batch, so the gradient does not
depend on how the batch is split. Statistics carry no gradient: at the weights they were computed
with, the straight-through factors of `objectives` make it that of the objective as published.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from rlagents.algos import corrections, objectives, selection
from rlagents.algos.configs import SEQUENCE_OBJECTIVES, AlgoConfig
from rlagents.algos.divergences import divergence
from rlagents.algos.units import unit_lengths, unit_means, unit_sums

BEHAVIOUR, PROXIMAL, REFERENCE = "behaviour_logprobs", "proximal_logprobs", "reference_logprobs"
CURRENT, ENTROPIES = "current_logprobs", "current_entropies"


def proximal_name(config: AlgoConfig) -> str:
    """The column of the policy that ratios are taken to."""
    return PROXIMAL if config.proximal == "recomputed" else BEHAVIOUR


def columns(config: AlgoConfig) -> tuple[str, ...]:
    """What the learner computes once, before the first step of an iteration."""
    proximal = (PROXIMAL,) if config.proximal == "recomputed" else ()
    return proximal + ((REFERENCE,) if config.kl.coef > 0 else ())


def step_columns(config: AlgoConfig) -> tuple[str, ...]:
    """What the learner computes before each step."""
    current = (
        config.objective in SEQUENCE_OBJECTIVES
        or config.covariance.method != "none"
        or config.correction.off_policy > 0
    )
    return (CURRENT,) * current + (ENTROPIES,) * (config.entropy.top < 1)


def derives(config: AlgoConfig) -> bool:
    """Whether `derive` has anything to say."""
    corrected = config.correction.weight != "none" or config.correction.reject != "none"
    return corrected or bool(step_columns(config))


def derive(
    config: AlgoConfig, batch: Mapping[str, Tensor], generator: torch.Generator
) -> dict[str, Tensor]:
    """Columns [n] of statistics over sequences and over the batch.

    Args:
        batch: [n] tensors of all trained tokens: the columns of `columns` and `step_columns`,
            `behaviour_logprobs`, `advantages`, `segment_labels`, `sequence_labels`.
        generator: draws the tokens of Clip-Cov.
    """
    units = batch["segment_labels" if config.sequence_unit == "segment" else "sequence_labels"]
    advantages, proximal = batch["advantages"], batch[proximal_name(config)]
    weights, found = torch.ones_like(advantages), dict[str, Tensor]()
    ratio = objectives.log_ratio(batch[CURRENT], proximal) if CURRENT in batch else None
    importance = _importance(config, batch, units)
    if config.objective in SEQUENCE_OBJECTIVES:
        assert ratio is not None
        found |= _sequence_columns(config, ratio, advantages, units, importance)
    if importance is not None and config.objective != "vespo":  # VESPO has it in its own weight
        weights = weights * importance
    if config.entropy.top < 1:  # the bonus, too, acts on these alone
        found["top_entropy"] = selection.top_entropy(batch[ENTROPIES], config.entropy.top)
        weights = weights * found["top_entropy"]
    for keep in _kept(config, batch, units):
        weights = weights * keep
    if config.covariance.method == "clip":
        weights = weights * _clip_cov(config, {**batch, **found}, generator)
    found["token_weights"] = weights
    if config.covariance.method == "kl":
        chosen = selection.kl_cov(
            selection.covariances(batch[CURRENT], advantages), fraction=config.covariance.fraction
        )
        found["penalised"] = chosen.to(advantages.dtype)
    return found


def loss_terms(
    config: AlgoConfig,
    entropy_coef: float,
    policy: Tensor,
    entropies: Tensor,
    batch: Mapping[str, Tensor],
) -> tuple[Tensor, dict[str, Tensor]]:
    """Terms to be minimised, and what to report, all [n].

    Args:
        entropy_coef: weight of the entropy bonus now.
        policy: [n] log-probabilities under the policy that is trained.
        entropies: [n] in nats; with gradient where `entropy_coef` is not 0.
        batch: [n] columns, those of `derive` among them.
    """
    advantages = batch.get("unit_advantages", batch["advantages"])
    ratio = objectives.log_ratio(policy, batch[proximal_name(config)])
    terms = _objective(config, policy, ratio, advantages, batch)
    low, high = _bounded(config, ratio.detach(), advantages, batch)
    stats = {"clip_frac_low": low.to(terms.dtype), "clip_frac_high": high.to(terms.dtype)}
    if "token_weights" in batch:
        terms = terms * batch["token_weights"]
        stats["token_weight"] = batch["token_weights"]
    if config.covariance.method == "kl":
        terms = terms + config.covariance.coef * batch["penalised"] * ratio.abs()
    if config.kl.coef > 0:
        distance = divergence(policy, batch[REFERENCE], config.kl.estimator, ratio)
        terms = terms + config.kl.coef * distance
        stats["kl_reference"] = distance.detach()
    if entropy_coef != 0:
        terms = terms - entropy_coef * entropies * batch.get("top_entropy", 1.0)
    away = objectives.log_ratio(policy.detach(), batch[BEHAVIOUR])
    stats |= {"ratio_mean": ratio.detach().exp(), "kl_behaviour": away.exp() - 1 - away}
    return terms, stats


def _objective(
    config: AlgoConfig,
    policy: Tensor,
    ratio: Tensor,
    advantages: Tensor,
    batch: Mapping[str, Tensor],
) -> Tensor:
    """The terms [n] of `config.objective`."""
    clip = config.clip
    bounds = {"low": clip.low, "high": clip.high}
    match config.objective:
        case "clip":
            extra = {"dual": clip.dual, "ceiling": clip.ceiling}
            return objectives.clipped(ratio, advantages, **bounds, **extra)
        case "gspo" | "gspo_token":
            return objectives.gspo(ratio, batch["unit_log_ratio"], advantages, **bounds)
        case "luspo":
            terms = objectives.gspo(ratio, batch["unit_log_ratio"], advantages, **bounds)
            return terms * batch["unit_lengths"]
        case "gmpo":
            return objectives.gmpo(ratio, batch["unit_log_ratio"], advantages, **bounds)
        case "cispo":
            return objectives.cispo(policy, ratio, advantages, **bounds)
        case "sapo":
            gate = {"positive": config.sapo.positive, "negative": config.sapo.negative}
            return objectives.sapo(ratio, advantages, **gate)
        case "vespo":
            return objectives.vespo(policy, batch["vespo_weight"], advantages)


def _bounded(
    config: AlgoConfig, ratio: Tensor, advantages: Tensor, batch: Mapping[str, Tensor]
) -> tuple[Tensor, Tensor]:
    """[n] where the lower and where the upper bound acts: stops a gradient, or caps a weight."""
    low, high = config.clip.low, config.clip.high
    match config.objective:
        case "clip":
            return objectives.clip_indicators(ratio, advantages, low=low, high=high)
        case "gspo" | "gspo_token" | "luspo":
            whole = batch["unit_log_ratio"]
            return objectives.clip_indicators(whole, advantages, low=low, high=high)
        case "gmpo":
            return (ratio < -low) & (advantages < 0), (ratio > high) & (advantages > 0)
        case "cispo":
            return ratio.exp() < 1 - low, ratio.exp() > 1 + high
        case "sapo" | "vespo":
            return torch.zeros_like(ratio), torch.zeros_like(ratio)


def _sequence_columns(
    config: AlgoConfig,
    ratio: Tensor,
    advantages: Tensor,
    units: Tensor,
    importance: Tensor | None,
) -> dict[str, Tensor]:
    """What a sequence-level objective reads of its sequence."""
    if config.objective == "gspo_token":
        return {"unit_log_ratio": unit_means(ratio, units)}
    shared = unit_means(advantages, units)
    found = {"unit_advantages": shared}
    if config.objective == "vespo":
        total = unit_sums(ratio, units)
        if importance is not None:
            floor = objectives.VESPO_FLOOR
            # A sequence-level weight is the same on each token: it counts once.
            once = importance.log().clamp(floor, objectives.LOG_RATIO_LIMIT)
            token = config.correction.level == "token"
            total = total + (unit_sums(once, units) if token else once)
        v = config.vespo
        found["vespo_weight"] = objectives.vespo_weight(
            total,
            shared,
            k_positive=v.k_positive,
            lambda_positive=v.lambda_positive,
            k_negative=v.k_negative,
            lambda_negative=v.lambda_negative,
        )
        return found
    if config.objective == "gmpo":
        ratio = objectives.gmpo_log_ratio(ratio, shared, low=config.clip.low, high=config.clip.high)
    found["unit_log_ratio"] = unit_means(ratio, units)
    if config.objective == "luspo":
        found["unit_lengths"] = unit_lengths(units)
    return found


def _importance(config: AlgoConfig, batch: Mapping[str, Tensor], units: Tensor) -> Tensor | None:
    """[n] weight of each token for the sampler's mismatch."""
    correction = config.correction
    if correction.weight == "none":
        return None
    weights = corrections.importance_weights(
        batch[PROXIMAL],
        batch[BEHAVIOUR],
        units,
        weight=correction.weight,
        level=correction.level,
        low=correction.low,
        high=correction.high,
    )
    return corrections.normalised(weights) if correction.normalise else weights


def _kept(config: AlgoConfig, batch: Mapping[str, Tensor], units: Tensor) -> list[Tensor]:
    """[n] masks of every rule that drops whole sequences."""
    correction, advantages = config.correction, batch["advantages"]
    kept: list[Tensor] = []
    if correction.reject == "geometric":
        bounds = {"low": correction.reject_low, "high": correction.reject_high}
        kept.append(corrections.keep_geometric(batch[PROXIMAL], batch[BEHAVIOUR], units, **bounds))
    if correction.reject == "k3":
        limit = correction.reject_k3
        kept.append(corrections.keep_k3(batch[PROXIMAL], batch[BEHAVIOUR], units, limit=limit))
    if correction.off_policy > 0:
        kept.append(
            corrections.keep_near_policy(
                batch[BEHAVIOUR], batch[CURRENT], advantages, units, limit=correction.off_policy
            )
        )
    return kept


def _clip_cov(
    config: AlgoConfig, batch: Mapping[str, Tensor], generator: torch.Generator
) -> Tensor:
    """[n] tokens that keep their gradient; those without one anyway are not drawn, as in verl."""
    covariances = selection.covariances(batch[CURRENT], batch["advantages"])
    if config.objective != "cispo":  # whose bound caps a weight and stops nothing
        ratio = objectives.log_ratio(batch[CURRENT], batch[proximal_name(config)])
        advantages = batch.get("unit_advantages", batch["advantages"])
        low, high = _bounded(config, ratio, advantages, batch)
        covariances = covariances.masked_fill((low > 0) | (high > 0), -torch.inf)
    cov = config.covariance
    return selection.clip_cov(
        covariances, fraction=cov.fraction, low=cov.low, high=cov.high, generator=generator
    )
