"""From a player's name to whoever plays: the policy, a script, a frozen version, another model."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from rlagents.config import ContextSection, PolicySection, RunConfig, player_of
from rlagents.errors import ConfigError, SamplerError, nearest
from rlagents.policy import models
from rlagents.policy.chat import Chat
from rlagents.policy.endpoints import Endpoints, Line
from rlagents.policy.engines import Engines
from rlagents.policy.local import LocalEngine
from rlagents.policy.sampler import Sampler
from rlagents.policy.scripted import scripted_policy
from rlagents.rollout.actors import EndpointActor, PolicyActor, ScriptedActor
from rlagents.rollout.context import Window
from rlagents.rollout.episode import Actor, TextEnv
from rlagents.rollout.opponents import ScriptedPlayer, SeatPlayer, Seats, key_of_seat
from rlagents.rollout.recorded import RecordedSampler
from rlagents.rollout.worker import Job
from rlagents.runs import RunFolder
from rlagents.types import EpisodeKey

SCRIPT_SEED = 101
"""Purpose of the seed of a scripted policy (a turn's number is that of a sampled one)."""

MakeWindow = Callable[[RunConfig, Chat, ContextSection | None], Window]


@dataclass(frozen=True, slots=True)
class Hosted:
    """A model of this process, and how it reads text."""

    sampler: Sampler
    chat: Chat

    def close(self) -> None:
        self.sampler.close()


def seed_key(key: EpisodeKey) -> EpisodeKey:
    """The key that an episode's random numbers derive from.

    Evaluations draw the same numbers at every stage and step: two scores then differ by their
    policies alone, and `rlagents eval` repeats what the run has measured.
    """
    if key.stream.startswith("eval/"):
        _, at, seat = key.stream.partition("@")
        return replace(key, stream=f"eval{at}{seat}", iteration=0)
    return key


def model_folder(name: str, league: Path | None) -> str:
    """The model that a player is: a frozen version of this run, the policy of another, or a model.

    Raises:
        ConfigError: for a version or a run without a policy.
    """
    kind, which = player_of(name)
    if kind == "past":
        if league is None or not (league / which).is_dir():
            raise ConfigError(f"player {name!r}: this run has no frozen version {which!r}")
        return str(league / which)
    path = Path(name)
    if (path / "config.yaml").is_file():
        folder = RunFolder(path)
        if not folder.policy.is_dir():
            raise ConfigError(f"player {name!r}: the run has no policy yet")
        return str(folder.policy)
    return name


def check_models(config: RunConfig) -> None:
    """Read the tokenizers of all models that the league names, before anything runs.

    Raises:
        ConfigError: for one that is not there.
    """
    for name in dict.fromkeys((*config.league.opponents, *config.league.eval_opponents)):
        if player_of(name)[0] == "model":
            section = replace(config.policy, model=model_folder(name, None))
            try:
                models.check(section)
            except ConfigError as error:
                raise ConfigError(f"player {name!r}: {error}") from error


class Players:
    """Makes actors, for the seat of a trajectory's player and for the others."""

    def __init__(
        self,
        config: RunConfig,
        *,
        policy: Hosted | None,
        chat: Chat,
        make_window: MakeWindow,
        device: str,
        league: Path | None,
        endpoints: Endpoints | None = None,
    ) -> None:
        """`policy` is None where only others play; `league` holds the run's frozen versions.

        `endpoints` are those of this process, where others than players use them too.
        """
        self._config = config
        self._policy = policy
        self._chat = chat
        self._make_window = make_window
        self._device = device
        self._league = league
        self._engines = Engines(self._host, config.league.engines)
        self._endpoints = endpoints or Endpoints(config.endpoints)
        self._lines: dict[str, Line] = {}
        self._making = threading.Lock()
        self._closed = False

    def actor(self, job: Job, env: TextEnv) -> Actor:
        """Who plays the job."""
        kind, which = player_of(job.player)
        if kind == "scripted":
            return self._script(job, env, which)
        actor, release = self._model(job, job.player, job.key)
        return _Borrowed(actor, release) if release is not None else actor

    def seat(self, job: Job, env: TextEnv) -> Seats | None:
        """Put players on the other seats, as the task names them.

        Raises:
            ConfigError: for an environment that has no such seats.
        """
        names = job.task.opponents
        if not names:
            return None
        gym: Any = env
        base = gym.unwrapped
        seats = getattr(base, "seats", 1)
        if seats != len(names) + 1:
            raise ConfigError(
                f"league.seats: expected {seats}, as {job.task.env_id} has, got {len(names) + 1}"
            )
        others = [seat for seat in range(seats) if seat != job.task.seat]
        players: dict[int, SeatPlayer | ScriptedPlayer] = {}
        with ExitStack() as stack:  # where one of them can't be made the others are freed
            for seat, name in zip(others, names, strict=True):
                players[seat] = self._player(job, base, seat, name)
                stack.callback(players[seat].close)
            base.seat_players(players)
            stack.pop_all()
        return Seats(env, players)

    def close(self) -> None:
        """Free all models. May be called twice."""
        self._engines.close()
        with self._making:
            lines, self._lines = list(self._lines.values()), {}
            self._closed = True
        for line in lines:
            line.close()

    def _player(self, job: Job, base: Any, seat: int, name: str) -> SeatPlayer | ScriptedPlayer:
        kind, which = player_of(name)
        key = key_of_seat(job.key, seat)
        if kind == "scripted":
            game = base.game
            if which not in game.scripted:
                known = ", ".join(sorted(game.scripted))
                hint = nearest(which, game.scripted)
                raise ConfigError(f"player {name!r}: expected one of {known}{hint}")
            seed = seed_key(key).seed(self._config.run.seed, SCRIPT_SEED)
            agent = game.possible_agents[seat]
            return ScriptedPlayer(
                name, lambda: game.scripted[which](game, agent, np.random.default_rng(seed))
            )
        actor, release = self._model(job, name, key)
        task = replace(job.task, seat=seat, opponents=())
        return SeatPlayer(actor, name=name, key=key, task=task, release=release or _nothing)

    def _model(
        self, job: Job, name: str, key: EpisodeKey
    ) -> tuple[Actor, Callable[[], None] | None]:
        """An actor of a model, and what gives the model back."""
        kind, which = player_of(name)
        if kind == "endpoint":
            return self._remote(job, which, key), None
        release: Callable[[], None] | None = None
        if kind == "self":
            assert self._policy is not None, "this worker was made without a policy"
            hosted = self._policy
        else:
            hosted = self._engines.take(name)
            release = functools.partial(self._engines.give_back, name)
        with ExitStack() as stack:
            if release is not None:
                stack.callback(release)
            actor = self._policy_actor(job, hosted, key)
            stack.pop_all()
        return actor, release

    def _policy_actor(self, job: Job, hosted: Hosted, key: EpisodeKey) -> PolicyActor:
        sampler: Sampler = hosted.sampler
        if job.recorded and key == job.key:
            sampler = RecordedSampler(sampler, job.recorded, hosted.chat)
        return PolicyActor(
            sampler,
            self._make_window(self._config, hosted.chat, job.context),
            job.sampling,
            key=seed_key(key),
            conversation=str(key),
            base_seed=self._config.run.seed,
            timeout_s=self._config.rollout.sampler_timeout_s,
        )

    def _remote(self, job: Job, name: str, key: EpisodeKey) -> Actor:
        """An actor of a model behind a server."""
        config = self._config
        with self._making:
            if self._closed:
                raise SamplerError(f"endpoint {name!r}: the worker is closed")
            if name not in self._lines:
                self._lines[name] = self._endpoints.line(
                    name,
                    concurrency=config.rollout.concurrency,
                    deadline_s=config.rollout.sampler_timeout_s,
                    key="endpoints",
                )
        return EndpointActor(
            self._lines[name],
            job.context or config.context,
            job.sampling,
            self._chat.encode_action,
            system=config.policy.system,
            key=seed_key(key),
            base_seed=config.run.seed,
        )

    def _script(self, job: Job, env: TextEnv, name: str) -> ScriptedActor:
        seed = seed_key(job.key).seed(self._config.run.seed, SCRIPT_SEED)
        gym: Any = env
        act = scripted_policy(gym, name, np.random.default_rng(seed))
        through = name in getattr(gym.unwrapped, "windowed", ())
        window = self._make_window(self._config, self._chat, job.context) if through else None
        return ScriptedActor(act, window, self._chat.encode_action, self._config.policy.max_tokens)

    def _host(self, name: str) -> Hosted:
        """Load a model beside the policy's."""
        config = self._config
        section = replace(
            config.policy,
            model=model_folder(name, self._league),
            tiny=PolicySection().tiny,
        )
        network, tokenizer = models.load(
            section,
            seed=config.run.seed,
            window=config.context.window,
            device=self._device,
            dtype=config.learner.dtype,
        )
        chat = Chat(tokenizer, system=config.policy.system, history=config.policy.history)
        return Hosted(engine_of(config, network, chat), chat)


class _Borrowed:
    """An actor whose model is given back when it is closed."""

    def __init__(self, actor: Actor, release: Callable[[], None]) -> None:
        self._actor = actor
        self._release: Callable[[], None] = release
        self._lock = threading.Lock()
        self.act = actor.act
        self.proceed = actor.proceed

    def close(self) -> None:
        """Free the actor, then the model."""
        with self._lock:  # the watchdog may close it, too
            release, self._release = self._release, _nothing
        try:
            self._actor.close()
        finally:
            release()


def engine_of(config: RunConfig, network: Any, chat: Chat) -> LocalEngine:
    """An engine of a worker."""
    rollout, seats = config.rollout, config.league.conversations
    return LocalEngine(
        network,
        chat,
        window=config.context.window,
        cache_tokens=rollout.cache_tokens or rollout.whole_cache(config.context, seats),
        max_batch=rollout.concurrency * seats,
        deterministic=rollout.deterministic,
    )


def _nothing() -> None:
    pass
