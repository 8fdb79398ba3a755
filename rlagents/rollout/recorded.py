"""Episodes played again from their record, after whatever played them was lost.

The policy's answers are known, so nothing is sampled; the environment gets the same actions again
and must say the same. From the last recorded turn on the episode plays as if nothing had happened:
a turn's seed depends on its number alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Future
from typing import Any, Protocol

import numpy as np

from rlagents.errors import EnvironmentFailure
from rlagents.policy.sampler import Finish, Sampled, Sampler, SampleRequest
from rlagents.types import EpisodeKey, Trajectory, Turn

STREAM = "paused/"
"""Records of unfinished trajectories are of the stream `paused/N`, N the number of the snapshot."""
FIRST = "first_turn"
"""The metric of such a record that says which turn of its trajectory it begins with."""


class Decoder(Protocol):
    """What a recorded answer's text takes (`rlagents.policy.chat.Chat`)."""

    @property
    def end_id(self) -> int: ...

    def decode(self, ids: Any) -> str: ...


class RecordedSampler:
    """Answers the first requests of an episode from its record, and leaves the rest to a sampler.

    A request whose prompt is not the recorded one fails with `EnvironmentFailure`: something said
    another thing than then, and the recorded answer is none to it.
    """

    def __init__(self, sampler: Sampler, turns: Sequence[Turn], chat: Decoder) -> None:
        self._sampler = sampler
        self._turns = turns
        self._chat = chat
        self._asked = 0

    def sample(self, request: SampleRequest) -> Future[Sampled]:
        """The recorded answer while there is one."""
        number = self._asked
        self._asked += 1
        if number >= len(self._turns):
            return self._sampler.sample(request)
        turn = self._turns[number]
        future: Future[Sampled] = Future()
        added = len(turn.observation_ids)
        prompt = np.asarray(request.prompt_ids)
        if added > len(prompt) or (prompt[len(prompt) - added :] != turn.observation_ids).any():
            future.set_exception(not_repeated(number))
        else:
            future.set_result(self._answer(turn, request))
        return future

    def _answer(self, turn: Turn, request: SampleRequest) -> Sampled:
        ids = turn.action_ids
        ended = int(ids[-1]) == self._chat.end_id
        text = self._chat.decode((ids[:-1] if ended else ids).tolist())
        cut = min((i for i in map(text.find, request.sampling.stop) if i >= 0), default=-1)
        return Sampled(
            ids=ids,
            logprobs=turn.behaviour_logprobs,
            text=text[:cut] if cut >= 0 else text,
            finish=Finish.END if ended else Finish.STOP if cut >= 0 else Finish.LENGTH,
            weights_version=turn.weights_version,
            computed_tokens=0,
        )

    def release(self, conversation: str) -> None:
        """Free the conversation's cache."""
        self._sampler.release(conversation)

    def load(self, weights: Mapping[str, Any], version: int) -> None:
        """Give the sampler new weights."""
        self._sampler.load(weights, version)

    def close(self) -> None:
        """Close the sampler."""
        self._sampler.close()


def repeated(number: int, recorded: Turn, turn: Turn) -> Turn:
    """The recorded turn, where playing it again gave the same.

    Raises:
        EnvironmentFailure: where it did not.
    """
    before = (recorded.observation, recorded.action, recorded.reward, recorded.kind)
    if (turn.observation, turn.action, turn.reward, turn.kind) != before:
        raise not_repeated(number)
    return recorded


def not_repeated(number: int) -> EnvironmentFailure:
    """What ends an episode that can't be played again."""
    return EnvironmentFailure(
        f"turn {number} did not repeat itself when its episode was played again"
    )


def joined(parts: Iterable[Trajectory]) -> dict[EpisodeKey, tuple[Turn, ...]]:
    """The turns of unfinished trajectories, from the records of their snapshots.

    A snapshot records what was played since the one before it. Where one is lost, what comes after
    it is of no use and is left out.

    Args:
        parts: records of streams `paused/N`.

    Returns:
        Turns by the key of the trajectory.
    """
    turns: dict[EpisodeKey, tuple[Turn, ...]] = {}
    for part in sorted(parts, key=lambda t: snapshot_of(t.key)):
        key = trained_key(part.key)
        known = turns.get(key, ())
        if part.metrics.get(FIRST) == len(known):
            turns[key] = known + part.turns
    return turns


def is_part(key: EpisodeKey) -> bool:
    """Whether a record is a piece of a trajectory that was unfinished then, none of its own."""
    return key.stream.startswith(STREAM)


def snapshot_of(key: EpisodeKey) -> int:
    """Which snapshot a record is of."""
    return int(key.stream.removeprefix(STREAM))


def trained_key(key: EpisodeKey) -> EpisodeKey:
    """The key that the trajectory of a snapshot's record has."""
    return EpisodeKey(stream="train", iteration=key.iteration, group=key.group, member=key.member)
