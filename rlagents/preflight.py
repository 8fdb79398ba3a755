"""Checks of a configuration that need the code it names. Torch-free, so they come first."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from rlagents.algos.ratings import bradley_terry
from rlagents.config import RunConfig, find_endpoint, player_of
from rlagents.envs import find_spec, unknown_kwargs
from rlagents.envs.sandbox import SandboxConfig
from rlagents.errors import ConfigError, EnvironmentFailure, boundary, nearest
from rlagents.scoring.function import find_function, find_judge
from rlagents.scoring.rubric import load_rubric

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

    A scorer or a judge of the user's own is imported, a rubric read.

    Raises:
        ConfigError: the id is unknown, an argument is unknown or refused, the environment speaks
            something else than text, `warm_start.expert` is not a scripted policy of it, or plays
            through a context window and can't be split, or there is no such `scoring.function`,
            judge or rubric, or no library for `scoring.tournament.rewards`.
        EnvironmentFailure: making it fails for another reason.
    """
    if config.scoring.function is not None:
        find_function(config.scoring.function)
    for judge in config.scoring.judges if config.scoring.judged else ():
        if judge.backend == "function" and judge.function is not None:
            find_judge(judge.function, pairwise=config.scoring.name == "tournament")
        elif judge.asked and judge.form == "rubric":
            load_rubric(judge.rubric)
    fitted = {
        "scoring.tournament.rewards": config.scoring.tournament.rewards == "bradley_terry",
        "league.rating_matches": config.league.rating_matches > 0,
    }
    for key in (key for key, read in fitted.items() if read):
        try:  # without the library of the fit nothing runs
            bradley_terry(np.array([[0, 1]], np.int32), np.array([1.0]), 2, prior=1.0)
        except ConfigError as error:
            raise ConfigError(f"{key}: {error}") from None
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
        made = _make(config.env.id, section, {**config.env.kwargs, **kwargs})
    scripted, windowed = made.scripted, made.windowed
    _check_players(config, made)
    if warm.episodes and warm.expert not in scripted:
        names = ", ".join(scripted) or "it has none"
        raise ConfigError(
            f"warm_start.expert: expected a scripted policy of {config.env.id} ({names}), "
            f"got {warm.expert!r}{nearest(warm.expert, scripted)}"
        )
    if warm.episodes and warm.expert in windowed:
        warm.check_windowed()


def check_endpoints(config: RunConfig) -> dict[str, float]:
    """Ask every endpoint that a run needs for one token.

    Returns:
        name -> what that cost.

    Raises:
        ConfigError: for a wrong address, model or key, naming the endpoint.
    """
    used = [
        find_endpoint(config.endpoints, judge.endpoint, f"{key}.endpoint")
        for key, judge in (config.scoring.keyed_judges if config.scoring.judged else ())
        if judge.backend == "endpoint"
    ]
    used += [
        find_endpoint(config.endpoints, which, "league.opponents")
        for kind, which in map(player_of, {*config.league.opponents, *config.league.eval_opponents})
        if kind == "endpoint"
    ]
    cost: dict[str, float] = {}
    for section in {section.name: section for section in used}.values():
        from rlagents.policy.endpoint import Endpoint

        endpoint = Endpoint(section, concurrency=1, deadline_s=section.timeout_s)
        try:
            endpoint.check()
        finally:
            endpoint.close()
        cost[section.name] = endpoint.spent
    return cost


def scripted_policies(config: RunConfig) -> tuple[str, ...]:
    """Names of the scripted policies of the configured environment."""
    return _make(config.env.id, "env.kwargs", config.env.kwargs).scripted


@dataclass(frozen=True, slots=True)
class _Made:
    """What an environment said of itself when it was made."""

    scripted: tuple[str, ...]
    """Names of its scripted policies."""
    windowed: tuple[str, ...]
    """Those that play through a context window."""
    seats: int


def _check_players(config: RunConfig, made: _Made) -> None:
    """Every player that `league` names exists, and has a seat."""
    league = config.league
    for key in ("opponents", "eval_opponents"):
        for name in getattr(league, key):
            _check_player(config, made, f"league.{key}", name)
    if not (league.opponents or league.eval_opponents or league.rating_matches):
        return
    if made.seats == 1:
        raise ConfigError(
            f"league: {config.env.id} has one seat; expected no opponents and no rating_matches, "
            f"got {list(league.opponents or league.eval_opponents) or league.rating_matches}"
        )
    if made.seats != league.seats:
        raise ConfigError(
            f"league.seats: expected {made.seats}, as {config.env.id} has, got {league.seats}"
        )
    # Where nobody is named the environment's own player, `opponent`, has the other seats.
    train, held_out = bool(league.opponents), bool(league.eval_opponents)
    given = {
        "env.kwargs": (config.env.kwargs, train and held_out),
        "warm_start.env_kwargs": (config.warm_start.env_kwargs, held_out),
    }
    for number, stage in enumerate(config.schedule.stages):
        given[f"schedule.stages[{number}].env_kwargs"] = (stage.env_kwargs, train)
    for section, (kwargs, seated) in given.items():
        for name in {"seat", "opponent"} & set(kwargs):
            if name == "seat" or seated:
                raise ConfigError(
                    f"{section}.{name}: the league decides it (league.learn, league.opponents, "
                    f"league.eval_opponents); expected none, got {kwargs[name]!r}"
                )


def check_player(config: RunConfig, key: str, name: str) -> None:
    """A player exists: `rlagents tournament`.

    Raises:
        ConfigError: with `key`, and the nearest name.
    """
    _check_player(config, _make(config.env.id, "env.kwargs", config.env.kwargs), key, name)


def _check_player(config: RunConfig, made: _Made, key: str, name: str) -> None:
    kind, which = player_of(name)
    if kind == "scripted" and which not in made.scripted:
        known = ", ".join(made.scripted) or "none"
        raise ConfigError(
            f"{key}: expected a scripted policy of {config.env.id} ({known}), "
            f"got {which!r}{nearest(which, made.scripted)}"
        )
    if kind == "endpoint":
        find_endpoint(config.endpoints, which, key)
    if kind == "model" and not Path(name).exists():
        if name in made.scripted or name in ("random", "oracle"):
            raise ConfigError(f"{key}: expected a player such as scripted:{name}, got {name!r}")
        if name.startswith((".", "/", "~", "runs/")) or "/" not in name:
            raise ConfigError(
                f"{key}: expected self, past, scripted:NAME, endpoint:NAME, or the folder of a run "
                f"or a model, got {name!r}, which there is not"
            )


def _make(env_id: str, section: str, kwargs: dict[str, Any]) -> _Made:
    """Make an environment and close it again."""
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
            return _Made(
                tuple(getattr(own, "scripted", {})),
                tuple(getattr(own, "windowed", ())),
                getattr(own, "seats", 1),
            )
        finally:
            env.close()
