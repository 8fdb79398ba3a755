from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from rlagents.config import ContextSection
from rlagents.errors import JudgeError, SamplerError
from rlagents.policy.asking import Ask, Reply
from rlagents.policy.chat import Chat
from rlagents.policy.sampler import Sampling
from rlagents.policy.tiny import byte_tokenizer
from rlagents.rollout.actors import EndpointActor
from rlagents.rollout.episode import Limits, Progress, run_episode
from rlagents.types import EpisodeKey, StopReason, Task

KEY = EpisodeKey(stream="eval/rl/sampled", iteration=0, group=1, member=0)
CHAT = Chat(byte_tokenizer())


class Saying:
    """A backend that says `a1`, `a2`, ... and keeps what it was asked."""

    identity = "saying"

    def __init__(self, *texts: str) -> None:
        self.asked: list[Ask] = []
        self.texts = texts

    def ask(self, ask: Ask) -> Reply:
        self.asked.append(ask)
        number = len(self.asked)
        return Reply(text=self.texts[number - 1] if self.texts else f"a{number}")

    def close(self) -> None: ...


class Failing(Saying):
    def ask(self, ask: Ask) -> Reply:
        raise JudgeError("HTTP 500: no")


def actor(backend: Any, *, system: str = "", stop: tuple[str, ...] = (), **context: Any) -> Any:
    return EndpointActor(
        backend,
        ContextSection(**{"window": 64, **context}),
        Sampling(max_tokens=4, temperature=0.5, stop=stop),
        CHAT.encode_action,
        system=system,
        key=KEY,
        base_seed=3,
    )


def shown(ask: Ask) -> list[str]:
    return [text for _, text in ask.messages]


def test_the_conversation_as_messages() -> None:
    backend = Saying()
    player = actor(backend, system="be brief")
    assert player.act("o1").text == "a1"
    action = player.act("o2")
    assert backend.asked[1].messages == (
        ("system", "be brief"),
        ("user", "o1"),
        ("assistant", "a1"),
        ("user", "o2"),
    )
    assert (backend.asked[1].max_tokens, backend.asked[1].temperature) == (4, 0.5)
    assert backend.asked[0].seed != backend.asked[1].seed
    assert action.action_ids.tolist() == [ord("a"), ord("2"), CHAT.end_id]
    assert action.logprobs.tolist() == [0, 0, 0]
    assert (len(action.observation_ids), action.dropped_tokens) == (0, 0)
    assert player.proceed() is None
    again = Saying()
    repeated = actor(again, system="be brief")
    for observation in ("o1", "o2"):
        repeated.act(observation)
    assert again.asked == backend.asked


def test_old_turns_behind_the_pinned_ones_make_room() -> None:
    # Room for 4 x (24 - 4) = 80 characters. A turn has 20 + 2; three and an observation are 86:
    # the second goes, 22 characters or 5 tokens.
    backend = Saying()
    player = actor(backend, window=24)
    observations = [str(i) * 20 for i in range(1, 7)]
    dropped = [player.act(text).dropped_tokens for text in observations]
    assert dropped == [0, 0, 0, 5, 5, 5]
    assert [text[0] for text in shown(backend.asked[3])] == ["1", "a", "3", "a", "4"]
    assert [text[0] for text in shown(backend.asked[5])] == ["1", "a", "5", "a", "6"]
    assert all(sum(map(len, shown(ask))) <= 80 for ask in backend.asked)


def test_nothing_pinned() -> None:
    backend = Saying()
    player = actor(backend, window=24, pinned_turns=0)
    for i in range(1, 6):
        player.act(str(i) * 20)
    assert [text[0] for text in shown(backend.asked[4])] == ["3", "a", "4", "a", "5"]


def test_what_does_not_fit_ends_the_episode() -> None:
    player = actor(Saying(), window=24, system="x" * 10)
    assert player.act("o" * 71) is None
    assert player.act("o" * 60).text == "a1"
    assert player.act("o" * 10) is None  # 70 beside the 62 that are pinned


def test_long_observations_are_clipped() -> None:
    backend = Saying()
    player = actor(backend, max_observation=16)
    player.act("head" + "x" * 500 + "tail")
    (text,) = shown(backend.asked[0])
    assert len(text) <= 64
    assert text.startswith("head") and text.endswith("tail") and "left out" in text


def test_stop_strings_end_an_action() -> None:
    backend = Saying("go north\nthen;south", "", "x")
    player = actor(backend, stop=(";", "\n"))
    assert player.act("o1").text == "go north"
    empty = player.act("o2")
    assert (empty.text, empty.action_ids.tolist()) == ("", [CHAT.end_id])
    player.act("o3")
    assert shown(backend.asked[2]) == ["o1", "go north", "o2", "", "o3"]


def test_no_answer_is_a_failure_of_the_sampler() -> None:
    with pytest.raises(SamplerError, match="HTTP 500"):
        actor(Failing()).act("o1")


class Countdown:
    """Three turns, worth one each."""

    def reset(self, **_: Any) -> tuple[str, dict[str, Any]]:
        self.left = 3
        return "3 left", {}

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        self.left -= 1
        return f"{self.left} left", 1.0, not self.left, False, {}

    def close(self) -> None: ...


LIMITS = Limits(
    max_turns=8, max_tokens=1000, max_seconds=60.0, env_timeout_s=30.0, sampler_timeout_s=30.0
)


@pytest.mark.parametrize(
    ("backend", "stop", "turns"),
    [(Saying(), StopReason.TERMINATED, 3), (Failing(), StopReason.SAMPLER_ERROR, 0)],
)
def test_an_episode(backend: Any, stop: StopReason, turns: int) -> None:
    progress = Progress(key=KEY, task=Task(env_id="countdown", seed=0))
    trajectory = run_episode(progress, lambda _: Countdown(), lambda _: actor(backend), LIMITS)
    assert (trajectory.stop, len(trajectory.turns)) == (stop, turns)
    assert trajectory.episode_return == turns
    assert all(np.all(turn.behaviour_logprobs == 0) for turn in trajectory.turns)
    if trajectory.error is not None:
        assert trajectory.error.boundary == "sampler"
