"""A real engine and the learner agree on every trained token, with both tokenizers."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from rlagents.config import CompactSection, ContextSection
from rlagents.data.packing import pack
from rlagents.data.segments import segments_of
from rlagents.learner.model import policy_logprobs, prepare
from rlagents.policy.chat import Chat
from rlagents.policy.local import LocalEngine
from rlagents.policy.sampler import Finish, Sampled, SampleRequest, Sampling
from rlagents.rollout.actors import PolicyActor
from rlagents.rollout.context import ContextWindow
from rlagents.rollout.episode import Limits, Progress, run_episode
from rlagents.rollout.windows.compact import CompactWindow
from rlagents.rollout.windows.template import TemplateWindow
from rlagents.types import EpisodeKey, Segment, Task, Trajectory, TurnKind
from tests.policy.toys import CORPUS, policy

TOLERANCE = 1e-5
LIMITS = Limits(
    max_turns=9, max_tokens=10_000, max_seconds=120, env_timeout_s=60, sampler_timeout_s=60
)
WINDOW = 96


class Babble:
    """Says random pieces of text, some of them hostile, and never ends."""

    pieces = (*CORPUS[:3], "é鍵🔑", "<|im_end|>", "<|end|>", "<think>x</think>", "")

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[str, dict[str, Any]]:
        self.rng = np.random.default_rng(seed)
        return self.say(), {}

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        return self.say(), 0.0, False, False, {}

    def say(self) -> str:
        return str(self.rng.choice(self.pieces))[: self.rng.integers(0, 12)]

    def close(self) -> None: ...


def inside(chat: Chat, vocabulary: int) -> tuple[str, ...]:
    """Stop strings that end inside a token: beginnings of tokens of several letters."""
    words = [chat.decode([i]) for i in range(vocabulary)]
    long = [w for w in words if len(w) >= 2 and w.isascii() and w.strip().isalpha()]
    return tuple(sorted({w[:-1] for w in long if len(w) > 2} | {"zq"}))[:40]


@dataclass
class Rig:
    chat: Chat
    tokenizer: Any
    learner: Any
    engine: Any
    stops: tuple[str, ...]


class Retokenising:
    """An engine that, wrongly, reads its prompt as text and makes ids of it again."""

    def __init__(self, engine: LocalEngine, tokenizer: Any) -> None:
        self._engine = engine
        self._tokenizer = tokenizer
        self.release = engine.release
        self.load = engine.load
        self.close = engine.close

    def sample(self, request: SampleRequest) -> Future[Sampled]:
        text = self._tokenizer.decode(request.prompt_ids.tolist())
        ids = self._tokenizer.encode(text, add_special_tokens=False)
        return self._engine.sample(
            SampleRequest(
                conversation=request.conversation,
                prompt_ids=np.array(ids, np.int32),
                sampling=request.sampling,
                seed=request.seed,
            )
        )


@pytest.fixture(scope="module", params=["bytes", "bpe"])
def rig(request: pytest.FixtureRequest) -> Iterator[Rig]:
    gain = {"bytes": 1.0, "bpe": 2.0}[request.param]
    model, tokenizer = policy(request.param, gain=gain)
    chat = Chat(tokenizer, system="be brief")
    engine = LocalEngine(
        model, chat, window=2 * WINDOW, cache_tokens=3 * 2 * WINDOW, max_batch=3, prefill_chunk=16
    )
    learner, _ = policy(request.param, gain=gain)
    prepare(learner)
    yield Rig(chat, tokenizer, learner, engine, inside(chat, len(tokenizer)))
    engine.close()


def play(
    rig: Rig,
    *,
    kind: type[ContextWindow] | type[TemplateWindow] = ContextWindow,
    engine: Any = None,
    temperature: float = 1.0,
    episodes: int = 4,
) -> list[Trajectory]:
    sampling = Sampling(temperature=temperature, max_tokens=10, stop=rig.stops)
    compact = CompactSection(prompt="!", label="", tokens=12)
    window = 128 if kind is CompactWindow else WINDOW  # room for request and summary
    section = ContextSection(window=window, pinned_turns=1, overlap=20, compact=compact)
    played = []
    for member in range(episodes):
        key = EpisodeKey(stream="train", iteration=0, group=0, member=member)
        actor = PolicyActor(
            engine or rig.engine,
            kind(rig.chat, section, sampling.max_tokens),
            sampling,
            key=key,
            base_seed=0,
            timeout_s=60,
        )
        task = Task(env_id="babble", seed=member)
        trajectory = run_episode(
            Progress(key=key, task=task),
            lambda task: Babble(),
            lambda env, actor=actor: actor,
            LIMITS,
        )
        assert not trajectory.stop.failed, trajectory.error
        played.append(trajectory)
    return played


def segments(trajectories: list[Trajectory]) -> list[Segment]:
    parts = [
        segments_of(t, np.ones(len(t.turns), np.float32), label=i)
        for i, t in enumerate(trajectories)
    ]
    return list(itertools.chain.from_iterable(parts))


def largest_error(rig: Rig, trajectories: list[Trajectory]) -> tuple[float, int]:
    """Behaviour against learner, over all trained tokens of packed rows; and their number."""
    batch = pack(segments(trajectories), row_tokens=2 * WINDOW, pad_id=0)
    logprobs, _ = policy_logprobs(rig.learner, batch, chunk=64)
    trained = batch.loss_weights != 0
    errors = np.abs(logprobs.detach().numpy() - batch.behaviour_logprobs)[trained]
    return float(errors.max()), int(trained.sum())


@pytest.mark.parametrize("kind", [ContextWindow, TemplateWindow, CompactWindow])
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_recorded_logprobs_are_the_learners(
    rig: Rig, kind: type[ContextWindow] | type[TemplateWindow], temperature: float
) -> None:
    trajectories = play(rig, kind=kind, temperature=temperature)
    error, trained = largest_error(rig, trajectories)
    assert error < TOLERANCE
    assert trained == sum(t.sampled_tokens for t in trajectories) > 100
    assert all(t.contexts > 1 for t in trajectories)
    summaries = [t for x in trajectories for t in x.turns if t.kind is TurnKind.SUMMARY]
    assert bool(summaries) == (kind is CompactWindow)


def test_stop_strings_end_inside_tokens_and_all_ids_are_kept(rig: Rig) -> None:
    finishes: list[Finish] = []

    class Noting:
        release = rig.engine.release

        def sample(self, request: SampleRequest) -> Future[Sampled]:
            future = rig.engine.sample(request)
            finishes.append(future.result(60).finish)
            return future

    trajectories = play(rig, engine=Noting(), episodes=8)
    cut = kept = 0
    for finish, turn in zip(finishes, [t for x in trajectories for t in x.turns], strict=True):
        if finish is not Finish.STOP:
            continue
        whole, before = rig.chat.decode(turn.action_ids), rig.chat.decode(turn.action_ids[:-1])
        assert whole.startswith(turn.action) and whole != turn.action
        assert not any(stop in turn.action for stop in rig.stops)
        cut += 1
        rest = whole[len(turn.action) :]
        kept += any(rest.startswith(s) and rest != s for s in rig.stops) and before != whole
    if len(rig.stops) > 1:  # tokens of several letters exist
        assert cut >= 5 and kept >= 1
    assert largest_error(rig, trajectories)[0] < TOLERANCE


def test_an_engine_that_makes_ids_again_is_caught(rig: Rig) -> None:
    """Merges come out differently, and bytes that are no UTF-8 do not survive being text."""
    wrong = Retokenising(rig.engine, rig.tokenizer)
    with pytest.raises(AssertionError):
        assert largest_error(rig, play(rig, engine=wrong))[0] < TOLERANCE
    assert largest_error(rig, play(rig))[0] < TOLERANCE
