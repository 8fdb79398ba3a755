"""A judge that sees the environment's return through noise: to study scoring with.

    mark = 7 + drift of the call + scale * return + noise   (+ position_bias for what comes first)

Noise and drift are Gaussian; drift is one number a call, so both marks of a comparison have it.
"""

from __future__ import annotations

import threading
import time

import numpy as np

from rlagents.config import JudgeSection
from rlagents.errors import JudgeError
from rlagents.scoring.judge import Candidate, Question, Verdict

LEVEL = 7.0
"""The mark of a return of 0."""
_COMPARE, _RATE = 201, 202
"""Purposes of seeds."""


class SimulatedJudge:
    """Compares and rates. The same call has the same answer, whenever and wherever it is made.

    A call is known by the run's seed, the keys of what is shown, their order, and `repeat`.
    """

    def __init__(self, section: JudgeSection, seed: int) -> None:
        self._section = section
        self._seed = seed
        self._lock = threading.Lock()
        self._calls = 0

    def compare(
        self, question: Question, first: Candidate, second: Candidate, repeat: int = 0
    ) -> Verdict:
        """Marks of both.

        Raises:
            JudgeError: with probability `failures`.
        """
        rng = self._begin(
            first.key.seed(self._seed, _COMPARE),
            second.key.seed(self._seed, _COMPARE),
            *([repeat] if repeat else []),
        )
        drift, noise_first, noise_second = rng.normal(size=3)
        return Verdict(
            first=self._mark(first, drift, noise_first) + self._section.position_bias,
            second=self._mark(second, drift, noise_second),
        )

    def rate(self, question: Question, candidate: Candidate, repeat: int) -> float:
        """A mark.

        Raises:
            JudgeError: as above.
        """
        rng = self._begin(candidate.key.seed(self._seed, _RATE), repeat)
        drift, noise = rng.normal(size=2)
        return self._mark(candidate, drift, noise)

    def take_figures(self) -> dict[str, float]:
        """`judge/calls` since the last time."""
        with self._lock:
            calls, self._calls = self._calls, 0
        return {"judge/calls": float(calls)}

    def close(self) -> None:
        """There is nothing to close."""

    def _begin(self, *words: int) -> np.random.Generator:
        with self._lock:
            self._calls += 1
        if self._section.latency_s:
            time.sleep(self._section.latency_s)
        rng = np.random.default_rng(words)
        if rng.random() < self._section.failures:
            raise JudgeError("simulated judge: this call fails (scoring.judge.failures)")
        return rng

    def _mark(self, candidate: Candidate, drift: float, noise: float) -> float:
        section = self._section
        return float(
            LEVEL + section.drift * drift + section.scale * candidate.hidden + section.noise * noise
        )
