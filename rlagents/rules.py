"""What a whole configuration must satisfy, beyond what each section checks by itself.

A setting that the chosen engine, algorithm or learner would ignore is an error. The one exception:
an override that switches something off makes the file's settings for it moot, silently, because
the same file must run with `rollout.executor=local`. Moot settings go back to their defaults and
are left out of the resolved configuration, so that it says what applies.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rlagents.algos.configs import require
from rlagents.config import JudgeSection, RunConfig, find_endpoint
from rlagents.errors import ConfigError
from rlagents.moot import TABLE, Only
from rlagents.stages import check_recursive, check_stages

FILE, OVERRIDE = 1, 2
"""Where a setting was given. A default is 0."""
_JUDGE = "scoring.judge"


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
    for rule in TABLE:
        if not rule.active(config):
            level = _switched_at(rule, switched)
            _refuse_ignored(config, rule, given, level)
            config = _reset(config, rule.keys)
            switched |= dict.fromkeys(rule.keys, level)
    config = _with_panel_checked(config, switched)
    _check_sizes(config)
    _check_endpoints(config)
    check_stages(config, moot(config))
    if config.scoring.judged:
        _check_judges(config)
    if training:
        _check_training(config)
    return config


def moot(config: RunConfig) -> frozenset[str]:
    """Full keys of the settings and sections that have no effect in this configuration."""
    return frozenset(key for rule in TABLE if not rule.active(config) for key in rule.keys)


def differing(config: RunConfig) -> list[str]:
    """Full keys of the settings that are not at their defaults."""
    return [key for key, value, default in _settings(config, "") if value != default]


def _switched_at(rule: Only, given: Mapping[str, int]) -> int:
    """Who said what makes a rule inactive; another preset may be another algorithm."""
    preset = ("algo.name",) * any(key.startswith("algo.") for key in rule.selectors)
    read = rule.selectors + preset
    levels = [
        level for k, level in given.items() if any((key + ".").startswith(k + ".") for key in read)
    ]
    return max(levels, default=0)


def _refuse_ignored(
    config: RunConfig, rule: Only, given: Mapping[str, int], switched_at: int
) -> None:
    for key, level in given.items():
        if level >= switched_at and any(key == k or key.startswith(k + ".") for k in rule.keys):
            raise ConfigError(
                f"{key}: got {_get(config, key)!r}, which would be ignored; it needs {rule.need}"
            )


def _with_panel_checked(config: RunConfig, given: Mapping[str, int]) -> RunConfig:
    """As `check` does it with the table: its rows of `scoring.judge`, for each of the panel.

    What an entry gives is known by its difference from the defaults.
    """
    level = given.get("scoring.panel", FILE)
    given = {k: v for k, v in given.items() if not k.startswith(_JUDGE)} | {_JUDGE: level}
    panel = list(config.scoring.panel)
    for number, (place, _) in enumerate(config.scoring.keyed_judges[1:]):
        for rule in TABLE:
            keys = [key for key in rule.keys if key.startswith(_JUDGE + ".")]
            names = [key.removeprefix(_JUDGE + ".") for key in keys]
            alone = dataclasses.replace(config.scoring, judge=panel[number])
            if not names or rule.active(dataclasses.replace(config, scoring=alone)):
                continue
            for name, value, default in _settings(panel[number], ""):
                if name in names and value != default and level >= _switched_at(rule, given):
                    need = rule.need.replace(_JUDGE, place)
                    raise ConfigError(
                        f"{place}.{name}: got {value!r}, which would be ignored; it needs {need}"
                    )
            panel[number] = _reset(panel[number], names)
    scoring = dataclasses.replace(config.scoring, panel=tuple(panel))
    return dataclasses.replace(config, scoring=scoring)


def _check_endpoints(config: RunConfig) -> None:
    names: set[str] = set()
    for number, endpoint in enumerate(config.endpoints):
        key = f"endpoints[{number}].name"
        require(endpoint.name not in names, key, endpoint.name, "a name of its own")
        names.add(endpoint.name)


def _check_sizes(config: RunConfig) -> None:
    window, rollout, algo = config.context.window, config.rollout, config.algo
    require(
        config.policy.max_tokens < window,
        "policy.max_tokens",
        config.policy.max_tokens,
        f"less than context.window ({window})",
    )
    context = config.context
    require(
        config.policy.history == "keep" or context.strategy in ("pinned_window", "full"),
        "policy.history",
        config.policy.history,
        f"keep with context.strategy: {context.strategy}",
    )
    room = window - config.policy.max_tokens
    require(
        context.strategy != "compact" or context.compact.tokens < room,
        "context.compact.tokens",
        context.compact.tokens,
        f"less than context.window - policy.max_tokens ({room})",
    )
    require(
        context.strategy != "notes" or context.memory.tokens < room,
        "context.memory.tokens",
        context.memory.tokens,
        f"less than context.window - policy.max_tokens ({room}): the notes are always shown",
    )
    check_recursive(context, config.policy.max_tokens, "context.window")
    require(
        context.max_observation < room,
        "context.max_observation",
        context.max_observation,
        f"less than context.window - policy.max_tokens ({room})",
    )
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
    full = rollout.whole_cache(context, config.league.conversations)
    levels = " x (1 + context.recursive.depth)" if context.strategy == "recursive" else ""
    levels += " x league.seats" if config.league.conversations > 1 else ""
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
        f"0, or rollout.concurrency x context.window{levels} ({full}) or more with "
        "rollout.deterministic: a cache that overflows rebuilds conversations at moments that "
        "timing decides",
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


def _check_judges(config: RunConfig) -> None:
    """Each judge has who answers; nothing waits for a score that only compares members to rise."""
    scoring = config.scoring
    for key, judge in scoring.keyed_judges:
        for name in ("function", "model"):
            require(
                judge.backend != name or bool(getattr(judge, name)),
                f"{key}.{name}",
                getattr(judge, name),
                f"a value with backend: {name}",
            )
        require(
            not judge.asked or judge.form == "rubric" or scoring.name == "tournament",
            f"{key}.form",
            judge.form,
            "rubric with scoring.name: pointwise: the other forms compare two",
        )
        if judge.backend == "endpoint":
            find_endpoint(config.endpoints, judge.endpoint, f"{key}.endpoint")
        require(
            not judge.asked or judge.repeats == 1 or judge.temperature > 0,
            f"{key}.repeats",
            judge.repeats,
            f"1, or {key}.temperature above 0: at 0 the same question has the same answer",
        )
        require(
            judge.call_timeout_s <= max(scoring.timeout_s, JudgeSection().call_timeout_s),
            f"{key}.call_timeout_s",
            judge.call_timeout_s,
            f"at most scoring.timeout_s ({scoring.timeout_s:g}), which a group has for all calls",
        )
    sampling = config.algo.sampling
    for key, off in (
        ("schedule.advance", config.schedule.advance != "plateau"),
        ("algo.sampling.filter", sampling.filter != "band"),
        ("algo.sampling.retire", sampling.retire == 0),
        ("algo.sampling.replay", sampling.replay == 0),
    ):
        require(
            off or scoring.name != "tournament",
            key,
            _get(config, key),
            "its default with scoring.name: tournament, whose scores have the same mean in every "
            "group",
        )


def _check_training(config: RunConfig) -> None:
    rollout, algo = config.rollout, config.algo
    budgets = [f"rollout.budget_{name}" for name in ("turns", "tokens", "seconds")]
    key = next((key for key in budgets if _get(config, key)), budgets[0])
    require(
        not rollout.partial
        or algo.proximal == "behaviour"
        or algo.correction.weight != "none"
        or config.train.iterations == 0,
        key,
        _get(config, key),
        "no budget, or algo.proximal: behaviour or an algo.correction.weight: a trajectory that "
        "was paused has tokens of older weights, which need their own ratio",
    )
    require(
        not rollout.partial or not config.league.plays,
        key,
        _get(config, key),
        "no budget with league.opponents: a game that was paused could not be played again from "
        "its record, since the others would answer with other weights",
    )
    sampling = algo.sampling
    remembering = {
        "skip": sampling.skip > 0,
        "retire": sampling.retire > 0,
        "curriculum": sampling.curriculum != "none",
        "group_sizes": sampling.group_sizes is not None,
        "replay": sampling.replay > 0,
    }
    for name, on in remembering.items():
        require(
            not on or not config.league.plays,
            f"algo.sampling.{name}",
            getattr(sampling, name),
            "its default with league.opponents: what is known of a task does not hold for another "
            "seat or opponent",
        )
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
