"""What a whole configuration must satisfy, beyond what each section checks by itself.

A setting that the chosen engine, algorithm or learner would ignore is an error. The one exception:
an override that switches something off makes the file's settings for it moot, silently, because
the same file must run with `rollout.executor=local`. Moot settings go back to their defaults and
are left out of the resolved configuration, so that it says what applies.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rlagents.algos.configs import SEQUENCE_OBJECTIVES, AlgoConfig, require
from rlagents.config import RunConfig
from rlagents.errors import ConfigError

FILE, OVERRIDE = 1, 2
"""Where a setting was given. A default is 0."""


@dataclass(frozen=True, slots=True)
class _Only:
    """Settings that count only while something else is so."""

    keys: tuple[str, ...]
    """Full keys of settings or of whole sections."""
    active: Callable[[RunConfig], bool]
    selectors: tuple[str, ...]
    """The keys that `active` reads."""
    need: str
    """What would make them count."""


_RULES = (
    _Only(
        ("policy.tiny",),
        lambda c: c.policy.model == "tiny",
        ("policy.model",),
        "policy.model: tiny",
    ),
    _Only(
        ("policy.fp32_head",),
        lambda c: c.learner.dtype == "bfloat16",
        ("learner.dtype",),
        "learner.dtype: bfloat16",
    ),
    _Only(
        ("context.pinned_turns", "context.overlap"),
        lambda c: c.context.strategy == "pinned_window",
        ("context.strategy",),
        "context.strategy: pinned_window",
    ),
    _Only(
        ("rollout.workers",),
        lambda c: c.rollout.executor == "ray" or c.rollout.workers == 1,
        ("rollout.executor",),
        "rollout.executor: ray",
    ),
    _Only(
        ("rollout.ray_address", "rollout.gpus_per_worker"),
        lambda c: c.rollout.executor == "ray",
        ("rollout.executor",),
        "rollout.executor: ray",
    ),
    _Only(
        ("warm_start.expert", "warm_start.env_kwargs"),
        lambda c: c.warm_start.episodes > 0,
        ("warm_start.episodes", "warm_start.path"),
        "warm_start.episodes above 0",
    ),
    _Only(
        ("warm_start.epochs", "warm_start.optimizer", "warm_start.lr", "warm_start.batch_segments"),
        lambda c: c.warm_start.enabled,
        ("warm_start.episodes", "warm_start.path"),
        "warm_start.episodes above 0 or warm_start.path",
    ),
    _Only(
        ("algo.clip",),
        lambda c: c.algo.objective not in ("sapo", "vespo"),
        ("algo.objective",),
        "an objective with bounds",
    ),
    _Only(
        ("algo.clip.dual", "algo.clip.ceiling"),
        lambda c: c.algo.objective == "clip",
        ("algo.objective",),
        "algo.objective: clip",
    ),
    *(
        _Only(
            (f"algo.{name}",),
            lambda c, name=name: c.algo.objective == name,
            ("algo.objective",),
            f"algo.objective: {name}",
        )
        for name in ("sapo", "vespo")
    ),
    _Only(
        ("algo.covariance.fraction",),
        lambda c: c.algo.covariance.method != "none",
        ("algo.covariance.method",),
        "algo.covariance.method: clip or kl",
    ),
    _Only(
        ("algo.covariance.low", "algo.covariance.high"),
        lambda c: c.algo.covariance.method == "clip",
        ("algo.covariance.method",),
        "algo.covariance.method: clip",
    ),
    _Only(
        ("algo.covariance.coef",),
        lambda c: c.algo.covariance.method == "kl",
        ("algo.covariance.method",),
        "algo.covariance.method: kl",
    ),
    _Only(
        ("algo.kl.estimator", "algo.kl.reference"),
        lambda c: c.algo.kl.coef > 0,
        ("algo.kl.coef",),
        "algo.kl.coef above 0",
    ),
    _Only(
        ("algo.kl.decay",),
        lambda c: c.algo.kl.coef > 0 and c.algo.kl.reference == "moving",
        ("algo.kl.coef", "algo.kl.reference"),
        "algo.kl.coef above 0 and algo.kl.reference: moving",
    ),
    _Only(
        ("algo.entropy.delta", "algo.entropy.limit"),
        lambda c: c.algo.entropy.target > 0,
        ("algo.entropy.target",),
        "algo.entropy.target above 0",
    ),
    _Only(
        ("algo.advantage.baseline", "algo.advantage.scale"),
        lambda c: not c.algo.advantage.rewards,
        ("algo.advantage.rewards",),
        "algo.advantage.rewards: {} (several rewards have their own normalisation)",
    ),
    _Only(
        ("algo.credit.turn",),
        lambda c: c.algo.objective in ("clip", "gspo_token", "cispo", "sapo"),
        ("algo.objective",),
        "an objective of tokens (a sequence has one advantage): clip, gspo_token, cispo or sapo",
    ),
    _Only(
        ("algo.advantage.baseline", "algo.advantage.rewards"),
        lambda c: c.algo.credit.trajectory > 0,
        ("algo.credit.trajectory",),
        "algo.credit.trajectory above 0",
    ),
    _Only(
        ("algo.credit.grouping", "algo.credit.discount", "algo.shaping.potential"),
        lambda c: c.algo.credit.turn > 0,
        ("algo.credit.turn",),
        "algo.credit.turn above 0",
    ),
    _Only(
        ("algo.length_constant",),
        lambda c: c.algo.aggregation == "constant",
        ("algo.aggregation",),
        "algo.aggregation: constant",
    ),
    _Only(
        ("algo.correction.weight", "algo.correction.reject"),
        lambda c: c.algo.proximal == "recomputed",
        ("algo.proximal",),
        "algo.proximal: recomputed",
    ),
    _Only(
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
    _Only(
        ("algo.correction.normalise",),
        lambda c: c.algo.objective != "vespo",
        ("algo.objective",),
        "another objective: VESPO's weight is made of ratios, not of their size in the batch",
    ),
    _Only(
        ("algo.correction.reject_low", "algo.correction.reject_high"),
        lambda c: c.algo.correction.reject == "geometric",
        ("algo.correction.reject", "algo.proximal"),
        "algo.correction.reject: geometric",
    ),
    _Only(
        ("algo.correction.reject_k3",),
        lambda c: c.algo.correction.reject == "k3",
        ("algo.correction.reject", "algo.proximal"),
        "algo.correction.reject: k3",
    ),
    _Only(
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
    _Only(
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
    _Only(
        ("algo.sampling.replay",),
        lambda c: c.algo.proximal == "behaviour" or c.algo.correction.weight != "none",
        ("algo.proximal", "algo.correction.weight"),
        "algo.proximal: behaviour or an algo.correction.weight: older tokens need their own ratio",
    ),
    _Only(
        ("algo.sampling.replay_window",),
        lambda c: c.algo.sampling.replay > 0,
        ("algo.sampling.replay", "env.train_tasks"),
        "algo.sampling.replay above 0",
    ),
    _Only(
        ("algo.sampling.band",),
        lambda c: c.algo.sampling.filter == "band",
        ("algo.sampling.filter",),
        "algo.sampling.filter: band",
    ),
    _Only(
        ("algo.sampling.max_refills",),
        lambda c: c.algo.sampling.filter != "none",
        ("algo.sampling.filter",),
        "algo.sampling.filter: zero_variance or band",
    ),
    _Only(
        ("algo.shaping.overlong.cache", "algo.shaping.overlong.factor"),
        lambda c: c.algo.shaping.overlong.limit > 0,
        ("algo.shaping.overlong.limit",),
        "algo.shaping.overlong.limit above 0",
    ),
    _Only(
        tuple(f"algo.shaping.cosine.{n}" for n in ("threshold", "correct", "wrong", "exceeded")),
        lambda c: c.algo.shaping.cosine.limit > 0,
        ("algo.shaping.cosine.limit",),
        "algo.shaping.cosine.limit above 0",
    ),
    _Only(
        ("algo.shaping.repetition.ngram",),
        lambda c: c.algo.shaping.repetition.penalty > 0,
        ("algo.shaping.repetition.penalty",),
        "algo.shaping.repetition.penalty above 0",
    ),
    _Only(
        ("algo.shaping.format.penalty",),
        lambda c: bool(c.algo.shaping.format.pattern),
        ("algo.shaping.format.pattern",),
        "algo.shaping.format.pattern",
    ),
    _Only(
        ("eval.every", "eval.greedy", "eval.temperature"),
        lambda c: c.eval.episodes > 0,
        ("eval.episodes",),
        "eval.episodes above 0",
    ),
    _Only(
        ("telemetry.trajectories",),
        lambda c: c.telemetry.tensorboard,
        ("telemetry.tensorboard",),
        "telemetry.tensorboard: true",
    ),
)


def check(
    config: RunConfig, given: Mapping[str, int] | None = None, *, training: bool = True
) -> RunConfig:
    """The same configuration with moot settings reset, or the first contradiction in it.

    Args:
        config: as built from its sections.
        given: full key -> `FILE` or `OVERRIDE` for each setting that somebody wrote. Without it,
            what differs from the defaults counts as written in the file.
        training: also check what only training needs.

    Raises:
        ConfigError: one line with the full key.
    """
    given = dict.fromkeys(differing(config), FILE) if given is None else given
    switched = dict(given)  # and by the rules: what is moot switches off what depends on it
    for rule in _RULES:
        if not rule.active(config):
            level = _switched_at(rule, switched)
            _refuse_ignored(config, rule, given, level)
            config = _reset(config, rule.keys)
            switched |= dict.fromkeys(rule.keys, level)
    _check_sizes(config)
    if training:
        _check_training(config)
    return config


def reads_sequences(algo: AlgoConfig) -> bool:
    """Whether any objective or correction looks at whole sequences."""
    correction = algo.correction
    return (
        algo.objective in SEQUENCE_OBJECTIVES
        or (correction.weight != "none" and correction.level == "sequence")
        or correction.reject != "none"
        or correction.off_policy > 0
    )


def moot(config: RunConfig) -> frozenset[str]:
    """Full keys of the settings and sections that have no effect in this configuration."""
    return frozenset(key for rule in _RULES if not rule.active(config) for key in rule.keys)


def differing(config: RunConfig) -> list[str]:
    """Full keys of the settings that are not at their defaults."""
    return [key for key, value, default in _settings(config, "") if value != default]


def _switched_at(rule: _Only, given: Mapping[str, int]) -> int:
    """Who said what makes a rule inactive; another preset may be another algorithm."""
    preset = ("algo.name",) * any(key.startswith("algo.") for key in rule.selectors)
    return max(given.get(key, 0) for key in rule.selectors + preset)


def _refuse_ignored(
    config: RunConfig, rule: _Only, given: Mapping[str, int], switched_at: int
) -> None:
    for key, level in given.items():
        if level >= switched_at and any(key == k or key.startswith(k + ".") for k in rule.keys):
            raise ConfigError(
                f"{key}: got {_get(config, key)!r}, which would be ignored; it needs {rule.need}"
            )


def _check_sizes(config: RunConfig) -> None:
    window, rollout, algo = config.context.window, config.rollout, config.algo
    require(
        config.policy.max_tokens < window,
        "policy.max_tokens",
        config.policy.max_tokens,
        f"less than context.window ({window})",
    )
    room = window - config.policy.max_tokens
    require(
        config.context.overlap < room,
        "context.overlap",
        config.context.overlap,
        f"less than context.window - policy.max_tokens ({room})",
    )
    require(
        config.learner.row_tokens == 0 or config.learner.row_tokens >= window,
        "learner.row_tokens",
        config.learner.row_tokens,
        f"0, or context.window ({window}) or more",
    )
    cache = rollout.cache_tokens
    full = rollout.concurrency * window
    require(
        cache == 0 or cache >= window,
        "rollout.cache_tokens",
        cache,
        f"0, or context.window ({window}) or more",
    )
    require(
        not rollout.deterministic or cache == 0 or cache >= full,
        "rollout.cache_tokens",
        cache,
        f"0, or rollout.concurrency x context.window ({full}) or more with rollout.deterministic: "
        "a cache that overflows rebuilds conversations at moments that timing decides",
    )
    require(
        algo.updates <= rollout.groups,
        "algo.updates",
        algo.updates,
        f"at most rollout.groups ({rollout.groups}): an update needs a group",
    )
    sizes, size = algo.sampling.group_sizes, rollout.group_size
    require(
        sizes is None or sizes[0] <= size <= sizes[1],
        "algo.sampling.group_sizes",
        sizes,
        f"a range that rollout.group_size ({size}), the mean, lies in",
    )
    require(
        algo.objective != "luspo"
        or (algo.aggregation == "sequence_mean" and algo.sequence_unit == "trajectory"),
        "algo.objective",
        algo.objective,
        "another one, or algo.aggregation: sequence_mean and algo.sequence_unit: trajectory, "
        "by which LUSPO's factor is the length",
    )
    overlong = algo.shaping.overlong
    ramp = overlong.limit - overlong.cache
    require(
        overlong.limit == 0 or ramp < rollout.max_tokens,
        "algo.shaping.overlong.limit",
        overlong.limit,
        f"a ramp (limit - cache = {ramp}) that begins below rollout.max_tokens "
        f"({rollout.max_tokens}), or it would be ignored",
    )


def _check_training(config: RunConfig) -> None:
    require(
        config.policy.top_p == 1 or config.train.iterations == 0,
        "policy.top_p",
        config.policy.top_p,
        "1 for training: trained rollouts need the full distribution",
    )


def _settings(section: Any, prefix: str) -> Iterator[tuple[str, Any, Any]]:
    default = type(section)()
    for field in dataclasses.fields(section):
        value, key = getattr(section, field.name), prefix + field.name
        if dataclasses.is_dataclass(value):
            yield from _settings(value, key + ".")
        else:
            yield key, value, getattr(default, field.name)


def _get(config: Any, key: str) -> Any:
    for name in key.split("."):
        config = getattr(config, name)
    return config


def _reset(section: Any, keys: Sequence[str]) -> Any:
    """The section with all of these keys at their defaults, at once: they may bound each other."""
    inner: dict[str, list[str]] = {}
    for key in keys:
        name, _, rest = key.partition(".")
        inner.setdefault(name, []).append(rest)
    default = type(section)()
    changes = {
        name: getattr(default, name) if "" in rests else _reset(getattr(section, name), rests)
        for name, rests in inner.items()
    }
    return dataclasses.replace(section, **changes)
