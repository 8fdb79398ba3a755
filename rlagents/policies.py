"""What one does with a policy: score it, watch it play, hand it on."""

from __future__ import annotations

import dataclasses
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.table import Table

from rlagents import build, launch, runs
from rlagents.config import PolicySection, RunConfig
from rlagents.data.tasks import TaskSource
from rlagents.errors import ConfigError
from rlagents.evaluate import Evaluation, Mode, evaluate
from rlagents.interrupt import Interrupt
from rlagents.policy import models
from rlagents.preview import report
from rlagents.rollout.stream import Watch
from rlagents.rollout.worker import Job
from rlagents.runs import RunFolder
from rlagents.scoring.scorer import ReturnScorer
from rlagents.telemetry.progress import Display
from rlagents.telemetry.show import escape
from rlagents.types import EpisodeKey, Turn

SCRIPTED = ("random", "oracle", "expert")


def policy_of(config: RunConfig, origin: str | None) -> tuple[RunConfig, str | None]:
    """The config with the policy that `policy.from` names, or the name of a scripted one.

    Args:
        origin: a run folder, a Hugging Face folder or name, `random`, `oracle`, `expert`, or None
            for the config's own policy, as it is before training.

    Raises:
        ConfigError: for a run without a policy, and for what this version does not have.
    """
    if origin is None:
        return config, None
    if origin in SCRIPTED:
        return config, origin
    if origin == "endpoint":
        raise ConfigError("policy.from: endpoints are not in this version")
    model = origin
    if (Path(origin) / "config.yaml").is_file():
        folder = RunFolder(Path(origin))
        if not folder.policy.is_dir():
            raise ConfigError(
                f"policy.from: the run {origin!r} has no policy yet; finish it with "
                f"`rlagents train --resume {origin}`"
            )
        model = str(folder.policy)
    policy = dataclasses.replace(config.policy, model=model, tiny=PolicySection().tiny)
    return dataclasses.replace(config, policy=policy), None


def score(config: RunConfig, origin: str | None) -> list[Evaluation]:
    """Score a policy on held-out tasks and print a table: `rlagents eval`."""
    config, scripted = policy_of(config, origin)
    if not config.eval.episodes:
        raise ConfigError("eval.episodes: expected 1 or more, got 0")
    modes: tuple[Mode, ...] = ("sampled",)
    if config.eval.greedy and scripted is None:
        modes = ("sampled", "greedy")
    with Interrupt() as interrupt, Display() as display:
        device = str(models.resolve_device(config.learner.device))
        pool = build.make_pool(
            config, device=device, notify=display.print, model=scripted is None
        )
        watch = Watch(
            interval_s=config.telemetry.watchdog_s, report=display.print, check=interrupt.check
        )
        results = []
        try:
            for mode in modes:
                with display.phase(f"evaluation ({mode})", config.eval.episodes) as phase:
                    results.append(
                        evaluate(
                            pool,
                            TaskSource(config.env, config.run.seed),
                            ReturnScorer(),
                            build.sampling_of(config),
                            watch,
                            stage=origin or config.policy.model,
                            step=0,
                            episodes=config.eval.episodes,
                            mode=mode,
                            scripted=scripted,
                            advance=lambda trajectory, phase=phase: phase.advance(),
                        )
                    )
        finally:
            pool.close()
        display.print(_table(config, results))
    return results


def play(config: RunConfig, origin: str | None) -> None:
    """Play one held-out episode and print it as it happens: `rlagents play`."""
    config, scripted = policy_of(config, origin)
    device = str(models.resolve_device(config.learner.device))
    worker = build.make_worker(config, device=device, model=scripted is None)
    task = TaskSource(config.env, config.run.seed).held_out(0)
    key = EpisodeKey(stream="play", iteration=0, group=0, member=0)
    job = Job(key=key, task=task, sampling=build.sampling_of(config), scripted=scripted)
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
        why = f": {trajectory.error.message}" if trajectory.error else ""
        display.print(
            f"{len(trajectory.turns)} turns, return {trajectory.episode_return:.4g}, "
            f"stop: {trajectory.stop.value}{why}"
        )


def preview(config: RunConfig) -> None:
    """Collect one real batch and print what would be trained: `rlagents preview`."""
    with (
        Interrupt() as interrupt,
        Display() as display,
        _scratch() as folder,
        launch.opened(config, folder, None, display, interrupt) as (parts, _),
    ):
        parts.pool.load(parts.learner.weights(), 0)
        total = config.rollout.groups * config.rollout.group_size
        with display.phase("one batch of rollouts", total) as phase:
            collected = parts.stream.collect(0, lambda trajectory: phase.advance())
        lines = report(
            config,
            collected,
            parts.algorithm,
            parts.chat.decode,
            pad_id=parts.pad_id,
            colour=display.console.is_terminal,
        )
        for line in lines:
            display.print(line)


def export(run_dir: str, out: str) -> None:
    """Write the final policy of a run as a Hugging Face folder: `rlagents export`.

    Raises:
        ConfigError: when the run has no policy, or `out` exists already or can't be made.
    """
    folder = runs.find(run_dir)
    if not folder.policy.is_dir():
        raise ConfigError(f"{run_dir!r} has no policy yet: its training has not come that far")
    target = Path(out)
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise ConfigError(f"export: {out!r} exists already")
    try:
        shutil.copytree(folder.policy, target, dirs_exist_ok=True)
        (target / "README.md").write_text(_card(folder), encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"export: can't write {out!r}: {error.strerror or error}") from error
    Display().print(f"{target}: load it with policy.model={target} or AutoModelForCausalLM")


def _card(folder: RunFolder) -> str:
    """A short model card: where the weights come from and how they scored."""
    summary = folder.summary.read_text(encoding="utf-8") if folder.summary.exists() else "{}"
    config = folder.config.read_text(encoding="utf-8")
    return (
        "# A policy trained with rlagents\n\n## Configuration\n\n```yaml\n"
        f"{config}```\n\n## Summary\n\n```json\n{summary}```\n"
    )


def _table(config: RunConfig, results: list[Evaluation]) -> Table:
    table = Table(title=f"{config.env.id}, held-out tasks", title_justify="left")
    for name in ("policy", "mode", "score", "95% interval", "episodes", "failed", "turns"):
        table.add_column(name)
    for result in results:
        low, high = result.score_ci95
        table.add_row(
            escape(result.stage),
            result.mode,
            f"{result.score_mean:.3f}",
            f"{low:.3f} to {high:.3f}",
            str(result.episodes),
            str(result.failed),
            f"{result.turns_mean:.1f}",
        )
    return table


@contextmanager
def _scratch() -> Iterator[RunFolder]:
    """A run folder that is gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="rlagents-preview-") as path:
        yield RunFolder(Path(path))

