"""Checks of a configuration that need the code it names. Torch-free, so they come first."""

from __future__ import annotations

from typing import Any

import gymnasium
from gymnasium import spaces

from rlagents.config import RunConfig
from rlagents.envs import find_spec, unknown_kwargs
from rlagents.envs.sandbox import SandboxConfig
from rlagents.errors import ConfigError, EnvironmentFailure, boundary, nearest
from rlagents.scoring.function import find_function

_NOT_TEXT = (
    spaces.Box,
    spaces.Discrete,
    spaces.MultiBinary,
    spaces.MultiDiscrete,
    spaces.Dict,
    spaces.Tuple,
    spaces.Sequence,
    spaces.Graph,
)


def check_env(config: RunConfig) -> None:
    """Make the environment once, for evaluation and for demonstrations, and close it again.

    A scorer of the user's own is imported.

    Raises:
        ConfigError: the id is unknown, an argument is unknown or refused, the environment speaks
            something else than text, `warm_start.expert` is not a scripted policy of it, or plays
            through a context window and can't be split, or there is no such `scoring.function`.
        EnvironmentFailure: making it fails for another reason.
    """
    if config.scoring.function is not None:
        find_function(config.scoring.function)
    if config.context.strategy == "recursive":
        try:
            SandboxConfig.of(config.context.recursive.sandbox)
        except ConfigError as error:
            raise ConfigError(f"context.recursive.{error}") from error
    find_spec(config.env.id)
    warm = config.warm_start
    arguments = [("env.kwargs", config.env.kwargs)]
    for number, stage in enumerate(config.schedule.stages):
        arguments.append((f"schedule.stages[{number}].env_kwargs", stage.env_kwargs))
    if warm.episodes:
        arguments.append(("warm_start.env_kwargs", warm.env_kwargs))
    for section, kwargs in arguments:
        for name, known in unknown_kwargs(config.env.id, kwargs):
            close = nearest(f"{section}.{name}", [f"{section}.{k}" for k in known])
            raise ConfigError(
                f"{section}.{name}: expected an argument of {config.env.id} "
                f"({', '.join(known) or 'it takes none'}){close}"
            )
        scripted, windowed = _make(config.env.id, section, {**config.env.kwargs, **kwargs})
    if warm.episodes and warm.expert not in scripted:
        names = ", ".join(scripted) or "it has none"
        raise ConfigError(
            f"warm_start.expert: expected a scripted policy of {config.env.id} ({names}), "
            f"got {warm.expert!r}{nearest(warm.expert, scripted)}"
        )
    if warm.episodes and warm.expert in windowed:
        warm.check_windowed()


def scripted_policies(config: RunConfig) -> tuple[str, ...]:
    """Names of the scripted policies of the configured environment."""
    return _make(config.env.id, "env.kwargs", config.env.kwargs)[0]


def _make(
    env_id: str, section: str, kwargs: dict[str, Any]
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The environment's scripted policies and which of them play through a context window.

    It is made and closed.
    """
    with boundary(EnvironmentFailure, f"making {env_id!r}"):
        try:
            env = gymnasium.make(env_id, disable_env_checker=True, **kwargs)
        except ConfigError as error:  # of an argument with keys of its own, such as `sandbox`
            raise ConfigError(f"{section}.{error}") from error
        except (TypeError, ValueError) as error:
            raise ConfigError(f"{section}: {env_id} refuses its arguments: {error}") from error
        try:
            for name in ("observation_space", "action_space"):
                space = getattr(env.unwrapped, name, None)
                if isinstance(space, _NOT_TEXT):
                    raise ConfigError(
                        f"env.id: expected an environment of text, got {env_id!r} "
                        f"with {name} {type(space).__name__}"
                    )
            own = env.unwrapped
            return tuple(getattr(own, "scripted", {})), tuple(getattr(own, "windowed", ()))
        finally:
            env.close()
