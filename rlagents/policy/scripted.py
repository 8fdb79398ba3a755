"""Policies that an environment brings with it: baselines, oracles and demonstrators."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import gymnasium
import numpy as np

from rlagents.errors import ConfigError, nearest

Act = Callable[[str], str]
"""observation -> action."""


def scripted_policy(env: gymnasium.Env[Any, Any], name: str, rng: np.random.Generator) -> Act:
    """The scripted policy `name` of an environment, bound to it: make one after each `reset`.

    Raises:
        ConfigError: when the environment has no policy of that name; lists those it has.
    """
    base = env.unwrapped
    known: Mapping[str, Callable[[Any, np.random.Generator], Act]] = getattr(base, "scripted", {})
    if name not in known:
        names = ", ".join(sorted(known)) or "none"
        kind = env.spec.id if env.spec else type(base).__name__
        hint = nearest(name, known)
        raise ConfigError(f"{kind} has no scripted policy {name!r} (it has: {names}){hint}")
    return known[name](base, rng)
