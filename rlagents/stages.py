"""Progressive RL: what holds while a stage of `schedule.stages` lasts.

`algos.schedules` says which stage it is, this module what that means. Training takes a stage's
changes of the environment, limits and window; evaluations always have the run's own.
"""

from __future__ import annotations

from collections.abc import Mapping, Set
from dataclasses import dataclass, replace
from typing import Any

from rlagents.algos.configs import require
from rlagents.algos.schedules import Plateau, ScheduleState, advance
from rlagents.config import ContextSection, RunConfig, StageSection
from rlagents.errors import ConfigError

_INSTEAD = {
    "max_turns": "rollout.max_turns",
    "max_tokens": "rollout.max_tokens",
    "max_seconds": "rollout.max_seconds",
    "window": "context.window",
    "overlap": "context.overlap",
}
"""Setting of a stage -> the run's setting that it replaces."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """One stage, with everything that it leaves as it is filled in from the run."""

    number: int
    env_kwargs: Mapping[str, Any]
    """Changes of `env.kwargs` for training tasks."""
    max_turns: int
    max_tokens: int
    max_seconds: float
    context: ContextSection


def stage_of(config: RunConfig, number: int) -> Stage:
    """A stage of the schedule; a run without one has the stage 0, which is the run's own settings.

    Raises:
        ValueError: when there is no such stage.
    """
    stages = config.schedule.stages or (StageSection(),)
    if not 0 <= number < len(stages):
        raise ValueError(f"stage: expected one of {len(stages)}, got number {number}")
    section, rollout, context = stages[number], config.rollout, config.context
    return Stage(
        number=number,
        env_kwargs=section.env_kwargs,
        max_turns=_or(section.max_turns, rollout.max_turns),
        max_tokens=_or(section.max_tokens, rollout.max_tokens),
        max_seconds=_or(section.max_seconds, rollout.max_seconds),
        context=replace(
            context,
            window=_or(section.window, context.window),
            overlap=_or(section.overlap, context.overlap),
        ),
    )


def advanced(config: RunConfig, state: ScheduleState, score: float | None) -> ScheduleState:
    """The schedule's state after one more iteration, whose mean training score this was."""
    schedule = config.schedule
    return advance(
        state,
        score,
        lengths=[stage.iterations for stage in schedule.stages],
        plateau=Plateau(
            patience=schedule.patience, min_gain=schedule.min_gain, min_score=schedule.min_score
        )
        if schedule.advance == "plateau"
        else None,
    )


def words(stage: Stage, config: RunConfig) -> str:
    """`stage 2 of 3: horizon 12, max_turns 20`, for the console: what differs from the run."""
    count = max(len(config.schedule.stages), 1)
    section = config.schedule.stages[stage.number] if config.schedule.stages else StageSection()
    changes = [f"{name} {value}" for name, value in section.env_kwargs.items()]
    for name in _INSTEAD:
        value = getattr(section, name)
        if value is not None:
            changes.append(f"{name} {value:g}")
    return f"stage {stage.number + 1} of {count}: " + (", ".join(changes) or "the run's settings")


def check_stages(config: RunConfig, ignored: Set[str]) -> None:
    """What the stages of a configuration must satisfy.

    Args:
        ignored: full keys of the settings without an effect in this configuration
            (`rules.moot`); a stage can't change those either.

    Raises:
        ConfigError: one line with the full key, such as `schedule.stages[1].window`.
    """
    stages, by_length = config.schedule.stages, config.schedule.advance == "iterations"
    for i, section in enumerate(stages):
        key, last = f"schedule.stages[{i}]", i + 1 == len(stages)
        require(
            not by_length or last or section.iterations >= 1,
            f"{key}.iterations",
            section.iterations,
            "1 or more for every stage but the last",
        )
        require(
            by_length or section.iterations == 0,
            f"{key}.iterations",
            section.iterations,
            "none with schedule.advance: plateau, which would ignore it",
        )
        for name, whole in _INSTEAD.items():
            value = getattr(section, name)
            if value is not None and whole in ignored:
                raise ConfigError(
                    f"{key}.{name}: got {value!r}, which would be ignored, as {whole} would be"
                )
        _check_window(config, section, key, overlaps="context.overlap" not in ignored)


def check_recursive(context: ContextSection, sampled: int, key: str) -> None:
    """The root of `strategy: recursive` needs room for what it is shown, for code, and an answer.

    Args:
        context: of the run or of a stage.
        sampled: most tokens of an answer.
        key: of the window.

    Raises:
        ConfigError: one line with the key.
    """
    shown = context.max_observation or context.window // 4
    require(
        context.strategy != "recursive" or shown + 2 * sampled < context.window,
        key,
        context.window,
        f"more than what is shown of an observation ({shown} tokens) and two answers of "
        f"policy.max_tokens ({sampled}) with context.strategy: recursive",
    )


def _check_window(config: RunConfig, section: StageSection, key: str, *, overlaps: bool) -> None:
    context, sampled = config.context, config.policy.max_tokens
    window = _or(section.window, context.window)
    kept = {"compact": context.compact.tokens, "notes": context.memory.tokens}  # as rules has it
    room = sampled + kept.get(context.strategy, 0)
    least = max(8, room + 1, context.max_observation + sampled + 1)
    require(
        section.window is None or least <= window <= context.window,
        f"{key}.window",
        window,
        f"between {least} and context.window ({context.window})",
    )
    check_recursive(replace(context, window=window, overlap=0), sampled, f"{key}.window")
    if overlaps:
        require(
            _or(section.overlap, context.overlap) < window - sampled,
            f"{key}.window" if section.overlap is None else f"{key}.overlap",
            window if section.overlap is None else section.overlap,
            f"more than context.overlap + policy.max_tokens ({context.overlap + sampled}), or an "
            "overlap of the stage's own"
            if section.overlap is None
            else f"less than the stage's window - policy.max_tokens ({window - sampled})",
        )


def _or(value: Any, otherwise: Any) -> Any:
    return otherwise if value is None else value
