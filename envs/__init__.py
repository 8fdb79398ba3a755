"""Environments: plain Gymnasium with text in and text out.

Importing this package registers the `rlagents/...` ids. It loads Gymnasium, not the environments.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import gymnasium
from gymnasium.envs.registration import EnvSpec, load_env_creator

from rlagents.errors import ConfigError, boundary, nearest

ENTRY_POINTS: dict[str, str] = {
    "rlagents/KeyRooms-v0": "rlagents.envs.lab.keyrooms:KeyRooms",
    "rlagents/MethodSearch-v0": "rlagents.envs.lab.methodsearch:MethodSearch",
    "rlagents/Lock-v0": "rlagents.envs.lab.lock:Lock",
    "rlagents/Itinerary-v0": "rlagents.envs.lab.itinerary:Itinerary",
    "rlagents/Needle-v0": "rlagents.envs.lab.needle:Needle",
    "rlagents/Repl-v0": "rlagents.envs.coding.repl:Repl",
    "rlagents/TokenGames-v0": "rlagents.envs.arena.token_games.game:TokenGames",
    "rlagents/TokenSolver-v0": "rlagents.envs.arena.token_games.solver:TokenSolver",
    "rlagents/Nim-v0": "rlagents.envs.arena.nim:Nim",
    "rlagents/Negotiation-v0": "rlagents.envs.arena.negotiation:Negotiation",
    "rlagents/Aec-v0": "rlagents.envs.arena.aec:Aec",
}
"""Our environments. A new one is a file and a line here; conformance is automatic."""

for _id, _entry_point in ENTRY_POINTS.items():
    if _id not in gymnasium.registry:
        gymnasium.register(id=_id, entry_point=_entry_point)

_MAKE_KWARGS = ("max_episode_steps", "disable_env_checker")
"""Keywords that `gymnasium.make` takes for itself, whatever the environment."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CatalogueEntry:
    """What a user needs to know to choose an environment."""

    id: str
    summary: str
    """First line of the class's docstring."""
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    """Keyword arguments and their defaults (`inspect.Parameter.empty` where there is none)."""
    scripted: tuple[str, ...] = ()
    """Names of the scripted policies."""
    known_scores: Mapping[str, float] = field(default_factory=dict)
    """Expected scores of scripted policies under the default arguments, where known."""


def catalogue() -> list[CatalogueEntry]:
    """Every registered `rlagents/...` environment, in order of the ids.

    One that can't be loaded here, for want of an extra, has the reason for a summary.
    """
    entries = []
    for env_id in sorted(name for name in gymnasium.registry if name.startswith("rlagents/")):
        try:
            creator: Any = _creator(find_spec(env_id))
        except ConfigError as missing:  # an extra that is not installed: the others are still there
            entries.append(CatalogueEntry(id=env_id, summary=f"not available: {missing}"))
            continue
        entries.append(
            CatalogueEntry(
                id=env_id,
                summary=(inspect.getdoc(creator) or "").partition("\n")[0],
                kwargs={p.name: p.default for p in _parameters(creator)},
                scripted=tuple(getattr(creator, "scripted", {})),
                known_scores=dict(getattr(creator, "known_scores", {})),
            )
        )
    return entries


def find_spec(env_id: str) -> EnvSpec:
    """The registered environment of an id; `module:Id-v0` imports the module first.

    Raises:
        ConfigError: naming the id and the nearest registered one, or why the module fails.
    """
    module, _, name = env_id.rpartition(":")
    if module:
        with boundary(ConfigError, f"env.id {env_id!r}: importing {module!r}"):
            importlib.import_module(module)
    spec = gymnasium.registry.get(name)
    if spec is None:
        where = f" after importing {module!r}" if module else ""
        hint = nearest(name, gymnasium.registry) or "; `rlagents envs list` names ours"
        raise ConfigError(f"env.id: no environment {name!r} is registered{where}{hint}")
    return spec


def unknown_kwargs(env_id: str, kwargs: Iterable[str]) -> list[tuple[str, tuple[str, ...]]]:
    """The names among `kwargs` that the environment does not take, each with those it takes.

    Decided by the entry point's signature, without making the environment. One that takes any
    keyword (`**kwargs`) accepts everything here.

    Raises:
        ConfigError: for an unknown environment.
    """
    parameters = _parameters(_creator(find_spec(env_id)))
    if any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters):
        return []
    known = tuple(p.name for p in parameters)
    return [(name, known) for name in kwargs if name not in known and name not in _MAKE_KWARGS]


def _creator(spec: EnvSpec) -> Any:
    entry_point: Any = spec.entry_point
    if not isinstance(entry_point, str):
        return entry_point
    with boundary(ConfigError, f"env.id {spec.id!r}: loading {entry_point!r}"):
        return load_env_creator(entry_point)


def _parameters(creator: Any) -> list[inspect.Parameter]:
    """Parameters that a caller may name; those of `__init__` for a class."""
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.VAR_POSITIONAL)
    every = inspect.signature(creator).parameters.values()
    return [p for p in every if p.kind not in positional]
