"""What one does with a policy: score it, watch it play, hand it on."""

from __future__ import annotations

import dataclasses
import functools
import math
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.table import Table

from rlagents import build, runs
from rlagents.config import PolicySection, RunConfig, ScoringSection, find_endpoint, player_of
from rlagents.data.tasks import TaskSource
from rlagents.errors import ConfigError, RlagentsError, nearest
from rlagents.evaluate import Evaluation, Mode, evaluate
from rlagents.interrupt import Interrupt
from rlagents.policy import models
from rlagents.preflight import scripted_policies
from rlagents.preview import report
from rlagents.rollout.watch import Watch
from rlagents.rollout.worker import Job
from rlagents.runs import RunFolder
from rlagents.stages import stage_of
from rlagents.telemetry.progress import Display, score_cells
from rlagents.types import EpisodeKey, Trajectory, Turn
from rlagents.visible import escape

SCRIPTED = ("random", "oracle", "expert")
"""Usual names of scripted policies; an environment may have others."""


def policy_of(config: RunConfig, origin: str | None) -> tuple[RunConfig, str]:
    """The config with the policy that `policy.from` names; the name of a player, where it is none.

    Args:
        origin: a run folder, a Hugging Face folder or name, a scripted policy of the environment,
            `endpoint:NAME`, or None for the config's own policy, as it is before training.

    Raises:
        ConfigError: for a run without a policy, and for what there is not.
    """
    if origin is None:
        return config, ""
    if player_of(origin)[0] == "endpoint":
        find_endpoint(config.endpoints, player_of(origin)[1], "policy.from")
        return config, origin
    path = Path(origin)
    if not path.exists():
        scripted = scripted_policies(config)
        if origin in scripted:
            return config, f"scripted:{origin}"
        if origin in SCRIPTED or nearest(origin, scripted):
            names = ", ".join(scripted) or "it has none"
            raise ConfigError(
                f"policy.from: expected a run folder, a model, or a scripted policy of "
                f"{config.env.id} ({names}), got {origin!r}{nearest(origin, scripted)}"
            )
        if path.is_absolute() or (len(path.parts) > 1 and path.parent.is_dir()):
            raise ConfigError(f"policy.from: no run and no model at {origin!r}")
    model = origin
    if (path / "config.yaml").is_file():
        folder = RunFolder(path)
        if not folder.policy.is_dir():
            raise ConfigError(
                f"policy.from: the run {origin!r} has no policy yet; go on with "
                f"`rlagents train --resume {origin}`"
            )
        model = str(folder.policy)
    policy = dataclasses.replace(config.policy, model=model, tiny=PolicySection().tiny)
    models.check(policy)
    return dataclasses.replace(config, policy=policy), ""


def score(config: RunConfig, origin: str | None) -> list[Evaluation]:
    """Score a policy on held-out tasks and print a table: `rlagents eval`."""
    config, player = policy_of(config, origin)
    if not config.eval.episodes:
        raise ConfigError("eval.episodes: expected 1 or more, got 0")
    modes: tuple[Mode, ...] = ("sampled",)
    if config.eval.greedy and not player:
        modes = ("sampled", "greedy")
    with Interrupt() as interrupt, Display() as display:
        device = str(models.resolve_device(config.learner.device))
        pool = build.make_pool(config, device=device, notify=display.print, model=not player)
        interrupt.arm()
        watch = Watch(
            interval_s=config.telemetry.watchdog_s, report=display.print, check=interrupt.check
        )
        results: list[Evaluation] = []
        failures: list[str] = []

        def note(trajectory: Trajectory, score: float) -> None:
            if trajectory.stop.failed:
                failures.append(cause_of(trajectory))
            elif not math.isfinite(score):
                error = queue.last_error
                failures.append(f"{error.boundary}: {error.message}" if error else "no score")

        scoring = ScoringSection() if config.scoring.judged else config.scoring
        queue = build.make_queue(dataclasses.replace(config, scoring=scoring))
        try:
            for mode in modes:
                with display.phase(f"evaluation ({mode})", config.eval.episodes) as phase:
                    results.append(
                        evaluate(
                            pool,
                            TaskSource(config.env, config.run.seed, config.league),
                            queue,
                            build.eval_sampling_of(config),
                            watch,
                            stage=origin or config.policy.model,
                            step=0,
                            episodes=config.eval.episodes,
                            mode=mode,
                            player=player,
                            record=note,
                            advance=lambda trajectory, phase=phase: phase.advance(),
                        )
                    )
        finally:
            queue.close()
            pool.close()
        if not any(result.episodes for result in results):
            raise RlagentsError(f"every episode failed; the first with: {failures[0]}")
        display.print(_table(config, results))
        if failures:
            first = escape(failures[0])
            display.print(f"{len(failures)} episodes failed; the first with: {first}")
    return results


def play(config: RunConfig, origin: str | None) -> None:
    """Play one held-out episode and print it as it happens: `rlagents play`."""
    config, player = policy_of(config, origin)
    device = str(models.resolve_device(config.learner.device))
    worker = build.make_worker(config, device=device, model=not player)
    task = TaskSource(config.env, config.run.seed, config.league).held_out(0)
    key = EpisodeKey(stream="play", iteration=0, group=0, member=0)
    job = Job(key=key, task=task, sampling=build.sampling_of(config), player=player)
    with Display() as display:
        display.print(f"{task.env_id}, seed {task.seed}")

        def show(number: int, turn: Turn) -> None:
            display.print(f"[{number}] {escape(turn.observation)}")
            reward = f"   (reward {turn.reward:+.3g})" if turn.reward else ""
            display.print(f"    > {escape(turn.action)}{reward}")

        try:
            trajectory = worker.run(job, show)
        finally:
            worker.close()
        display.print(escape(trajectory.final_observation))
        display.print(
            f"{len(trajectory.turns)} turns, return {trajectory.episode_return:.4g}, "
            f"stop: {trajectory.stop.value}"
        )
    if trajectory.stop.failed:
        raise RlagentsError(f"the episode failed: {cause_of(trajectory)}")


def preview(config: RunConfig) -> None:
    """Collect one real batch and print what would be trained: `rlagents preview`."""
    from rlagents import launch  # training's libraries, which nothing else here needs
    from rlagents.learning import plan_of

    with (
        Interrupt() as interrupt,
        Display() as display,
        _scratch() as folder,
        launch.opened(config, folder, None, display, interrupt) as (parts, state),
    ):
        parts.pool.load(parts.learner.weights(), 0)
        with display.phase("one batch of rollouts") as phase:

            def advance(trajectory: Trajectory) -> None:
                phase.expect(parts.ledger.started)
                phase.advance()

            plans = functools.partial(plan_of, config, state)
            collected = parts.stream.collect(0, plans, stage_of(config, 0), advance)
        lines = report(
            config,
            collected,
            parts.algorithm,
            parts.chat,
            pad_id=parts.pad_id,
            colour=display.console.is_terminal,
            error=parts.queue.last_error,
        )
        for line in lines:
            display.print(line)


def export(run_dir: str, out: str) -> None:
    """Write the final policy of a run as a Hugging Face folder: `rlagents export`."""
    target = runs.export(runs.find(run_dir), out)
    Display().print(f"{target}: load it with policy.model={target} or AutoModelForCausalLM")


def cause_of(trajectory: Trajectory) -> str:
    """Why a trajectory failed, for one line."""
    error = trajectory.error
    return f"{error.boundary}: {error.message}" if error else trajectory.stop.value


def _table(config: RunConfig, results: list[Evaluation]) -> Table:
    table = Table(title=f"{config.env.id}, held-out tasks", title_justify="left")
    for name in ("policy", "mode", "score", "95% interval", "episodes", "failed", "turns"):
        text = name in ("policy", "mode")
        table.add_column(name, justify="left" if text else "right", overflow="fold")
    for result in results:
        turns = "-" if result.turns_mean is None else f"{result.turns_mean:.1f}"
        table.add_row(
            escape(result.stage),
            result.mode,
            *score_cells(result.score_mean, result.score_ci95),
            str(result.episodes),
            str(result.failed),
            turns,
        )
    return table


@contextmanager
def _scratch() -> Iterator[RunFolder]:
    """A run folder that is gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="rlagents-preview-") as path:
        yield RunFolder(Path(path))
