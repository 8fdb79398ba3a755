"""What must hold of every context strategy: checked on whole episodes with drawn answers.

played = play(window, observations, answer, reserve=6)
assert_exact(played, limit=section.window)
assert_dropped(played, chat)
assert_repeats(played, another_window)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from hypothesis import strategies as st

from rlagents.config import ContextSection
from rlagents.data.segments import segments_of
from rlagents.policy.chat import Chat
from rlagents.policy.sampler import Finish, Sampled, SampleRequest, Sampling
from rlagents.policy.tiny import byte_tokenizer
from rlagents.rollout.actors import PolicyActor
from rlagents.rollout.context import Prompt, Step, Window
from rlagents.rollout.episode import run_episode
from rlagents.types import IntArray, Trajectory, TurnKind
from tests.policy.toys import bpe_tokenizer
from tests.rollout import toys

CHATS = {
    "bytes": Chat(byte_tokenizer()),
    "bytes, system": Chat(byte_tokenizer(), system="s"),
    "bpe": Chat(bpe_tokenizer()),
    "bpe, system": Chat(bpe_tokenizer(), system="be brief"),
}
PIECES = ("go north", "<think>red</think>", "<|im_end|>", "<|end|>", "<|im_start|>", "é", "鍵🔑")
LIMITS = replace(toys.LIMITS, max_turns=1000, max_tokens=10**6)

texts = st.one_of(
    st.text(max_size=12),
    st.lists(st.sampled_from(PIECES), max_size=3).map("".join),
    st.lists(st.sampled_from(PIECES), min_size=1, max_size=3).map(lambda said: "".join(said) * 9),
)
"""Of an environment that may be hostile."""

Answer = tuple[IntArray, str]
"""What an engine returns: ids, and the text that the window or the environment gets."""


@st.composite
def sections(draw: st.DrawFn, *strategies: str, least: int = 24, **fixed: Any) -> ContextSection:
    """Any section with one of these strategies; `fixed` fields are not drawn."""
    window = draw(st.integers(least, least + 140))
    settings: dict[str, Any] = {
        "strategy": draw(st.sampled_from(strategies)),
        "window": window,
        "pinned_turns": draw(st.integers(0, 3)),
        "overlap": draw(st.integers(0, window - 1)),
        "truncation": draw(st.sampled_from(["sliding", "progressive"])),
        # From 58 on there is room for the mark in any of these tokenizers.
        "max_observation": draw(st.sampled_from([0, *range(58, window, 7)])),
    }
    return ContextSection(**settings | fixed)


@st.composite
def answers(draw: st.DrawFn, chat: Chat, most: int, said: st.SearchStrategy[str] = texts) -> Answer:
    """What an engine may return: any ids at all, cut anywhere, with or without an end."""
    kind = draw(st.sampled_from(["text", "text", "ids", "cut"]))
    if kind == "ids":
        size = len(chat.encode_action("")) + 255
        ids = draw(st.lists(st.integers(0, size), min_size=1, max_size=most))
        return np.array(ids, np.int32), chat.decode(ids)
    whole = chat.encode_action(draw(said))[:most]
    ids = whole if kind == "text" or len(whole) == 1 else whole[:-1]
    spoken = ids[:-1] if ids[-1] == chat.end_id else ids
    text = chat.decode(spoken)
    if kind == "cut":  # a stop string that begins inside the action
        text = text[: draw(st.integers(0, len(text)))]
    return ids, text


class Noted:
    """A window whose prompts are written down."""

    def __init__(self, window: Window) -> None:
        self._window = window
        self.prompts: list[Prompt] = []

    def observe(self, text: str) -> Prompt | None:
        return self._note(self._window.observe(text))

    def act(self, action_ids: IntArray, text: str) -> Step:
        step = self._window.act(action_ids, text)
        self._note(step.prompt)
        return step

    def close(self) -> None:
        self._window.close()

    def _note(self, prompt: Prompt | None) -> Prompt | None:
        if prompt is not None:
            self.prompts.append(prompt)
        return prompt


class Drawn(toys.Parrot):
    """A sampler whose answers come from a function; no two tokens have the same log-probability."""

    def __init__(self, answer: Callable[[SampleRequest], Answer]) -> None:
        super().__init__()
        self._answer = answer
        self._tokens = 0
        self.sampled: list[Sampled] = []

    def sample(self, request: SampleRequest) -> Future[Sampled]:
        ids, text = self._answer(request)
        assert 1 <= len(ids) <= request.sampling.max_tokens
        # A copy: a window that changed its prompt later would be found out.
        self.requests.append(replace(request, prompt_ids=request.prompt_ids.copy()))
        first, self._tokens = self._tokens, self._tokens + len(ids)
        sampled = Sampled(
            ids=ids,
            logprobs=(-np.arange(first + 1, self._tokens + 1) / 1024).astype(np.float32),
            text=text,
            finish=Finish.END,
            weights_version=0,
            computed_tokens=0,
        )
        self.sampled.append(sampled)
        future: Future[Sampled] = Future()
        future.set_result(sampled)
        return future


@dataclass
class Played:
    """An episode, and what went to the sampler and came back, turn by turn."""

    trajectory: Trajectory
    prompts: list[Prompt]
    requests: list[SampleRequest]
    sampled: list[Sampled]
    acted: list[str]
    """What the environment received."""
    observations: Sequence[str]
    reserve: int

    @property
    def stopped(self) -> bool:
        """Whether the window ended it."""
        return self.trajectory.stop.cut


def play(
    window: Window,
    observations: Sequence[str],
    answer: Callable[[SampleRequest], Answer],
    *,
    reserve: int,
) -> Played:
    """An episode with one action for each observation, as a rollout plays it."""
    noted, sampler = Noted(window), Drawn(answer)
    env = toys.Script([*observations, "the end"])
    actor = PolicyActor(
        sampler,
        noted,
        Sampling(max_tokens=reserve),
        key=toys.key(),
        base_seed=0,
        timeout_s=60,
    )
    trajectory = run_episode(toys.progress(), lambda task: env, lambda env: actor, LIMITS)
    assert not trajectory.stop.failed, trajectory.error
    played = Played(
        trajectory,
        noted.prompts,
        sampler.requests,
        sampler.sampled,
        env.actions,
        observations,
        reserve,
    )
    assert played.stopped == (trajectory.actions < len(observations))
    return played


def in_turn(said: Sequence[Answer]) -> Callable[[SampleRequest], Answer]:
    """Answers given one after the other."""
    rest: Iterator[Answer] = iter(said)
    return lambda request: next(rest)


def spoken(chat: Chat, *said: str) -> Callable[[SampleRequest], Answer]:
    """Texts, each with its end, one after the other."""
    return in_turn([(chat.encode_action(text), text) for text in said])


def assert_exact(played: Played, *, limit: int) -> None:
    """Segments are what was sampled under and what was sampled, each action once, all aligned."""
    turns = played.trajectory.turns
    assert len(turns) == len(played.requests) == len(played.prompts)
    credit = np.arange(len(turns), dtype=np.float32) + 1
    segments = segments_of(played.trajectory, credit, label=0)
    trained: list[int] = []
    for segment in segments:
        assert len(segment) <= limit
        assert (segment.loss_mask == (segment.turns >= 0)).all()
        assert not segment.behaviour_logprobs[~segment.loss_mask].any()
        assert not segment.advantages[~segment.loss_mask].any()
        owned = list(dict.fromkeys(segment.turns[segment.loss_mask].tolist()))
        trained += owned
        for number in owned:
            at = np.flatnonzero(segment.turns == number)
            request, sampled = played.requests[number], played.sampled[number]
            assert turns[number].context == segment.source[1]
            assert segment.token_ids[: at[0]].tolist() == request.prompt_ids.tolist()
            assert at.tolist() == list(range(at[0], at[0] + len(sampled.ids)))
            assert segment.token_ids[at].tolist() == sampled.ids.tolist()
            assert segment.behaviour_logprobs[at].tolist() == sampled.logprobs.tolist()
            assert (segment.advantages[at] == credit[number]).all()
        # Nothing follows the last action of a context.
        assert segment.loss_mask[-1]
    assert sorted(trained) == list(range(len(turns)))
    assert {turn.context for turn in turns} == set(range(len(segments)))
    for prompt, request in zip(played.prompts, played.requests, strict=True):
        assert request.prompt_ids.tolist() == prompt.prompt_ids.tolist()
        most = played.reserve if prompt.max_tokens is None else prompt.max_tokens
        assert request.sampling.max_tokens == most
        assert len(request.prompt_ids) + most <= limit
    actions = [turn for turn in turns if turn.kind is TurnKind.ACTION]
    assert [turn.action for turn in actions] == played.acted
    shown = list(played.observations[: len(actions)])
    assert [turn.observation for turn in actions] == shown
    assert not any(turn.reward for turn in turns if turn.kind is not TurnKind.ACTION)


def assert_dropped(played: Played, chat: Chat) -> None:
    """`dropped_tokens` and what is kept are the whole history, in each conversation by itself."""
    history: dict[str, int] = {}
    contexts: set[int] = set()
    for turn, prompt in zip(played.trajectory.turns, played.prompts, strict=True):
        assert turn.dropped_tokens == prompt.dropped_tokens
        opening = len(chat.observation_ids(prompt.observation))
        before = history.get(prompt.branch, 0)
        kept = before
        if prompt.context not in contexts:
            kept = len(prompt.prompt_ids) - len(chat.head_ids) - opening
        assert prompt.dropped_tokens == before - kept >= 0
        contexts.add(prompt.context)
        size = opening + len(turn.action_ids) + len(chat.close_ids(turn.action_ids))
        history[prompt.branch] = before + size


def assert_repeats(played: Played, window: Window) -> None:
    """Another window that is given the same answers makes the same episode of them."""
    said = [(sampled.ids, sampled.text) for sampled in played.sampled]
    again = play(window, played.observations, in_turn(said), reserve=played.reserve)
    assert toys.token_ids(again.trajectory) == toys.token_ids(played.trajectory)
    assert again.trajectory.stop == played.trajectory.stop
    assert again.acted == played.acted
