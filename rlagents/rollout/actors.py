"""Who plays an episode: the policy through a sampler, or a script."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import TimeoutError as FutureTimeout
from dataclasses import replace
from typing import Any

import numpy as np

from rlagents.algos.chunking import clip_text
from rlagents.config import ContextSection
from rlagents.errors import ConfigError, EnvironmentFailure, JudgeError, SamplerError, boundary
from rlagents.policy.asking import Ask, Backend
from rlagents.policy.sampler import Sampler, SampleRequest, Sampling
from rlagents.rollout.context import Prompt, Window
from rlagents.rollout.episode import Action, plain_text
from rlagents.types import EpisodeKey, IntArray, TurnKind

CHARACTERS_PER_TOKEN = 4
"""By which windows are measured where the tokenizer is not known."""


class PolicyActor:
    """Samples from a language model through a context window."""

    def __init__(
        self,
        sampler: Sampler,
        window: Window,
        sampling: Sampling,
        *,
        key: EpisodeKey,
        base_seed: int,
        timeout_s: float,
        conversation: str | None = None,
    ) -> None:
        """Random numbers derive from `key`; the conversation is named after it, or as given."""
        self._conversation = str(key) if conversation is None else conversation
        self._sampler = sampler
        self._window = window
        self._sampling = sampling
        self._key = key
        self._base_seed = base_seed
        self._timeout_s = timeout_s
        self._turn = 0
        self._prompt: Prompt | None = None
        self._branches: set[str] = set()

    def act(self, observation: str) -> Action | None:
        """Sample the answer to what the environment said.

        Raises:
            SamplerError: when the engine fails or does not answer in time.
        """
        try:
            self._prompt = self._window.observe(observation)
        except ConfigError as error:  # a template that refuses this one conversation
            raise SamplerError(str(error)) from error
        return self.proceed()

    def proceed(self) -> Action | None:
        """Sample the answer to what the window said."""
        prompt = self._prompt
        if prompt is None:
            return None
        self._turn += 1
        sampling = self._sampling
        if prompt.max_tokens is not None:
            sampling = replace(sampling, max_tokens=prompt.max_tokens)
        request = SampleRequest(
            conversation=self._conversation + prompt.branch,
            prompt_ids=prompt.prompt_ids,
            sampling=sampling,
            seed=self._key.seed(self._base_seed, self._turn),
        )
        if prompt.branch:
            self._branches.add(prompt.branch)
        try:
            sampled = self._sampler.sample(request).result(timeout=self._timeout_s)
        except FutureTimeout as error:
            raise SamplerError(f"no answer within {self._timeout_s:g} s") from error
        step = self._window.act(sampled.ids, sampled.text)
        self._prompt = step.prompt
        self._release(step.closed)
        return Action(
            text=step.text if step.kind is TurnKind.ACTION else sampled.text,
            kind=step.kind,
            observation=prompt.observation,
            context=prompt.context,
            dropped_tokens=prompt.dropped_tokens,
            observation_ids=prompt.added_ids,
            action_ids=sampled.ids,
            logprobs=sampled.logprobs,
            temperature=self._sampling.temperature or 1.0,
            weights_version=sampled.weights_version,
        )

    def _release(self, branches: Iterable[str]) -> None:
        for branch in branches:
            self._sampler.release(self._conversation + branch)
        self._branches.difference_update(branches)

    def close(self) -> None:
        """Free the conversation's cache, and what the window holds."""
        self._release((*self._branches, ""))
        self._window.close()


class ScriptedActor:
    """Plays a function of the observation; its actions get ids, so that they can be trained on.

    The log-probability of a scripted action is recorded as 0: the script is certain.
    """

    def __init__(
        self,
        act: Callable[[str], str],
        window: Window | None,
        encode: Callable[[str], IntArray],
        max_tokens: int | None = None,
    ) -> None:
        """Without a window nothing is encoded but the action: for baselines of any length.

        With one, an answer of more than `max_tokens` (or than the window asks for) fails: a policy
        that imitates it could never say it.
        """
        self._act = act
        self._window = window
        self._encode = encode
        self._max_tokens = max_tokens
        self._prompt: Prompt | None = None

    def act(self, observation: str) -> Action | None:
        """The script's answer to what the environment said."""
        if self._window is None:
            return self._answer(observation, self._said(observation))
        self._prompt = self._window.observe(observation)
        return self.proceed()

    def proceed(self) -> Action | None:
        """The script's answer to what the window said."""
        prompt = self._prompt
        if prompt is None or self._window is None:
            return None
        text = self._said(prompt.observation)
        ids = self._encode(text)
        limit = self._max_tokens if prompt.max_tokens is None else prompt.max_tokens
        if limit is not None and len(ids) > limit:
            raise EnvironmentFailure(
                f"scripted policy: an answer of {len(ids)} tokens, where {limit} are allowed "
                "(policy.max_tokens, or context.compact.tokens for a summary)"
            )
        step = self._window.act(ids, text)
        self._prompt = step.prompt
        return self._answer(
            prompt.observation,
            step.text if step.kind is TurnKind.ACTION else text,
            kind=step.kind,
            context=prompt.context,
            dropped_tokens=prompt.dropped_tokens,
            observation_ids=prompt.added_ids,
            action_ids=ids,
        )

    def _said(self, observation: str) -> str:
        with boundary(EnvironmentFailure, "scripted policy"):
            return plain_text(self._act(observation), "an action")

    def _answer(self, observation: str, text: str, **known: Any) -> Action:
        ids = known.pop("action_ids") if "action_ids" in known else self._encode(text)
        nothing = {"context": 0, "observation_ids": np.zeros(0, np.int32)}
        return Action(
            text=text,
            observation=observation,
            action_ids=ids,
            logprobs=np.zeros(len(ids), np.float32),
            temperature=1.0,
            weights_version=0,
            **{**nothing, **known},
        )

    def close(self) -> None:
        """Free what the window holds."""
        if self._window is not None:
            self._window.close()


class EndpointActor:
    """Plays a conversation through a model that is shown messages, such as one behind an endpoint.

    For evaluations and opponents, never for training: like a script's, its actions get ids of the
    policy's tokenizer and log-probabilities of 0, and its observations get none.

    Its own tokenizer is not known, so that the limits of `context` count characters, four a token.
    Where the conversation outgrows the window, the system message, the pinned turns and as many of
    the latest turns as fit are shown (`dropped_tokens` estimates what is not); `context.strategy`
    and `context.overlap` are not read.
    """

    def __init__(
        self,
        backend: Backend,
        context: ContextSection,
        sampling: Sampling,
        encode: Callable[[str], IntArray],
        *,
        system: str,
        key: EpisodeKey,
        base_seed: int,
    ) -> None:
        """The backend is shared: it is not closed here. Seeds derive from `key`."""
        self._backend = backend
        self._context = context
        self._sampling = sampling
        self._encode = encode
        self._system = (("system", system),) if system else ()
        self._room = CHARACTERS_PER_TOKEN * (context.window - sampling.max_tokens) - len(system)
        self._key = key
        self._base_seed = base_seed
        self._turns: list[tuple[str, str]] = []
        """(observation, action), as they are shown."""
        self._left_out = 0
        """Turns behind the pinned ones that are not shown any more."""

    def act(self, observation: str) -> Action | None:
        """The model's answer; None where the observation does not fit into the window.

        Raises:
            SamplerError: when there is no answer.
        """
        limit = CHARACTERS_PER_TOKEN * self._context.max_observation
        shown = clip_text(observation, limit, len) if limit else observation
        dropped = self._make_room(len(shown))
        if dropped is None:
            return None
        pinned = self._context.pinned_turns
        turns = self._turns[:pinned] + self._turns[pinned + self._left_out :]
        said = [(("user", asked), ("assistant", answered)) for asked, answered in turns]
        messages = (*self._system, *(m for pair in said for m in pair), ("user", shown))
        number = len(self._turns) + 1
        try:
            reply = self._backend.ask(
                Ask(
                    messages=messages,
                    max_tokens=self._sampling.max_tokens,
                    temperature=self._sampling.temperature,
                    seed=self._key.seed(self._base_seed, number),
                )
            )
        except JudgeError as error:
            raise SamplerError(str(error)) from error
        text = self._cut(plain_text(reply.text, "an answer"))
        self._turns.append((shown, text))
        ids = self._encode(text)
        return Action(
            text=text,
            context=0,
            observation_ids=np.zeros(0, np.int32),
            action_ids=ids,
            logprobs=np.zeros(len(ids), np.float32),
            temperature=self._sampling.temperature or 1.0,
            weights_version=0,
            dropped_tokens=dropped,
        )

    def proceed(self) -> Action | None:
        """Nothing: all its answers are for the environment."""
        return None

    def close(self) -> None:
        """Nothing is held."""

    def _make_room(self, size: int) -> int | None:
        """Leave out old turns until `size` characters fit; about how many tokens went, or None."""
        sizes = [len(asked) + len(answered) for asked, answered in self._turns]
        pinned = self._context.pinned_turns
        first = pinned + self._left_out
        used = sum(sizes[:pinned]) + sum(sizes[first:]) + size
        before = used
        while used > self._room and first < len(sizes):
            used -= sizes[first]
            first += 1
        self._left_out = max(first - pinned, 0)
        return (before - used) // CHARACTERS_PER_TOKEN if used <= self._room else None

    def _cut(self, text: str) -> str:
        """The text before the first stop string."""
        ends = [text.find(stop) for stop in self._sampling.stop]
        return text[: min((end for end in ends if end >= 0), default=len(text))]
