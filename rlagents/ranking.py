"""Ranks players by games between them: `rlagents tournament`."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, replace

import numpy as np

from rlagents import build, runs
from rlagents.algos.ratings import bradley_terry
from rlagents.algos.topologies import topology
from rlagents.algos.tournaments import Match, Standing, play
from rlagents.config import LeagueSection, PolicySection, RunConfig, ScoringSection, player_of
from rlagents.contest import Contest
from rlagents.errors import ConfigError, RlagentsError
from rlagents.interrupt import Interrupt, Interrupted
from rlagents.journal import Journal
from rlagents.load import resolved_yaml
from rlagents.meetings import Duels, Hall, Solos
from rlagents.players import model_folder
from rlagents.policy import models
from rlagents.policy.endpoints import Endpoints
from rlagents.rollout.watch import Watch
from rlagents.runs import RunFolder
from rlagents.scoreboard import Row, pairings, plain, shares, table
from rlagents.telemetry.bracket import bracket_figure, bracket_lines, tree_of
from rlagents.telemetry.league import (
    elo_figure,
    ranking_table,
    win_matrix_figure,
    win_matrix_table,
)
from rlagents.telemetry.progress import Display
from rlagents.visible import escape

WIDEST = 16
"""Players up to which the terminal shows the win matrix."""
TOPOLOGY_SEED, INTERVAL_SEED = 8, 9


def rank(config: RunConfig, contest: Contest) -> list[Row]:
    """Play a tournament, print its tables, and write its folder.

    Ctrl-C keeps what was played: the tables and the folder then say how many games are missing.

    Returns:
        the players, the best first.

    Raises:
        ConfigError: for a player that there is not, or a folder that can't be made.
        RlagentsError: when every game failed.
        Interrupted: by Ctrl-C, after everything is written.
    """
    seats = contest.check(config)
    _check_models(config, contest)
    # Without the library of ratings nothing is played.
    bradley_terry(np.array([[0, 1]], np.int32), np.array([1.0]), 2, prior=1.0)
    section = replace(config.run, dir=contest.out or None)
    folder = runs.create(section, resolved_yaml(config), parent="runs/tournaments", key="out")
    seated = _seated(config, contest, seats)
    stop: Interrupted | None = None
    with Interrupt() as interrupt, Display() as display, Journal(folder.journal) as journal:
        display.print(f"tournament folder: {folder.path}")
        device = str(models.resolve_device(config.learner.device))
        own = any(player_of(name)[0] == "self" for name in contest.players)
        endpoints = Endpoints(config.endpoints)
        pool = build.make_pool(
            seated, device=device, notify=display.print, model=own, endpoints=endpoints
        )
        # Scores are compared where players play alone; the games of others have a winner.
        scoring = config.scoring if seats == 1 else ScoringSection()
        queue = build.make_queue(
            replace(seated, scoring=scoring), device=device, endpoints=endpoints
        )
        interrupt.arm()
        watch = Watch(
            interval_s=config.telemetry.watchdog_s, report=display.print, check=interrupt.check
        )
        hall = (Duels if seats > 1 else Solos)(
            config=seated,
            contest=contest,
            pool=pool,
            queue=queue,
            watch=watch,
            journal=journal,
            display=display,
        )
        standing: Standing | None = None
        course = topology(contest.topology)(
            len(contest.players), np.random.default_rng([config.run.seed, TOPOLOGY_SEED])
        )
        try:
            standing = play(course, hall.meet)
        except Interrupted as error:
            stop = error
        finally:
            queue.close()
            pool.close()
        rows = _report(folder, config, hall, standing, contest.episodes(seats) - hall.ended)
    if stop is not None:
        raise stop
    if all(row.rank is None for row in rows):
        raise RlagentsError(f"every game failed; the first with: {hall.failures[0]}")
    return rows


def _check_models(config: RunConfig, contest: Contest) -> None:
    """See that each model can be read, before anything is played."""
    for name in contest.players:
        kind, _ = player_of(name)
        try:
            if kind == "self":
                models.check(config.policy)
            elif kind == "model":
                section = replace(
                    config.policy, model=model_folder(name, None), tiny=PolicySection().tiny
                )
                models.check(section)
        except ConfigError as error:
            text = str(error).removeprefix("policy.model: ")
            raise ConfigError(f"players: {text}") from error


def _seated(config: RunConfig, contest: Contest, seats: int) -> RunConfig:
    """The config under which the players play: room for all seats, and none given away."""
    if seats == 1:
        return replace(config, league=LeagueSection())
    league = replace(
        config.league, opponents=contest.players, eval_opponents=(), seats=seats, learn=()
    )
    kwargs = {k: v for k, v in config.env.kwargs.items() if k not in ("seat", "opponent")}
    return replace(config, league=league, env=replace(config.env, kwargs=kwargs))


def _report(
    folder: RunFolder, config: RunConfig, hall: Hall, standing: Standing | None, missing: int
) -> list[Row]:
    """Print the tables and write the folder: the players, the best first.

    Args:
        folder: of the tournament.
        config: as the user gave it.
        hall: with all games that have ended.
        standing: None where it was interrupted.
        missing: episodes.
    """
    contest, display, games = hall.contest, hall.display, hall.games()
    names = contest.players
    says = standing if contest.topology != "round_robin" else None
    rows = table(names, games, says, np.random.default_rng([config.run.seed, INTERVAL_SEED]))
    order, pairs = [row.name for row in rows], pairings(names, games)
    points = shares(order, pairs)
    champion = names.index(order[0]) if rows[0].rank == 1 else None
    played = standing.matches if standing is not None else ()
    if pairs:
        unit = "games a match" if isinstance(hall, Duels) else "tasks each"
        title = f"{config.env.id}, {contest.topology}, {contest.games} {unit}"
        display.print(ranking_table(rows, escape(title)))
        if len(order) <= WIDEST:
            display.print("points of the row against the column, %")
            display.print(win_matrix_table(order, points))
        tree = bracket_lines(names, played, champion)
        if tree is not None:
            display.print("bracket, points in %")
            display.print(tree)
        _draw(folder, display, rows, points, (names, played, champion))
    if hall.failures:
        first = escape(hall.failures[0])
        display.print(f"{len(hall.failures)} games failed; the first with: {first}")
    if missing:
        total = missing + hall.ended
        display.print(f"interrupted: {missing} of {total} games are missing")
    content = {
        "env": config.env.id,
        "topology": contest.topology,
        "games": contest.games,
        "seed": config.run.seed,
        "players": plain(rows),
        "pairings": [asdict(pairing) for pairing in pairs],
        "ratings": {row.name: asdict(row.rating) for row in rows if row.rating is not None},
        "matches": [
            {
                **asdict(match),
                "first": names[match.first],
                "second": names[match.second],
                "margin": None if math.isnan(match.margin) else match.margin,
            }
            for match in played
        ],
        "failed": len(hall.failures),
        "missing": missing,
    }
    text = json.dumps(content, indent=2, allow_nan=False) + "\n"
    (folder.path / "tournament.json").write_text(text, encoding="utf-8")
    display.print(f"tournament folder: {folder.path}; games: rlagents show {folder.path}")
    return rows


def _draw(
    folder: RunFolder,
    display: Display,
    rows: Sequence[Row],
    points: np.ndarray,
    bracket: tuple[Sequence[str], Sequence[Match], int | None],
) -> None:
    """Pictures, where they can be drawn."""
    known = [row for row in rows if row.rating is not None]
    ratings = [row.rating for row in known if row.rating is not None]
    try:
        pictures = {
            "elo.png": elo_figure([row.name for row in known], ratings),
            "wins.png": win_matrix_figure([row.name for row in rows], points),
        }
        if tree_of(bracket[1]) is not None:
            pictures["bracket.png"] = bracket_figure(*bracket, title="points in %")
    except ConfigError as error:  # without matplotlib
        display.print(f"no pictures: {error}")
        return
    for name, png in pictures.items():
        (folder.path / name).write_bytes(png)
