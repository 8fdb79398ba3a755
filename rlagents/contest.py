"""What `rlagents tournament` is asked for. Torch-free."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self, get_args

import gymnasium

from rlagents import yaml_text
from rlagents.algos.topologies import expected_comparisons
from rlagents.config import RunConfig, player_of
from rlagents.config.scoring import TopologyName
from rlagents.errors import ConfigError, nearest
from rlagents.preflight import check_player
from rlagents.schema import known_keys, shown

TOPOLOGIES: tuple[str, ...] = get_args(TopologyName)
SETTINGS = ("players", "games", "topology", "out")
"""Keys among the overrides that are not of the configuration."""
MANY_GAMES = 10_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Contest:
    """What `rlagents tournament` is asked for."""

    players: tuple[str, ...]
    """`self`, `scripted:NAME`, `endpoint:NAME`, or the folder of a run or of a model."""
    games: int = 32
    """Of every match of two players; where a player plays alone, tasks of each."""
    topology: str = "round_robin"
    out: str = ""
    """The folder that it is written to; empty: a new one."""

    @classmethod
    def taken(cls, overrides: Sequence[str]) -> tuple[Self, list[str]]:
        """A tournament's own settings out of `key=value` texts, and the other texts.

        Raises:
            ConfigError: for a value that is none, or a key that is nearly one of ours.
        """
        found: dict[str, Any] = {}
        rest: list[str] = []
        sections = {key.partition(".")[0] for key in known_keys()}
        for text in overrides:
            if text.startswith("run.dir="):
                raise ConfigError(f"run.dir: a tournament writes to out=DIR, got {text!r}")
            key, equals, value = text.partition("=")
            if equals and key in SETTINGS:
                found[key] = _READ[key](value)
            elif key == "policy.from":
                raise ConfigError("policy.from: expected players=[...], who play")
            elif "." not in key and key not in sections and nearest(key, SETTINGS):
                raise ConfigError(f"{key[:60]}: unknown key{nearest(key, SETTINGS)}")
            else:
                rest.append(text)
        if "players" not in found:
            raise ConfigError("players: expected two or more, players=[self,scripted:random]")
        return cls(**found), rest

    def check(self, config: RunConfig) -> int:
        """See that all players exist, as far as that is known at once; seats of the environment.

        Raises:
            ConfigError: naming the setting.
        """
        if (Path(self.out) / "config.yaml").exists() and self.out:
            raise ConfigError(
                f"out: {self.out!r} holds a run or a tournament already; choose another folder"
            )
        seats = seats_of(config)
        for name in self.players:
            if player_of(name)[0] == "past":
                raise ConfigError(
                    f"players: {name!r}: only a run that trains has a past; "
                    "name the folder of a frozen version, RUN_DIR/league/NUMBER"
                )
            check_player(config, "players", name)
        if seats > 1 and self.games % seats:
            raise ConfigError(
                f"games: expected a multiple of {seats}, since every deal of {config.env.id} "
                f"is played from each of its seats, got {self.games}"
            )
        return seats

    def episodes(self, seats: int) -> int:
        """How many there are in all."""
        if seats == 1:
            return self.games * len(self.players)
        return self.games * expected_comparisons(self.topology, len(self.players))


def seats_of(config: RunConfig) -> int:
    """Seats of the environment: that it can be made has been seen before."""
    env: Any = gymnasium.make(config.env.id, disable_env_checker=True, **config.env.kwargs)
    try:
        return int(getattr(env.unwrapped, "seats", 1))
    finally:
        env.close()


def _players(text: str) -> tuple[str, ...]:
    values = yaml_text.parse(text, "players")
    if not isinstance(values, list):
        expected = "a list such as [self,scripted:random,runs/a]"
        raise ConfigError(f"players: expected {expected}, got {text[:80]!r}")
    names = [getattr(value, "text", value) for value in values]
    for name in names:
        if not isinstance(name, str) or not name.strip():
            raise ConfigError(f"players: expected a player's name, got {shown(name)!r}")
    seen: dict[str, str] = {}
    for name in names:
        place = os.path.realpath(name) if os.path.exists(name) else name
        if place in seen:
            raise ConfigError(f"players: {name!r} stands twice; expected different players")
        seen[place] = name
    if len(names) < 2:
        raise ConfigError(f"players: expected two or more, got {text[:80]!r}")
    return tuple(names)


def _games(text: str) -> int:
    if not text.isascii() or not text.isdigit() or not 1 <= int(text[:9]) <= MANY_GAMES:
        expected = f"a number from 1 to {MANY_GAMES:,}"
        raise ConfigError(f"games: expected {expected}, got {text[:40]!r}")
    return int(text)


def _topology(text: str) -> str:
    if text not in TOPOLOGIES:
        known = ", ".join(TOPOLOGIES)
        hint = nearest(text, TOPOLOGIES)
        raise ConfigError(f"topology: expected one of {known}, got {text[:40]!r}{hint}")
    return text


def _out(text: str) -> str:
    if not text or "\0" in text:
        raise ConfigError(f"out: expected a folder, got {text!r}")
    return text


_READ: Mapping[str, Any] = {
    "players": _players,
    "games": _games,
    "topology": _topology,
    "out": _out,
}
