"""`rlagents/Aec-v0`: any PettingZoo AEC environment that can be played by text."""

from __future__ import annotations

import copy
import importlib
import math
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import numpy as np
from gymnasium import spaces

from rlagents.envs.arena.game import Act
from rlagents.envs.arena.seat import MAX_MOVES, SeatEnv, seated
from rlagents.envs.lab.base import whole
from rlagents.envs.spaces import UnicodeText
from rlagents.errors import ConfigError, boundary

# After `game`, which says in one line what is missing where PettingZoo is.
from pettingzoo import AECEnv, ParallelEnv  # isort: skip
from pettingzoo.utils import BaseWrapper  # isort: skip

OBSERVATION_LIMIT = 100_000


class TextView(BaseWrapper[Any, Any, Any]):
    """Text in and text out of an AEC environment whose actions are texts or numbers.

    What an agent sees is made text by `text_of`; of a dict with the key `observation` that part
    alone, and where actions are numbers and there is an `action_mask`, in the dict or in the
    agent's info, a last line `legal 0 2 5`.

    An answer where actions are numbers (`Discrete`) is the number. Anything else, and a number that
    the mask excludes, is replaced by the smallest legal one and counted in `illegal`. Where actions
    are texts, characters that the space lacks are left out and the rest is cut to its length.
    """

    def __init__(self, env: AECEnv[Any, Any, Any], *, observation_limit: int) -> None:
        """Wrap an environment.

        Raises:
            ConfigError: where its seats are not known beforehand, or actions are neither.
        """
        super().__init__(env)
        if not getattr(env, "possible_agents", None):
            raise ConfigError("make: the environment must say its seats, in `possible_agents`")
        for agent in env.possible_agents:
            space = env.action_space(agent)
            if not isinstance(space, spaces.Text | spaces.Discrete):
                raise ConfigError(
                    f"make: actions must be Text or Discrete, those of {agent!r} are {space}"
                )
        self.sees = UnicodeText(observation_limit)
        self.says = UnicodeText()
        self.illegal: dict[Any, int] = {}
        own: Mapping[str, Callable[..., Act]] = getattr(env.unwrapped, "scripted", {})
        self.scripted = {"random": _random, **{name: _inside(own[name]) for name in own}}

    def observation_space(self, agent: Any) -> UnicodeText:
        return self.sees

    def action_space(self, agent: Any) -> UnicodeText:
        return self.says

    def reset(self, seed: int | None = None, options: dict[str, Any] | None = None) -> None:
        super().reset(seed=seed, options=options)
        self.illegal = dict.fromkeys(self.env.possible_agents, 0)

    def observe(self, agent: Any) -> str:
        seen: Any = self.env.observe(agent)
        legal = self.legal(agent, seen)
        if isinstance(seen, Mapping) and "observation" in seen:
            seen = seen["observation"]
        tail = "" if legal is None else f"\nlegal {' '.join(map(str, legal))}"
        text = text_of(seen).encode(errors="backslashreplace").decode()
        return text[: max(self.sees.max_length - len(tail), 0)] + tail[: self.sees.max_length]

    def legal(self, agent: Any, seen: Any) -> list[int] | None:
        """The numbers that a mask allows; None where there is none, or actions are texts."""
        space = self.env.action_space(agent)
        mask = seen.get("action_mask") if isinstance(seen, Mapping) else None
        if mask is None:
            mask = self.env.infos.get(agent, {}).get("action_mask")
        if mask is None or not isinstance(space, spaces.Discrete):
            return None
        return [int(space.start) + i for i in np.flatnonzero(mask).tolist()]

    def step(self, action: str | None) -> None:
        agent = self.env.agent_selection
        if self.env.terminations[agent] or self.env.truncations[agent]:
            self.env.step(None)
            return
        if not isinstance(action, str):
            raise TypeError(f"action of {agent}: expected a string, got {type(action).__name__}")
        space = self.env.action_space(agent)
        if isinstance(space, spaces.Text):
            self.env.step(self._fitting(space, action))
            return
        assert isinstance(space, spaces.Discrete)
        legal = self.legal(agent, self.env.observe(agent))
        if legal is None:
            legal = range(int(space.start), int(space.start + space.n))
        number = _number(action)
        if number not in legal:
            self.illegal[agent] += 1
            number = legal[0] if legal else int(space.start)
        self.env.step(number)

    def _fitting(self, space: spaces.Text, text: str) -> str:
        if text in space:
            return text
        agent = self.env.agent_selection
        self.illegal[agent] += 1
        if isinstance(space, UnicodeText):
            kept = text.encode(errors="ignore").decode()
        else:
            kept = "".join(char for char in text if char in space.character_set)
        filler = space.characters[:1] * space.min_length
        return (kept[: space.max_length] + filler)[: max(len(kept), space.min_length)]


def _random(view: TextView, agent: Any, rng: np.random.Generator) -> Act:
    # A copy: the environment's own space may be the one of other agents, or of the next episode.
    space = copy.deepcopy(view.env.action_space(agent))
    space.seed(int(rng.integers(2**31)))

    def act(observation: str) -> str:
        legal = view.legal(agent, view.env.observe(agent))
        return str(legal[rng.integers(len(legal))] if legal else space.sample())

    return act


class Aec(SeatEnv):
    """A seat of someone else's PettingZoo AEC environment, by text; by default of our Nim.

    `make="module:function"` names what makes the environment (a class will do) and `kwargs` its
    arguments. Observations may be anything that can be printed, actions `Text` or `Discrete`. The
    rules by which one becomes the other are those of `TextView`: an illegal number is replaced by
    the smallest legal one, and the environment never sees it.

    Rewards and the end are the environment's. `moves` bounds the actions of all seats together;
    then the episode is truncated. Where it has `scripted` players (see `game.Game`) they play here
    too; `random` always does, uniformly over legal actions. Of its infos for this seat `metrics`
    (finite numbers), `potential` and `reference` are passed on, with the count of `illegal`
    actions. The options of `reset` are the environment's.
    """

    takes_options: ClassVar[bool] = True
    scripted = seated({"random": _random})
    known_scores: ClassVar[Mapping[str, float]] = {"random": 0.004425}

    def __init__(
        self,
        make: str = "rlagents.envs.arena.nim:NimGame",
        kwargs: Mapping[str, Any] | None = None,
        seat: int = 0,
        opponent: str = "random",
        moves: int = MAX_MOVES,
        observation_limit: int = OBSERVATION_LIMIT,
    ) -> None:
        """Make the environment.

        Args:
            make: where what makes the AEC environment is, `module:function`.
            kwargs: its keyword arguments.
            seat: this environment's own, by the order of `possible_agents`.
            opponent: scripted player of the seats that no player was given.
            moves: actions of all seats together, after which the episode is truncated.
            observation_limit: characters, beyond which an observation is cut.

        Raises:
            ConfigError: where `make` leads nowhere, or to what is no AEC environment of text.
            ValueError: naming the argument that is out of its range.
        """
        limit = whole("observation_limit", observation_limit, 1, 100 * OBSERVATION_LIMIT)
        view = TextView(_made(make, kwargs or {}), observation_limit=limit)
        super().__init__(view, seat=seat, opponent=opponent, moves=moves)
        self.scripted = seated(view.scripted)

    def _told(self, told: Mapping[str, Any]) -> dict[str, Any]:
        own = told.get("metrics")
        metrics = dict(own) if isinstance(own, Mapping) else {}
        kept = {key: told[key] for key in ("potential", "reference") if key in told}
        counts = {"illegal": self.game.illegal[self.agent]}
        return super()._told({**kept, "metrics": {**_finite(metrics), **counts}})


def text_of(value: Any) -> str:
    """What a language model reads of an observation.

    A string is itself. Of an array the last axis is a line of numbers, higher axes are separated by
    empty lines; a mapping has its key before each entry, a tuple or list one entry a line.
    """
    if isinstance(value, str):
        return value
    if isinstance(value, Mapping):
        return "\n".join(f"{key} {text_of(entry)}" for key, entry in value.items())
    if isinstance(value, np.ndarray) and value.ndim > 1:
        return ("\n" * (value.ndim - 1)).join(text_of(row) for row in value)
    if isinstance(value, np.ndarray) and value.ndim == 1:
        return " ".join(text_of(entry) for entry in value)
    if isinstance(value, list | tuple):
        return "\n".join(text_of(entry) for entry in value)
    if isinstance(value, bool | np.bool_):
        return str(int(value))
    if isinstance(value, float | np.floating):
        return f"{value:.4g}"
    return str(value)


def _number(text: str) -> int | None:
    digits = text.strip().removeprefix("-")
    # No longer number is an action; `int` takes minutes for one of a million digits, or refuses.
    return int(text) if digits.isascii() and digits.isdigit() and len(digits) < 19 else None


def _finite(metrics: Mapping[Any, Any]) -> dict[str, float]:
    numbers = {
        str(name): float(value)
        for name, value in metrics.items()
        if isinstance(value, int | float | np.integer | np.floating | np.bool_)
    }
    return {name: value for name, value in numbers.items() if math.isfinite(value)}


def _made(make: str, kwargs: Mapping[str, Any]) -> AECEnv[Any, Any, Any]:
    module, _, name = make.partition(":") if isinstance(make, str) else ("", "", "")
    if not (module and name):
        raise ConfigError(f"make: expected 'module:function', got {make!r}")
    with boundary(ConfigError, f"make {make!r}"):
        made: Any = getattr(importlib.import_module(module), name)(**kwargs)
    if isinstance(made, ParallelEnv):
        raise ConfigError(
            f"make {make!r}: this is a parallel environment, in which all seats act at once; "
            "return pettingzoo.utils.parallel_to_aec(environment)"
        )
    if not isinstance(made, AECEnv):
        raise ConfigError(f"make {make!r}: expected a pettingzoo.AECEnv, got {type(made).__name__}")
    return made


def _inside(factory: Callable[..., Act]) -> Callable[[TextView, Any, np.random.Generator], Act]:
    return lambda view, agent, rng: factory(view.env.unwrapped, agent, rng)
