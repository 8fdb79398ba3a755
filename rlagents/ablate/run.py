"""Runs an ablation: each arm with each seed as a Ray task, in a process of its own.

    consumes      the runs that are not finished, first seeds first
    produces      their run folders, as `rlagents train` would make them
    waits for     a run to end; two times a second for Ctrl-C
    stops when    all have ended; after Ctrl-C, when the running ones are saved

A run that fails does not stop the others. What is finished is never run again.
"""

from __future__ import annotations

import contextlib
import logging
import math
import os
import sys
import traceback
from collections import deque
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayError, RayTaskError

from rlagents.ablate import report, results
from rlagents.ablate.compare import compare
from rlagents.ablate.plan import Ablation, Run, claim
from rlagents.config import RunConfig
from rlagents.errors import ConfigError, RlagentsError
from rlagents.interrupt import Interrupt
from rlagents.telemetry.progress import Display
from rlagents.visible import escape


def ablate(
    ablation: Ablation,
    *,
    jobs: int | None = None,
    threshold: float | None = None,
    tags: Sequence[str] = (),
) -> None:
    """Run what is not finished, then compare the arms: `rlagents ablate`.

    Args:
        jobs: runs at once; by default as many as the machine has cores for.
        threshold: see `compare`.
        tags: metrics to compare, too.

    Raises:
        ConfigError: when the folder is not this ablation's; after everything else is done, when no
            run has a tag.
        RlagentsError: when runs failed, after everything else is done.
        Interrupted: after Ctrl-C; the same command goes on.
    """
    if jobs is not None and jobs < 1:
        raise ConfigError(f"--jobs: expected 1 or more, got {jobs}")
    if threshold is not None and not math.isfinite(threshold):
        raise ConfigError(f"--threshold: expected a score, got {threshold}")
    claim(ablation)
    with Display() as display:
        failures = _run_all(ablation, jobs, display)
        finished = [results.read(run) for run in ablation.runs if run.state == "finished"]
        if finished:
            comparison = compare(ablation, finished, threshold, tags)
            report.write(ablation, comparison, finished, failures, display)
    if failures:
        raise RlagentsError(
            f"{len(failures)} of {len(ablation.runs)} runs failed, the first: {failures[0]}"
        )
    results.check_tags(tags, finished)


def _run_all(ablation: Ablation, jobs: int | None, display: Display) -> list[str]:
    """Bring every run to its end. Returns what failed, a line each."""
    todo = deque(run for run in ablation.runs if run.state != "finished")
    total, failures = len(ablation.runs), list[str]()
    display.print(f"{total} runs, {total - len(todo)} of them finished before: {ablation.out}")
    if not todo:
        return failures
    most = max(_cores(run.config) for run in todo)
    cores = most * jobs if jobs else max(most, os.cpu_count() or 1)
    display.print(f"starting Ray for {min(cores // most, len(todo))} runs at once")
    running: dict[Any, Run] = {}
    # Signals after Ray, which takes SIGTERM for itself when it starts.
    with _ray(cores), Interrupt() as interrupt, display.phase("runs", len(todo)) as phase:
        gpus = gpu_share(int(ray.cluster_resources().get("GPU", 0)), jobs or cores // most)
        try:
            while todo or running:
                while todo and (jobs is None or len(running) < jobs):
                    run = todo.popleft()
                    running[_submit(run, gpus)] = run
                done, _ = ray.wait(list(running), num_returns=1, timeout=0.5)
                interrupt.check()
                for reference in done:
                    run = running.pop(reference)
                    line = _settle(reference, run, failures)
                    left = len(todo) + len(running)
                    display.print(f"[{total - left}/{total}] {line}")
                    phase.advance()
        except KeyboardInterrupt:
            display.print("saving the runs under way; the same command goes on from there")
            for reference in running:
                ray.cancel(reference)
            if running:
                ray.wait(list(running), num_returns=len(running))
            raise
    return failures


def _settle(reference: Any, run: Run, failures: list[str]) -> str:
    """How a run ended, in words."""
    try:
        ray.get(reference)
        result = results.read(run)
    except (RayError, RlagentsError) as error:
        why = reason(error)
        failures.append(f"{run.words}: {why} (its output: {run.log})")
        return f"{run.words}: failed: {escape(why)}"
    score = "no score" if result.final is None else f"score {result.final:.3f}"
    return f"{run.words}: {score}, {result.tokens:,} tokens, {result.wall_s:.0f} s"


def _submit(run: Run, gpus: float) -> Any:
    task = ray.remote(
        num_cpus=_cores(run.config),
        num_gpus=0 if run.config.learner.device == "cpu" else gpus,
        max_retries=0,
        max_calls=1,  # the next run gets a fresh process
    )(_task)
    path = tuple(os.path.abspath(entry) for entry in sys.path)
    return task.remote(run.config, run.state == "stopped", str(run.log), path, os.getcwd())


def _task(config: RunConfig, again: bool, log: str, path: Sequence[str], folder: str) -> None:
    """A whole run, in a worker process. What it prints goes to `log`."""
    sys.path += [entry for entry in path if entry not in sys.path]
    with contextlib.chdir(folder), _printing_to(log):
        from rlagents import launch

        assert config.run.dir is not None
        if again:
            launch.resume(config.run.dir)
        else:
            launch.start(config)


@contextlib.contextmanager
def _printing_to(log: str) -> Iterator[None]:
    """Standard output, error and the traceback of whatever escapes, into a file."""
    path = Path(log)
    path.parent.mkdir(parents=True, exist_ok=True)
    with (
        path.open("a", encoding="utf-8", buffering=1) as file,
        contextlib.redirect_stdout(file),
        contextlib.redirect_stderr(file),
    ):
        try:
            yield
        except BaseException:
            traceback.print_exc()
            raise


@contextlib.contextmanager
def _ray(cores: int) -> Iterator[None]:
    """A Ray of this machine, for these runs alone; one that runs in this process already serves."""
    if ray.is_initialized():
        yield
        return
    ray.init(
        address="local",
        num_cpus=cores,
        include_dashboard=False,
        log_to_driver=False,
        logging_level=logging.ERROR,
        _system_config={"worker_niceness": 0},
    )
    try:
        yield
    finally:
        ray.shutdown()


def _cores(config: RunConfig) -> int:
    workers = config.rollout.workers if config.rollout.executor == "ray" else 0
    return max(config.learner.threads, 1) + workers


def gpu_share(gpus: int, at_once: int) -> float:
    """What each of so many runs gets of the machine's GPUs: one, or a whole fraction of one."""
    return 1 / math.ceil(at_once / gpus) if gpus else 0.0


def reason(error: Exception) -> str:
    """One line: the run's own error where it is one, else what became of its process."""
    cause = error.cause if isinstance(error, RayTaskError) else error
    text = " ".join(str(cause).split())
    return text if isinstance(cause, RlagentsError) else f"{type(cause).__name__}: {text}"
