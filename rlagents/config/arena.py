"""Players of environments with several seats, and endpoints that models are reached at."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from rlagents.algos.configs import require
from rlagents.errors import ConfigError, nearest

PlayerKind = Literal["self", "scripted", "past", "endpoint", "model"]


def player_of(name: str) -> tuple[PlayerKind, str]:
    """What kind of player a name means, and which: `scripted:oracle`, `past:12`, `runs/a`.

    Empty, or `self`, is the policy; `past` without a number stands for any frozen version.
    """
    head, _, rest = name.partition(":")
    if name in ("", "self"):
        return "self", ""
    if head in ("scripted", "past", "endpoint") and (rest or head != "scripted"):
        kind: PlayerKind = head  # type: ignore[assignment]
        return kind, rest
    return "model", name


@dataclass(frozen=True, kw_only=True)
class EndpointSection:
    """A model behind an OpenAI-compatible server. Its key is never written anywhere."""

    name: str = "default"
    """What judges, opponents (`endpoint:NAME`) and `policy.from=endpoint:NAME` call it."""
    url: str = ""
    """Base address, `http://host:8000/v1`; without user, secret or query."""
    model: str = ""
    key_env: str = ""
    """Name of the environment variable that holds the key; empty: the server wants none."""
    timeout_s: float = 60.0
    """Of one attempt."""
    retries: int = 4
    """Further attempts after a failure that may pass (429, 5xx, time-out, connection)."""
    price_in: float = 0.0
    """Cost of a million prompt tokens, in a currency of your choice."""
    price_out: float = 0.0
    """Likewise of sampled tokens."""
    max_cost: float = 0.0
    """What a run may spend here, judges and players together, over all of its sittings (what was
    spent since the last checkpoint of a sitting that was killed is not known); beyond it every call
    fails. With `rollout.executor: ray` players in a worker have a cap of their own, which begins
    anew with the worker. Other commands (`rlagents eval`, `tournament`) have one each. 0 is no
    cap."""

    def __post_init__(self) -> None:
        require(bool(self.name.strip()), "endpoints.name", self.name, "a name")
        _check_plain(self.url)
        require(
            self.url.startswith(("http://", "https://")),
            "endpoints.url",
            self.url,
            "an address such as http://host:8000/v1",
        )
        require(bool(self.model), "endpoints.model", self.model, "a model's name")
        require(self.timeout_s > 0, "endpoints.timeout_s", self.timeout_s, "above 0")
        for name in ("retries", "price_in", "price_out", "max_cost"):
            value = getattr(self, name)
            require(value >= 0, f"endpoints.{name}", value, "0 or more")
        priced = bool(self.price_in or self.price_out)
        require(
            not self.max_cost or priced,
            "endpoints.max_cost",
            self.max_cost,
            "0 where neither price_in nor price_out is given",
        )


def _check_plain(url: str) -> None:
    """No secret in an address, which is written into the run's folder and into errors."""
    host = url.rpartition("://")[2].partition("/")[0]
    if "@" in host:
        raise ConfigError("endpoints.url: expected no user and secret in it: use key_env")
    if "?" in url or "#" in url:
        raise ConfigError(
            "endpoints.url: expected a base address, without a query (?...) or a fragment (#...); "
            "a key belongs into key_env"
        )


def find_endpoint(
    endpoints: Sequence[EndpointSection], name: str, key: str = "endpoints"
) -> EndpointSection:
    """The endpoint of that name; without one, the only one.

    Raises:
        ConfigError: with `key`, and the names that there are.
    """
    known = {section.name: section for section in endpoints}
    if not name and len(endpoints) == 1:
        return next(iter(known.values()))
    if name not in known:
        names = ", ".join(known) or "none is configured"
        wanted = f"got {name!r}{nearest(name, known)}" if name else "got none"
        raise ConfigError(f"{key}: expected the name of an entry of endpoints ({names}), {wanted}")
    return known[name]


@dataclass(frozen=True, kw_only=True)
class LeagueSection:
    """Who plays the other seats of an environment that has several.

    A player is named `self` (the policy under its newest weights), `scripted:NAME` (of the
    environment), `past` (frozen versions of the policy), `endpoint:NAME`, or by the folder of a run
    or of a model.
    """

    opponents: tuple[str, ...] = ()
    """Players of the other seats in training. None: the environment's own."""
    seats: int = 2
    """Seats that the environment has."""
    learn: tuple[int, ...] = ()
    """Seats that the policy plays in training and evaluation, in turn; none: all."""
    choice: Literal["uniform", "recent", "prioritised"] = "uniform"
    """Among frozen versions: all alike, the later the likelier, or the likelier the more they win
    (`rlagents.algos.matchmaking`)."""
    snapshot_every: int = 0
    """Iterations between frozen versions, the first at the start of RL; 0 freezes none."""
    keep: int = 16
    """Frozen versions that opponents are chosen among; beyond it those closest to their neighbours
    in time leave, never the first or the last. Their files stay."""
    eval_opponents: tuple[str, ...] = ()
    """Players of the other seats in evaluations; none: the environment's own."""
    rating_matches: int = 0
    """Matches of a new frozen version with each member of the league, for ratings; 0 plays none."""
    engines: int = 4
    """Frozen versions and other models whose weights each worker holds at once."""

    def __post_init__(self) -> None:
        require(self.seats >= 2, "league.seats", self.seats, "2 or more")
        inside = all(0 <= seat < self.seats for seat in self.learn)
        require(inside, "league.learn", list(self.learn), f"seats from 0 to {self.seats - 1}")
        for name in ("snapshot_every", "rating_matches"):
            value = getattr(self, name)
            require(value >= 0, f"league.{name}", value, "0 or more")
        require(self.keep >= 2, "league.keep", self.keep, "2 or more")
        require(self.engines >= 1, "league.engines", self.engines, "1 or more")
        require(
            "past" not in self.opponents or self.snapshot_every > 0,
            "league.snapshot_every",
            self.snapshot_every,
            "1 or more, so that league.opponents has a past",
        )
        for name in ("opponents", "eval_opponents"):
            numbered = [n for n in getattr(self, name) if player_of(n)[0] == "past" and n != "past"]
            require(
                not numbered,
                f"league.{name}",
                numbered[0] if numbered else None,
                "past, or the folder of one version: RUN_DIR/league/NUMBER",
            )
        require(
            not {"past", "self"} & {player_of(n)[0] for n in self.eval_opponents},
            "league.eval_opponents",
            list(self.eval_opponents),
            "players that stay the same: no self, no past",
        )

    @property
    def learned(self) -> tuple[int, ...]:
        """Seats that the policy plays."""
        return self.learn or tuple(range(self.seats))

    @property
    def plays(self) -> bool:
        """Whether others than the environment's own players have seats in training."""
        return bool(self.opponents)

    @property
    def conversations(self) -> int:
        """Seats of a game that one engine may have to play."""
        return self.seats if self.opponents or self.eval_opponents else 1
