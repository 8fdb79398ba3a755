"""A fault on purpose: samplers that get their weights late."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from typing import Any, Protocol


class _Source(Protocol):
    """Where weights come from: the learner."""

    @property
    def steps(self) -> int: ...

    def weights(self) -> dict[str, Any]: ...


class _Target(Protocol):
    """Where they go: a pool."""

    def load(self, weights: Mapping[str, Any], version: int) -> None: ...


class WeightLag:
    """Gives a pool, before each iteration, the weights of `iterations` iterations earlier.

    The first iterations, and those after a resume, have less lag: there is nothing older yet.
    """

    def __init__(self, iterations: int) -> None:
        self._past: deque[tuple[Mapping[str, Any], int]] = deque(maxlen=iterations + 1)

    def publish(self, pool: _Target, source: _Source) -> None:
        """Load the oldest weights that are kept. Without a lag the pool is up to date already."""
        if self._past.maxlen == 1:
            return
        self._past.append((source.weights(), source.steps))
        pool.load(*self._past[0])
