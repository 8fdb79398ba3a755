"""Turns a `RunConfig` into parts with plain constructor calls. Only this module knows them all."""

from __future__ import annotations

import functools
import logging
import uuid
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium
import torch

import rlagents.envs  # noqa: F401  (registers our environments)
from rlagents.config import ContextSection, JudgeSection, PolicySection, RunConfig
from rlagents.errors import ConfigError
from rlagents.judges import make_scorer, shortest_ask
from rlagents.players import Hosted, Players, engine_of
from rlagents.policy import models
from rlagents.policy.answering import ModelBackend, PolicyBackend
from rlagents.policy.chat import Chat
from rlagents.policy.endpoints import Endpoints
from rlagents.policy.local import LocalEngine
from rlagents.policy.sampler import Sampling
from rlagents.policy.tiny import byte_tokenizer
from rlagents.rollout.context import ContextWindow, Window
from rlagents.rollout.episode import Limits, TextEnv
from rlagents.rollout.pool import LocalPool, Pool
from rlagents.rollout.windows.compact import CompactWindow
from rlagents.rollout.windows.memory import SittingsWindow
from rlagents.rollout.windows.notes import NotesWindow
from rlagents.rollout.windows.recursive import RecursiveWindow
from rlagents.rollout.windows.template import TemplateWindow
from rlagents.rollout.worker import RolloutWorker
from rlagents.scoring.prompts import LABELS
from rlagents.scoring.queue import ScoringQueue
from rlagents.types import Task

WINDOWS: Mapping[str, Callable[[Chat, ContextSection, int], Window]] = {
    "full": ContextWindow,
    "pinned_window": ContextWindow,
    "compact": CompactWindow,
    "notes": NotesWindow,
    "recursive": RecursiveWindow,
    "reset_with_memory": SittingsWindow,
}
"""Context strategies: what makes the context of an episode, given the tokens of an action."""


def sampling_of(config: RunConfig) -> Sampling:
    """How training turns are sampled."""
    policy = config.policy
    return Sampling(
        temperature=policy.temperature,
        top_p=policy.top_p,
        max_tokens=policy.max_tokens,
        stop=policy.stop,
        noise=config.faults.logit_noise,
    )


def eval_sampling_of(config: RunConfig) -> Sampling:
    """How held-out turns are sampled, where the mode is not greedy."""
    temperature = config.eval.temperature
    sampling = replace(sampling_of(config), noise=0.0)
    return sampling if temperature is None else replace(sampling, temperature=temperature)


def pad_id(tokenizer: Any) -> int:
    """The id that fills rows: any will do, since padding is never read."""
    return int(tokenizer.pad_token_id if tokenizer.pad_token_id is not None else 0)


def limits_of(config: RunConfig) -> Limits:
    """When episodes are cut."""
    rollout = config.rollout
    return Limits(
        max_turns=rollout.max_turns,
        max_tokens=rollout.max_tokens,
        max_seconds=rollout.max_seconds,
        env_timeout_s=rollout.env_timeout_s,
        sampler_timeout_s=rollout.sampler_timeout_s,
    )


def make_env(task: Task) -> TextEnv:
    """A Gymnasium environment as the task names it.

    Ours count turns themselves, and wrappers that check each call cost more than a tiny policy's
    turn; `rlagents envs check` does their work once.
    """
    kwargs = dict(task.kwargs)
    if task.opponents or task.seat:
        kwargs["seat"] = task.seat
    env: Any = gymnasium.make(task.env_id, disable_env_checker=True, **kwargs)
    return env


def make_window(config: RunConfig, chat: Chat, context: ContextSection | None = None) -> Window:
    """The context of one episode, by `context.strategy`; `context` instead of the run's own."""
    section = context or config.context
    if config.policy.history == "template":
        return TemplateWindow(chat, section, config.policy.max_tokens)
    return WINDOWS[section.strategy](chat, section, config.policy.max_tokens)


def make_worker(
    config: RunConfig,
    *,
    device: str = "cpu",
    model: bool = True,
    tokenizer: Any = None,
    threads: int | None = None,
    league: str | None = None,
    endpoints: Endpoints | None = None,
) -> RolloutWorker:
    """Environments and engine of one worker. Picklable with `functools.partial`, for Ray.

    Args:
        model: false where only scripted policies play.
        tokenizer: that of the policy, where it is loaded already.
        threads: torch threads, where the process is the worker's own.
        league: folder of the run's frozen versions.
        endpoints: those of this process, where it has others than the players'.
    """
    if threads is not None:
        torch.set_num_threads(threads)
    network: Any = None
    if model:
        network, tokenizer = models.load(
            config.policy,
            seed=config.run.seed,
            window=config.context.window,
            device=device,
            dtype=config.learner.dtype,
        )
    elif tokenizer is None:
        tokenizer = byte_tokenizer()  # scripted actions are never trained on here
    chat = Chat(tokenizer, system=config.policy.system, history=config.policy.history)
    engine = engine_of(config, network, chat) if model else None
    players = Players(
        config,
        policy=None if engine is None else Hosted(engine, chat),
        chat=chat,
        make_window=make_window,
        device=device,
        league=None if league is None else Path(league),
        endpoints=endpoints,
    )
    return RolloutWorker(
        sampler=engine,
        make_env=make_env,
        make_actor=players.actor,
        limits=limits_of(config),
        seat=players.seat,
        on_close=players.close,
    )


def make_judge_model(
    config: RunConfig, key: str, section: JudgeSection, *, device: str
) -> ModelBackend:
    """A model of this process as a judge: one of its own, or the policy. `key` names the section.

    Raises:
        ConfigError: for a model that there is not, or that can't tell a form's labels apart, and
            for a window that has no room for a question.
    """
    own = section.backend == "policy"
    policy = config.policy
    if not own:
        policy = replace(policy, model=section.model, tiny=PolicySection().tiny)
    window = section.window or config.context.window
    network, tokenizer = models.load(
        policy, seed=config.run.seed, window=window, device=device, dtype=config.learner.dtype
    )
    chat = Chat(tokenizer)
    _check_judge_window(config, key, section, chat, window)
    engine = LocalEngine(
        network,
        chat,
        window=window,
        cache_tokens=window * section.concurrency,
        max_batch=section.concurrency,
    )
    backend = (PolicyBackend if own else ModelBackend)(
        network,
        chat,
        engine,
        name=f"{policy.model} of {uuid.uuid4().hex}" if own else policy.model,
        window=window,
        timeout_s=section.call_timeout_s,
    )
    if section.form != "rubric":
        backend.check(LABELS)
    return backend


def _check_judge_window(
    config: RunConfig, key: str, section: JudgeSection, chat: Chat, window: int
) -> None:
    """A question without any transcript fits into the window, with its answer."""
    ask = shortest_ask(section, pairwise=config.scoring.name == "tournament")
    try:
        question = len(chat.render_ids(ask.messages))
    except ConfigError as error:  # a template that refuses this conversation
        raise ConfigError(f"{key}.model: {error}") from error
    if question + ask.max_tokens > window:
        source = "" if section.window else f"{window}, of context.window"
        raise ConfigError(
            f"{key}.window: expected {question + ask.max_tokens} or more, which a question without "
            f"any transcript ({question} tokens) and its answer ({ask.max_tokens}) take, "
            f"got {source or window}"
        )


def make_queue(
    config: RunConfig,
    *,
    device: str = "cpu",
    policies: list[PolicyBackend] | None = None,
    endpoints: Endpoints | None = None,
) -> ScoringQueue:
    """What scores trajectories, by `scoring.name`; sums of rewards need no threads.

    Args:
        config: of the run.
        device: of judges that are models of this process.
        policies: judges that are the policy are added to it: they want its newest weights.
        endpoints: those of this process, where others than judges use them too.

    Raises:
        ConfigError: for a function or a judge that there is not.
    """
    section = config.scoring

    def make_model(key: str, judge: JudgeSection) -> ModelBackend:
        backend = make_judge_model(config, key, judge, device=device)
        if policies is not None and isinstance(backend, PolicyBackend):
            policies.append(backend)
        return backend

    return ScoringQueue(
        make_scorer(config, make_model, endpoints),
        concurrency=0 if section.name == "return" else section.concurrency,
        limit=section.queue,
        timeout_s=section.timeout_s,
    )


def make_pool(
    config: RunConfig,
    *,
    device: str,
    notify: Callable[[str], None],
    model: bool = True,
    league: str | None = None,
    endpoints: Endpoints | None = None,
) -> Pool:
    """Where episodes run, by `rollout.executor`.

    Args:
        config: of the run.
        device: of the policy in this process.
        notify: takes what the user should know.
        model: as for `make_worker`.
        league: the folder of frozen versions.
        endpoints: those of this process; workers in others have their own.
    """
    rollout = config.rollout
    if rollout.executor == "local":
        worker = make_worker(config, device=device, model=model, league=league, endpoints=endpoints)
        return LocalPool(worker, rollout.concurrency)
    import ray

    from rlagents.rollout.ray_pool import RayPool

    if not ray.is_initialized():
        ray.init(
            address=rollout.ray_address,
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.ERROR,
            # Ray's workers are nice (15) by default; ours are what everybody waits for.
            _system_config=None if rollout.ray_address else {"worker_niceness": 0},
        )
    build = functools.partial(
        make_worker, config, device="auto", model=model, threads=1, league=league
    )
    return RayPool(
        build,
        workers=rollout.workers,
        concurrency=rollout.concurrency,
        num_gpus=rollout.gpus_per_worker,
        sampler_timeout_s=rollout.sampler_timeout_s,
        notify=notify,
    )
