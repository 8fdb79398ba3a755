"""What the commands do: open a run's parts, use them, close them in order."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import torch
from rich.console import RenderableType

from rlagents import build, checkpoint, runs
from rlagents.algos import history
from rlagents.algos.grpo import GRPO
from rlagents.algos.schedules import ScheduleState
from rlagents.algos.state import AlgoState
from rlagents.config import RunConfig
from rlagents.data.tasks import TaskSource
from rlagents.errors import CheckpointError, ConfigError, LearnerError
from rlagents.interrupt import Interrupt, Interrupted
from rlagents.journal import Journal, JournalReader
from rlagents.league import LeagueState
from rlagents.learner.group import LearnerGroup
from rlagents.load import load, resolved_yaml
from rlagents.parts import Parts, RunState, ScoringState
from rlagents.players import check_models
from rlagents.policy import models
from rlagents.policy.answering import PolicyBackend
from rlagents.policy.chat import Chat
from rlagents.policy.endpoints import Endpoints
from rlagents.preflight import check_endpoints, check_env
from rlagents.reporting import closing_lines, take_scoring, write_summary
from rlagents.rollout.groups import RolloutState
from rlagents.rollout.lag import WeightLag
from rlagents.rollout.ledger import Ledger
from rlagents.rollout.recorded import is_part, joined
from rlagents.rollout.splitting import Splitter
from rlagents.rollout.stream import Budget, RolloutStream
from rlagents.rollout.watch import Watch
from rlagents.runs import RunFolder
from rlagents.stages import stage_of
from rlagents.telemetry.progress import Display, results_table
from rlagents.telemetry.sinks import JsonLines, JsonlSink, MultiSink, Sink, TensorBoardSink
from rlagents.telemetry.spans import Spans
from rlagents.train import train
from rlagents.types import EpisodeKey, Segment, Trajectory, Turn
from rlagents.versions import LEAGUE, RATED
from rlagents.warm_start import segments_of_expert, segments_of_file


@dataclass(frozen=True, slots=True)
class RunResult:
    """A finished run."""

    folder: RunFolder
    state: RunState
    table: RenderableType


def start(config: RunConfig, folder: RunFolder | None = None) -> RunResult:
    """Run the whole experiment in `folder`, by default a new one as the config names it."""
    folder = folder or runs.create(config.run, resolved_yaml(config))
    try:
        return _run(config, folder, None)
    except ConfigError:
        runs.discard(folder)
        raise


def resume(run_dir: str) -> RunResult:
    """Go on from the newest whole checkpoint of a run; from the start where there is none.

    Raises:
        ConfigError: when there is no run, or its `config.yaml` was edited into a wrong one.
        CheckpointError: when there are checkpoints, and all are damaged.
    """
    folder = runs.find(run_dir)
    config = load(str(folder.config))
    check_env(config)
    saved = None
    if checkpoint.checkpoints(folder.checkpoints):
        saved = checkpoint.load(folder.checkpoints, config_hash=_hash(config))
    return _run(config, folder, saved)


def _run(config: RunConfig, folder: RunFolder, saved: checkpoint.Checkpoint | None) -> RunResult:
    try:
        return _train(config, folder, saved)
    except KeyboardInterrupt as stop:  # at a safe point, or by a second Ctrl-C anywhere
        interrupted = Interrupted("interrupted")
        interrupted.run_dir = str(folder.path)
        raise interrupted from stop


def _train(config: RunConfig, folder: RunFolder, saved: checkpoint.Checkpoint | None) -> RunResult:
    with Interrupt() as interrupt, Display() as display:
        display.print(f"run folder: {folder.path}")
        asked = check_endpoints(config)
        check_models(config)
        with opened(config, folder, saved, display, interrupt, asked) as (parts, state):
            try:
                train(parts, state)
            except Interrupted:
                # What this iteration played is played again under the same keys after a resume;
                # `state` is as the last one left it, paused trajectories included.
                if state.warm:
                    parts.save(parts, state)
                write_summary(parts, state, running=parts.ledger.in_flight)
                raise
        table = results_table(state.evals)
        display.print(table)
        for line in closing_lines(state):
            display.print(line)
        display.print(f"run folder:  {folder.path}")
        display.print(f"curves:      tensorboard --logdir {folder.path}")
    return RunResult(folder, state, table)


@contextmanager
def opened(
    config: RunConfig,
    folder: RunFolder,
    saved: checkpoint.Checkpoint | None,
    display: Display,
    interrupt: Interrupt,
    spent: Mapping[str, float] | None = None,
) -> Iterator[tuple[Parts, RunState]]:
    """All parts of a training run, in the state of a checkpoint; closed again at the end.

    `spent` is what endpoints have cost in this sitting so far.
    """
    torch.set_num_threads(config.learner.threads)
    with ExitStack() as stack:
        device = models.resolve_device(config.learner.device)
        model, tokenizer = models.load(
            config.policy,
            seed=config.run.seed,
            window=config.context.window,
            device=device,
            dtype="float32",  # master weights; the learner computes in `learner.dtype`
        )
        chat = Chat(tokenizer, system=config.policy.system, history=config.policy.history)
        _check_windows(config, chat)
        learner = LearnerGroup(model, config.learner)
        stack.callback(learner.close)
        state = RunState()
        ledger = Ledger()
        if saved is not None:
            state, ledger = _restore(saved, learner, folder, display)
            _check_stage(config, state)
            if config.faults.weight_lag:
                display.print("warning: faults.weight_lag begins anew after a resume")
        journal = stack.enter_context(Journal(folder.journal))
        kept = _kept(state)
        journal.rollback(kept)
        resume_step = learner.steps + 1 if saved is not None else 0
        sink = stack.enter_context(_sinks(config, folder, resume_step, state))
        lines = JsonLines(folder.path / "spans.jsonl")
        stack.callback(lines.close)
        display.print(f"starting rollouts ({config.rollout.executor})")
        league = str(folder.league.resolve())
        for name, cost in (spent or {}).items():
            state.spent[name] = state.spent.get(name, 0.0) + cost
        endpoints = Endpoints(config.endpoints, state.spent)
        pool = build.make_pool(
            config,
            device=str(device),
            notify=display.print,
            league=league,
            endpoints=endpoints,
        )
        stack.callback(pool.close)
        interrupt.arm()
        algorithm = GRPO(config.algo)
        tasks = TaskSource(config.env, config.run.seed, config.league)
        watch = Watch(
            interval_s=config.telemetry.watchdog_s, report=display.print, check=interrupt.check
        )
        judging: list[PolicyBackend] = []
        queue = build.make_queue(config, device=str(device), policies=judging, endpoints=endpoints)
        stack.callback(queue.close)
        spans, turns = Spans(lines), build.sampling_of(config)
        stream = RolloutStream(
            pool=pool,
            tasks=tasks,
            queue=queue,
            reject=algorithm.reject,
            sampling=turns,
            limits=build.limits_of(config),
            recall=_recalling(journal, folder),
            ledger=ledger,
            record=journal.append,
            watch=watch,
            spans=spans,
            budget=_budget(config),
            outage=config.scoring.outage_iterations if config.scoring.judged else 1,
        )
        stages = functools.partial(stage_of, config)
        stream.restore(state.rollouts, stages, _unfinished(folder, state))

        def save(parts: Parts, state: RunState) -> None:
            _save(parts, state)
            models.save(learner.model, tokenizer, folder.policy)

        def freeze(number: int) -> None:
            models.save(learner.model, tokenizer, folder.league / str(number))

        yield (
            Parts(
                config=config,
                folder=folder,
                learner=learner,
                algorithm=algorithm,
                pool=pool,
                lag=WeightLag(config.faults.weight_lag),
                stream=stream,
                tasks=tasks,
                queue=queue,
                endpoints=endpoints,
                judging=tuple(judging),
                sampling=turns,
                eval_sampling=build.eval_sampling_of(config),
                journal=journal,
                ledger=ledger,
                sink=sink,
                spans=spans,
                display=display,
                watch=watch,
                interrupt=interrupt,
                chat=chat,
                pad_id=build.pad_id(tokenizer),
                warm_start=_warm_start if config.warm_start.enabled else None,
                save=save,
                freeze=freeze,
            ),
            state,
        )


def _check_windows(config: RunConfig, chat: Chat) -> None:
    """Make the window of the run and of each stage once: it may refuse its size, with this chat."""
    build.make_window(config, chat).close()
    for number in range(len(config.schedule.stages)):
        context = stage_of(config, number).context
        try:
            build.make_window(config, chat, context).close()
        except ConfigError as error:
            raise ConfigError(f"schedule.stages[{number}]: {error}") from error


def _check_stage(config: RunConfig, state: RunState) -> None:
    """A resumed run, and each of its open groups, is in a stage that there still is."""
    reached = max((state.schedule.stage, *(group.stage for group in state.rollouts.open)))
    count = max(len(config.schedule.stages), 1)
    if reached >= count:
        raise ConfigError(
            f"schedule.stages: expected the {reached + 1} or more that this run has reached, "
            f"got {len(config.schedule.stages)}"
        )


def _warm_start(parts: Parts) -> None:
    """Supervised training of the learner's model on demonstrations."""
    config, display = parts.config, parts.display
    section = config.warm_start
    splitter = Splitter(
        section,
        parts.chat,
        lambda: build.make_window(config, parts.chat),
        config.policy.max_tokens,
    )

    def segments() -> Iterator[Segment]:
        with (
            display.phase("demonstrations", section.episodes or None) as phase,
            parts.spans.span("demonstrate"),
        ):

            def advance() -> None:
                parts.interrupt.check()
                phase.advance()

            if section.path is not None:
                yield from segments_of_file(section.path, parts.chat, splitter, advance)
            else:
                yield from segments_of_expert(
                    config,
                    parts.folder.demonstrations,
                    parts.pool,
                    parts.tasks,
                    parts.watch,
                    splitter,
                    advance,
                )
        for line in splitter.report.lines():
            display.print(line)
        if not splitter.report.contexts:
            raise ConfigError("warm_start.misfits: `drop` left nothing to train on")

    with display.phase("warm start") as phase, parts.spans.span("warm_start"):

        def on_step(step: int, total: int, loss: float) -> None:
            parts.interrupt.check()
            phase.expect(total)
            phase.advance(loss=loss)

        with tempfile.TemporaryDirectory(prefix="rlagents-warm-start-") as scratch:
            report = parts.learner.sft(
                segments(), config=section, seed=config.run.seed, folder=scratch, on_step=on_step
            )
    parts.folder.write_warm_start(
        {
            "demonstrations": dataclasses.asdict(splitter.report),
            "training": dataclasses.asdict(report),
        }
    )
    display.print(
        f"warm start: {report.trained_tokens:,} tokens trained in {report.steps} steps, "
        f"loss {report.first_loss:.3f} to {report.last_loss:.3f}, {report.seconds:.0f} s"
    )


def _sinks(config: RunConfig, folder: RunFolder, resume_step: int, state: RunState) -> MultiSink:
    done = {(int(e["step"]), e["mode"] == "greedy") for e in state.evals}
    frozen = {version.step for version in state.league.versions}

    def unfinished(step: int, tag: str) -> bool:
        """An evaluation or a rating that the checkpoint does not know of: it is done again."""
        if tag.startswith(RATED):
            return step not in frozen
        return tag.startswith("eval/") and (step, "greedy" in tag) not in done

    path = folder.path / "metrics.jsonl"
    sinks: list[Sink] = [JsonlSink(path, resume_step=resume_step)]
    if config.telemetry.tensorboard:
        sinks.append(TensorBoardSink(folder.tensorboard, resume_step=resume_step, stale=unfinished))
    return MultiSink(sinks)


def _hash(config: RunConfig) -> str:
    return hashlib.sha256(resolved_yaml(config).encode()).hexdigest()


def _save(parts: Parts, state: RunState) -> None:
    """Learner, progress and ledger in one checkpoint; the journal is synced before it."""
    parts.journal.flush()
    take_scoring(parts, state)
    state.spent = parts.endpoints.spent
    tensors, learner = checkpoint.pack_state(parts.learner.state())
    checkpoint.save(
        parts.folder.checkpoints,
        parts.learner.steps,
        {"learner": tensors},
        {
            "learner": learner,
            "run": {**dataclasses.asdict(state), "history": history.to_plain(state.history)},
            "ledger": parts.ledger.as_dict(),
        },
        keep=parts.config.checkpoint.keep,
        config_hash=_hash(parts.config),
    )


def _restore(
    saved: checkpoint.Checkpoint, learner: LearnerGroup, folder: RunFolder, display: Display
) -> tuple[RunState, Ledger]:
    for warning in saved.warnings:
        display.print(f"warning: {warning}")
    try:
        learner.load_state(
            checkpoint.unpack_state(saved.tensors["learner"], saved.state["learner"])
        )
        run = saved.state["run"]
        state = RunState(
            **{
                **run,
                "algo": AlgoState.of(run["algo"]),
                "history": history.from_plain(run["history"]),
                "schedule": ScheduleState(**run["schedule"]),
                "scoring": ScoringState(**run["scoring"]),
                "league": LeagueState.of(run["league"]),
                "rollouts": RolloutState.of(run["rollouts"]),
            }
        )
        ledger = Ledger(saved.state["ledger"])
    except LearnerError as error:
        raise ConfigError(
            f"{folder.config}: its policy is not that of {saved.path.name}: {error}"
        ) from error
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{saved.path}: not a checkpoint of this run: {error}") from error
    display.print(f"resuming after iteration {state.iteration} (step {saved.step})")
    return state, ledger


def _recalling(journal: Journal, folder: RunFolder) -> Callable[[EpisodeKey], Trajectory | None]:
    """Reads trajectories of earlier iterations back from the journal that is being written."""
    reader = JournalReader(folder.journal)

    def recall(key: EpisodeKey) -> Trajectory | None:
        journal.flush(sync=False)
        reader.refresh()
        record = reader.get(key)
        return None if record is None else record.trajectory

    return recall


def _budget(config: RunConfig) -> Budget | None:
    """When an iteration ends without waiting for all of its groups."""
    rollout = config.rollout
    if not rollout.partial:
        return None
    return Budget(
        turns=rollout.budget_turns, tokens=rollout.budget_tokens, seconds=rollout.budget_seconds
    )


def _unfinished(folder: RunFolder, state: RunState) -> dict[EpisodeKey, tuple[Turn, ...]]:
    """What the journal has of the trajectories that were paused when the run was saved."""
    if not state.rollouts.open:
        return {}
    reader = JournalReader(folder.journal)
    records = (reader.get(key) for key in filter(is_part, reader.keys()))
    return joined(record.trajectory for record in records if record is not None)


def _kept(state: RunState) -> Callable[[EpisodeKey], bool]:
    """Which journal records a run in this state still owns; the rest is played again."""
    finished = {(f"eval/{e['stage']}/{e['mode']}", int(e["step"])) for e in state.evals}
    trained = state.rollouts.keeps()
    frozen = {version.number for version in state.league.versions}

    def keep(key: EpisodeKey) -> bool:
        if key.stream == "train" or is_part(key):
            return trained(key)
        if key.stream == LEAGUE:
            return key.iteration in frozen
        return (key.stream, key.iteration) in finished

    return keep
