"""Who plays an episode: the policy through a sampler, or a script."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import TimeoutError as FutureTimeout

import numpy as np

from rlagents.errors import ConfigError, EnvironmentFailure, SamplerError, boundary
from rlagents.policy.sampler import Sampler, SampleRequest, Sampling
from rlagents.rollout.context import Window
from rlagents.rollout.episode import Action, plain_text
from rlagents.types import EpisodeKey, IntArray


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

    def act(self, observation: str) -> Action | None:
        """Sample the next action.

        Raises:
            SamplerError: when the engine fails or does not answer in time.
        """
        try:
            prompt = self._window.observe(observation)
        except ConfigError as error:  # a template that refuses this one conversation
            raise SamplerError(str(error)) from error
        if prompt is None:
            return None
        self._turn += 1
        request = SampleRequest(
            conversation=self._conversation,
            prompt_ids=prompt.prompt_ids,
            sampling=self._sampling,
            seed=self._key.seed(self._base_seed, self._turn),
        )
        try:
            sampled = self._sampler.sample(request).result(timeout=self._timeout_s)
        except FutureTimeout as error:
            raise SamplerError(f"no answer within {self._timeout_s:g} s") from error
        self._window.act(sampled.ids, sampled.text)
        return Action(
            text=sampled.text,
            context=prompt.context,
            observation_ids=prompt.added_ids,
            action_ids=sampled.ids,
            logprobs=sampled.logprobs,
            temperature=self._sampling.temperature or 1.0,
            weights_version=sampled.weights_version,
        )

    def close(self) -> None:
        """Free the conversation's cache."""
        self._sampler.release(self._conversation)


class ScriptedActor:
    """Plays a function of the observation; its actions get ids, so that they can be trained on.

    The log-probability of a scripted action is recorded as 0: the script is certain.
    """

    def __init__(
        self,
        act: Callable[[str], str],
        window: Window | None,
        encode: Callable[[str], IntArray],
    ) -> None:
        """Without a window nothing is encoded but the action: for baselines of any length."""
        self._act = act
        self._window = window
        self._encode = encode

    def act(self, observation: str) -> Action | None:
        """The script's next action."""
        with boundary(EnvironmentFailure, "scripted policy"):
            text = plain_text(self._act(observation), "an action")
        ids = self._encode(text)
        if self._window is None:
            context, added = 0, np.zeros(0, np.int32)
        else:
            prompt = self._window.observe(observation)
            if prompt is None:
                return None
            self._window.act(ids, text)
            context, added = prompt.context, prompt.added_ids
        return Action(
            text=text,
            context=context,
            observation_ids=added,
            action_ids=ids,
            logprobs=np.zeros(len(ids), np.float32),
            temperature=1.0,
            weights_version=0,
        )

    def close(self) -> None:
        """Nothing to free."""
