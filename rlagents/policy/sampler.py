"""What a rollout needs from an engine: a protocol, so that it never imports one.

A request carries the whole context as ids; the engine keeps what it has cached of the
conversation and computes only what is new. Torch-free.
"""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Protocol

from rlagents.types import FloatArray, IntArray


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """How one turn is sampled."""

    temperature: float = 1.0
    """0 takes the most probable token."""
    top_p: float = 1.0
    max_tokens: int = 64
    stop: tuple[str, ...] = ()
    noise: float = 0.0
    """Standard deviation of a fault on purpose: Gaussian noise on the logits, which the recorded
    log-probabilities have in them."""


class Finish(StrEnum):
    """Why sampling of a turn ended."""

    END = "end"
    """The end-of-turn token was sampled (it is the last id)."""
    STOP = "stop"
    """A stop string appeared (all sampled ids are kept, the text is cut before it)."""
    LENGTH = "length"
    """`max_tokens` were sampled."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SampleRequest:
    """Continue a conversation by one turn."""

    conversation: str
    """Names the cache: requests of one conversation mostly extend each other."""
    prompt_ids: IntArray
    """[P] every token of the context so far, P >= 1."""
    sampling: Sampling
    seed: int
    """The sampled tokens are a function of the prompt, the weights and this seed."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Sampled:
    """The answer to a request."""

    ids: IntArray
    """[A] A >= 1."""
    logprobs: FloatArray
    """[A] natural-log probability of each id under the distribution it was drawn from (after
    temperature and top-p). At temperature 0: under temperature 1."""
    text: str
    """The ids decoded, without the end-of-turn token and without a stop string and what follows."""
    finish: Finish
    weights_version: int
    computed_tokens: int
    """Prompt tokens that were not in the cache."""


class Sampler(Protocol):
    """An engine. `sample` may be called from many threads."""

    def sample(self, request: SampleRequest) -> Future[Sampled]:
        """Queue a turn. The future fails with `SamplerError`."""
        ...

    def release(self, conversation: str) -> None:
        """The conversation is over: free its cache."""
        ...

    def load(self, weights: Mapping[str, Any], version: int) -> None:
        """Use new weights for every later turn; waits for turns in flight, drops all caches."""
        ...

    def close(self) -> None:
        """Stop; pending turns fail. May be called twice."""
        ...
