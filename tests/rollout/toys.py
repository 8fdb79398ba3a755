"""Environments that misbehave on purpose, samplers without a model, and builders around them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from queue import SimpleQueue
from typing import Any

import numpy as np

from rlagents.config import ContextSection
from rlagents.errors import SamplerError
from rlagents.policy.chat import Chat
from rlagents.policy.sampler import Finish, Sampled, SampleRequest, Sampling
from rlagents.policy.tiny import byte_tokenizer
from rlagents.rollout.actors import PolicyActor
from rlagents.rollout.context import ContextWindow
from rlagents.rollout.episode import Actor, Limits, Progress, TextEnv
from rlagents.rollout.worker import Job, RolloutWorker
from rlagents.types import EpisodeKey, Task, Trajectory

BYTES = Chat(byte_tokenizer())
SAMPLING = Sampling(max_tokens=8)
LIMITS = Limits(
    max_turns=10, max_tokens=10_000, max_seconds=60, env_timeout_s=60, sampler_timeout_s=60
)


class Script:
    """An environment of given observations; any call may be replaced.

    Step n pays n + 1 and shows `observations[n + 1]`; it terminates with the last one.
    """

    def __init__(
        self,
        observations: Sequence[Any] = ("a", "b", "c"),
        *,
        reset: Callable[[], Any] | None = None,
        step: Callable[[int], Any] | None = None,
        close: Callable[[], None] | None = None,
    ) -> None:
        self._observations = observations
        self._reset, self._step, self._close = reset, step, close
        self.actions: list[str] = []
        self.seeds: list[int | None] = []
        self.closed = 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        self.seeds.append(seed)
        return self._reset() if self._reset else (self._observations[0], {})

    def step(self, action: str) -> Any:
        number = len(self.actions)
        self.actions.append(action)
        if self._step is not None and (answer := self._step(number)) is not None:
            return answer
        last = number + 2 == len(self._observations)
        info = {"metrics": {"steps": number + 1}}
        return self._observations[number + 1], float(number + 1), last, False, info

    def close(self) -> None:
        self.closed += 1
        if self._close:
            self._close()


class Parrot:
    """A sampler that answers the same text at once, and remembers what it was asked."""

    def __init__(self, text: str = "go", chat: Chat = BYTES) -> None:
        self.ids = chat.encode_action(text)
        self.text = text
        self.requests: list[SampleRequest] = []
        self.released: list[str] = []
        self.version = 0
        self.closed = 0

    def sample(self, request: SampleRequest) -> Future[Sampled]:
        self.requests.append(request)
        future: Future[Sampled] = Future()
        future.set_result(self.answered())
        return future

    def answered(self) -> Sampled:
        """The text, under the weights of now."""
        return Sampled(
            ids=self.ids.copy(),
            logprobs=np.full(len(self.ids), -0.5, np.float32),
            text=self.text,
            finish=Finish.END,
            weights_version=self.version,
            computed_tokens=0,
        )

    def release(self, conversation: str) -> None:
        self.released.append(conversation)

    def load(self, weights: Mapping[str, Any], version: int) -> None:
        self.version = version

    def close(self) -> None:
        self.closed += 1


class Mute(Parrot):
    """A sampler that answers only when told to; `asked` is set by the first request."""

    def __init__(self) -> None:
        super().__init__()
        self.asked = threading.Event()
        self._open: SimpleQueue[Future[Sampled]] = SimpleQueue()

    def sample(self, request: SampleRequest) -> Future[Sampled]:
        future: Future[Sampled] = Future()
        self._open.put(future)
        self.asked.set()
        return future

    def answer(self) -> None:
        """Answer the oldest request, or the next one that comes."""
        self._open.get(timeout=30).set_result(self.answered())


class Failing(Parrot):
    """A sampler whose answers are errors."""

    def __init__(self, error: Exception | None = None) -> None:
        super().__init__()
        self.error = error or SamplerError("out of paper")

    def sample(self, request: SampleRequest) -> Future[Sampled]:
        future: Future[Sampled] = Future()
        future.set_exception(self.error)
        return future


def key(member: int = 0, group: int = 0) -> EpisodeKey:
    return EpisodeKey(stream="train", iteration=0, group=group, member=member)


def job(member: int = 0, **task: Any) -> Job:
    return Job(key=key(member), task=Task(env_id="toy", seed=6, **task), sampling=SAMPLING)


def policy_actor(
    sampler: Any, of: Job, *, timeout_s: float = 60, window: int = 128, chat: Chat = BYTES
) -> PolicyActor:
    context = ContextWindow(chat, ContextSection(window=window), of.sampling.max_tokens)
    return PolicyActor(sampler, context, of.sampling, key=of.key, base_seed=0, timeout_s=timeout_s)


def worker(
    make_env: Callable[[Task], TextEnv],
    sampler: Any = None,
    *,
    limits: Limits = LIMITS,
    window: int = 128,
    make_actor: Callable[[Job, TextEnv], Actor] | None = None,
) -> RolloutWorker:
    sampler = Parrot() if sampler is None else sampler

    def policy(of: Job, env: TextEnv) -> Actor:
        return policy_actor(sampler, of, timeout_s=limits.sampler_timeout_s, window=window)

    return RolloutWorker(
        sampler=sampler, make_env=make_env, make_actor=make_actor or policy, limits=limits
    )


def progress(member: int = 0) -> Progress:
    return Progress(key=key(member), task=job().task)


def token_ids(trajectory: Trajectory) -> list[tuple[int, list[int], list[int]]]:
    """What makes two trajectories the same for training: contexts and ids, turn by turn."""
    return [
        (turn.context, turn.observation_ids.tolist(), turn.action_ids.tolist())
        for turn in trajectory.turns
    ]
