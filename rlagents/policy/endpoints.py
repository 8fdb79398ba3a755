"""The endpoints of one process: each is opened once and has one cap, whoever uses it."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence

from rlagents.config import EndpointSection, find_endpoint
from rlagents.policy.asking import Ask, Reply
from rlagents.policy.endpoint import Endpoint, User


class Line:
    """A user's line to an endpoint that others may use too: a `Backend`, bounded by itself."""

    def __init__(self, endpoints: Endpoints, name: str, endpoint: Endpoint, user: User) -> None:
        self._endpoints = endpoints
        self._name = name
        self._endpoint = endpoint
        self._user = user
        self._open = True

    @property
    def identity(self) -> str:
        """The endpoint's."""
        return self._endpoint.identity

    @property
    def spent(self) -> float:
        """What this user's calls have cost so far."""
        return self._user.spent

    def ask(self, ask: Ask) -> Reply:
        """The answer.

        Raises:
            JudgeError: when there is none, after all retries.
        """
        return self._endpoint.ask(ask, self._user)

    def close(self) -> None:
        """Give the line back; with its last line the endpoint closes. May be called twice."""
        if self._open:
            self._open = False
            self._endpoints.leave(self._name)


class Endpoints:
    """Opens an endpoint for its first user, closes it with its last, remembers what it spent.

    Called from any thread.

    Args:
        sections: `endpoints` of the configuration.
        spent: name -> cost, of an earlier part of the same run.
    """

    def __init__(
        self, sections: Sequence[EndpointSection], spent: Mapping[str, float] | None = None
    ) -> None:
        self._sections = tuple(sections)
        self._lock = threading.Lock()
        self._open: dict[str, Endpoint] = {}
        self._users: dict[str, int] = {}
        self._spent = dict(spent or {})
        """Of those that are not open now."""
        self._told: set[str] = set()

    def line(self, name: str, *, concurrency: int, deadline_s: float, key: str) -> Line:
        """A line to the endpoint of that name; without one, to the only one.

        Args:
            name: of an entry of `endpoints`.
            concurrency: calls of this user at once.
            deadline_s: most seconds of a call with all of its attempts.
            key: of the setting that names it, for errors.

        Raises:
            ConfigError: when there is no such endpoint, or it can't be opened.
        """
        section = find_endpoint(self._sections, name, key)
        with self._lock:
            endpoint = self._open.get(section.name)
            if endpoint is None:
                spent = self._spent.get(section.name, 0.0)
                endpoint = Endpoint(section, concurrency=concurrency, spent=spent)
                self._open[section.name] = endpoint
            self._users[section.name] = self._users.get(section.name, 0) + 1
        return Line(self, section.name, endpoint, endpoint.user(concurrency, deadline_s))

    def leave(self, name: str) -> None:
        """A user of this endpoint has gone."""
        with self._lock:
            self._users[name] -= 1
            if not self._users[name]:
                endpoint = self._open.pop(name)
                endpoint.close()
                self._spent[name] = endpoint.spent

    @property
    def spent(self) -> dict[str, float]:
        """Name -> cost so far."""
        with self._lock:
            return self._spent | {name: one.spent for name, one in self._open.items()}

    def take_exhausted(self) -> list[EndpointSection]:
        """Those whose `max_cost` has refused a call, each named once."""
        with self._lock:
            names = {name for name, one in self._open.items() if one.exhausted} - self._told
            self._told |= names
        return [section for section in self._sections if section.name in names]
