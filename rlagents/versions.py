"""Freezes versions of the policy while it learns, and rates them against each other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from rlagents import matches
from rlagents.algos.ratings import Rating
from rlagents.config import RunConfig
from rlagents.errors import ConfigError
from rlagents.league import LeagueState, Version, ratings
from rlagents.parts import Parts, RunState
from rlagents.reporting import ended
from rlagents.telemetry.league import elo_figure, win_matrix_figure

LEAGUE = "league"
"""Stream of rating games."""
RATED = ("league/elo", "league/versions", "league/failed_games", "league/wins")
"""How the tags begin of what a freeze logs."""


def due(config: RunConfig, state: RunState) -> bool:
    """Whether a version is to be frozen now: at the start, every so often, and at the end."""
    every = config.league.snapshot_every
    if not every or any(v.number == state.iteration for v in state.league.versions):
        return False
    return state.iteration % every == 0 or ended(config, state)


def freeze(parts: Parts, state: RunState) -> None:
    """Freeze the policy as it is, and let it play all others of the league.

    `state` changes at the end: what is interrupted here is done again after a resume.
    """
    version = Version(number=state.iteration, step=parts.learner.steps)
    parts.freeze(version.number)
    section = parts.config.league
    others = [v.name for v in state.league.versions if v.number < version.number]
    others += list(dict.fromkeys(section.eval_opponents))
    league = state.league.frozen(version)
    if section.rating_matches and others:
        outcomes = _rating_games(parts, version, others)
        for outcome in outcomes:
            parts.journal.append(outcome.trajectory)
        league = league.rated(
            (o.fixture.first, o.fixture.second, o.points) for o in outcomes if o.points is not None
        )
        _report(parts, league, version, sum(o.points is None for o in outcomes))
    state.league = league


def _rating_games(parts: Parts, version: Version, others: Sequence[str]) -> list[matches.Outcome]:
    """The new version, which the policy is, against all others."""
    section = parts.config.league
    pairs = [(version.name, other) for other in others]
    games = matches.fixtures(pairs, section.rating_matches, section.seats)
    with (
        parts.display.phase(f"rating {version.name}", len(games)) as phase,
        parts.spans.span("rate"),
    ):
        return matches.play(
            parts.pool,
            parts.tasks,
            parts.eval_sampling,
            parts.watch,
            games,
            seats=section.seats,
            stream=LEAGUE,
            iteration=version.number,
            played_by={version.name: "self"},
            advance=lambda trajectory: phase.advance(),
        )


def _report(parts: Parts, state: LeagueState, version: Version, failed: int) -> None:
    """Ratings into metrics, TensorBoard and the terminal."""
    by_name = ratings(state, parts.config.run.seed)
    lost = f"{failed} games without a result" if failed else ""
    metrics = {
        "league/versions": float(len(state.versions)),
        "league/failed_games": float(failed),
    }
    mine = by_name.get(version.name)
    if mine is None:
        parts.sink.log(parts.learner.steps, metrics)
        parts.display.print(f"{version.name}: no rating, {lost}")
        return
    metrics |= {
        "league/elo": mine.elo,
        "league/elo_low": mine.low,
        "league/elo_high": mine.high,
    }
    metrics |= {f"league/elo_of/{_tag(name)}": rating.elo for name, rating in by_name.items()}
    parts.sink.log(parts.learner.steps, metrics)
    if parts.config.telemetry.tensorboard:
        _draw(parts, state, by_name)
    words = f"{version.name}: Elo {mine.elo:.0f} [{mine.low:.0f}, {mine.high:.0f}]"
    parts.display.print(f"{words} over {mine.matches} games" + (f", {lost}" if lost else ""))


def _draw(parts: Parts, state: LeagueState, found: Mapping[str, Rating]) -> None:
    names = list(found)
    points = np.full((len(names), len(names)), np.nan)
    index = {name: i for i, name in enumerate(names)}
    for p in state.pairings:
        i, j = index[p.first], index[p.second]
        points[i, j], points[j, i] = p.points / p.games, 1 - p.points / p.games
    step = parts.learner.steps
    try:
        parts.sink.image(step, "league/elo", elo_figure(names, list(found.values())))
        parts.sink.image(step, "league/wins", win_matrix_figure(names, points))
    except ConfigError as error:  # without matplotlib
        parts.display.print(f"  no figures in TensorBoard: {error}")


def _tag(name: str) -> str:
    return name.replace(":", "_").replace("/", "_")
