"""Turns `scoring` into a scorer: judges, what they are asked through, and who asks them."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from typing import Any

from rlagents.config import JudgeSection, RunConfig
from rlagents.errors import ConfigError, JudgeError
from rlagents.policy.asking import Ask, Backend, Reply
from rlagents.policy.endpoints import Endpoints
from rlagents.scoring.function import FunctionScorer, find_function
from rlagents.scoring.judge import Candidate, Question
from rlagents.scoring.scorer import ReturnScorer, Scorer
from rlagents.types import EpisodeKey

FIRST = "scoring.judge"
MakeBackend = Callable[[str, JudgeSection], Backend]
"""Of the full key of a judge's section, and the section."""


def make_scorer(
    config: RunConfig,
    make_model: MakeBackend | None = None,
    endpoints: Endpoints | None = None,
) -> Scorer:
    """What scores groups, by `scoring.name`.

    Args:
        config: of the run.
        make_model: makes what answers for a judge that is a model of this process, or the policy;
            None where there is no such thing.
        endpoints: those of this process, where others than judges use them too.

    Raises:
        ConfigError: for a function, an endpoint or a rubric that there is not, and for a judge
            whose library is not installed.
    """
    scoring = config.scoring
    if not scoring.judged:
        path = scoring.function
        return ReturnScorer() if path is None else FunctionScorer(find_function(path))
    endpoints = endpoints or Endpoints(config.endpoints)
    judges = [
        (_judge(config, key, section, make_model, endpoints), section)
        for key, section in scoring.keyed_judges
    ]
    if scoring.name == "pointwise":
        from rlagents.scoring.pointwise import PointwiseScorer

        return PointwiseScorer(judges)
    from rlagents.scoring.tournament import TournamentScorer

    return TournamentScorer(judges, scoring.tournament, config.run.seed)


def _judge(
    config: RunConfig,
    key: str,
    section: JudgeSection,
    make_model: MakeBackend | None,
    endpoints: Endpoints,
) -> Any:
    """A judge that compares and rates."""
    if section.backend == "simulated":
        from rlagents.scoring.simulated import SimulatedJudge

        # Judges of a panel err each in its own way; the first as it does alone.
        return SimulatedJudge(section, config.run.seed + zlib.crc32(key.encode()) * (key != FIRST))
    if section.backend == "function":
        from rlagents.scoring.function import find_judge

        assert section.function is not None, "checked with the configuration"
        return find_judge(section.function, pairwise=config.scoring.name == "tournament")
    from rlagents.scoring.asked import AskedJudge

    backend = _backend(key, section, make_model, endpoints)
    if section.cache is not None:
        from rlagents.scoring.cache import CachedBackend

        backend = CachedBackend(backend, section.cache)
    return AskedJudge(backend, section)


def _backend(
    key: str, section: JudgeSection, make_model: MakeBackend | None, endpoints: Endpoints
) -> Backend:
    """Who answers."""
    if section.backend == "endpoint":
        return endpoints.line(
            section.endpoint,
            concurrency=section.concurrency,
            deadline_s=section.call_timeout_s,
            key=f"{key}.endpoint",
        )
    if make_model is None:
        raise ConfigError(f"{key}.backend: {section.backend!r} needs a model, not here")
    return make_model(key, section)


def shortest_ask(section: JudgeSection, *, pairwise: bool) -> Ask:
    """What a judge is asked where task and transcripts are empty: the least that its window holds.

    Raises:
        ConfigError: for a rubric that can't be read.
    """
    from rlagents.scoring.asked import AskedJudge

    listener = _Listener()
    judge = AskedJudge(listener, section)
    question = Question(task="", reference="" if section.form == "rubric" else "-")
    candidate = Candidate(
        key=EpisodeKey(stream="train", iteration=0, group=0, member=0), transcript="", answer=""
    )
    try:
        if pairwise:
            judge.compare(question, candidate, candidate)
        else:
            judge.rate(question, candidate, 0)
    except JudgeError:
        pass  # it has no answer
    return listener.heard[0]


class _Listener:
    """A backend that has no answer, and keeps what it was asked."""

    identity = "nobody"

    def __init__(self) -> None:
        self.heard: list[Ask] = []

    def ask(self, ask: Ask) -> Reply:
        self.heard.append(ask)
        raise JudgeError("nobody answers")

    def close(self) -> None:
        pass
