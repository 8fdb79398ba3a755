"""Turns `scoring` into a scorer: judges, what they are asked through, and who asks them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from rlagents.config import JudgeSection, RunConfig, find_endpoint
from rlagents.errors import ConfigError
from rlagents.policy.asking import Backend
from rlagents.scoring.calls import Calls
from rlagents.scoring.function import FunctionScorer, find_function
from rlagents.scoring.scorer import ReturnScorer, Scorer

MakeBackend = Callable[[JudgeSection], Backend]


def make_scorer(config: RunConfig, make_model: MakeBackend | None = None) -> Scorer:
    """What scores groups, by `scoring.name`.

    Args:
        config: of the run.
        make_model: makes what answers for a judge that is a model of this process, or the policy;
            None where there is no such thing.

    Raises:
        ConfigError: for a function, an endpoint or a rubric that there is not, and for a judge
            whose library is not installed.
    """
    scoring = config.scoring
    if not scoring.judged:
        path = scoring.function
        return ReturnScorer() if path is None else FunctionScorer(find_function(path))
    judges = [_judge(config, section, make_model) for section in scoring.judges]
    judge = judges[0] if len(judges) == 1 else _panel(judges)
    calls = Calls(
        concurrency=scoring.judge.concurrency,
        timeout_s=sum(section.call_timeout_s for section in scoring.judges),
    )
    if scoring.name == "pointwise":
        from rlagents.scoring.pointwise import PointwiseScorer

        return PointwiseScorer(judge, calls, scoring.judge)
    from rlagents.scoring.tournament import TournamentScorer

    return TournamentScorer(judge, calls, scoring.tournament, scoring.judge, config.run.seed)


def _judge(config: RunConfig, section: JudgeSection, make_model: MakeBackend | None) -> Any:
    """A judge that compares and rates."""
    if section.backend == "simulated":
        from rlagents.scoring.simulated import SimulatedJudge

        return SimulatedJudge(section, config.run.seed)
    if section.backend == "function":
        from rlagents.scoring.function import find_judge

        assert section.function is not None, "checked with the configuration"
        return find_judge(section.function, pairwise=config.scoring.name == "tournament")
    from rlagents.scoring.asked import AskedJudge

    backend = _backend(config, section, make_model)
    if section.cache is not None:
        from rlagents.scoring.cache import CachedBackend

        backend = CachedBackend(backend, section.cache)
    return AskedJudge(backend, section)


def _backend(config: RunConfig, section: JudgeSection, make_model: MakeBackend | None) -> Backend:
    """Who answers."""
    if section.backend == "endpoint":
        from rlagents.policy.endpoint import Endpoint

        return Endpoint(
            find_endpoint(config.endpoints, section.endpoint, "scoring.judge.endpoint"),
            concurrency=section.concurrency,
            deadline_s=section.call_timeout_s,
        )
    if make_model is None:
        raise ConfigError(f"scoring.judge.backend: {section.backend!r} needs a model, not here")
    return make_model(section)


def _panel(judges: list[Any]) -> Any:
    from rlagents.scoring.panel import Panel

    return Panel(judges)
