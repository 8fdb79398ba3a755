"""A language model in this process as a `Backend`: a Hugging Face model, or the policy itself."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import TimeoutError as FutureTimeout
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from rlagents.errors import ConfigError, JudgeError, SamplerError, boundary
from rlagents.policy.asking import Ask, Reply
from rlagents.policy.chat import Chat
from rlagents.policy.sampler import Sampler, SampleRequest, Sampling
from rlagents.types import IntArray


class ModelBackend:
    """Samples answers with an engine, and reads labels off one pass of its network.

    Special tokens that are spelled in a message are encoded as ordinary text, so that a transcript
    can't end its message and begin another. A question that does not fit into the window with its
    answer fails; nothing is cut.

    The probability of a label is that of its first token right after the prompt; a model that
    thinks first, or begins with a space, gives labels no probability that says anything.

    Args:
        network: the model that the engine samples from, in eval mode.
        chat: its tokenizer's template; the system message is each question's own.
        engine: closed with this.
        name: what the model is called in `identity`: a folder or a hub name. A policy's must tell
            runs apart: versions begin anew in each.
        window: most tokens of a question with its answer.
        timeout_s: most seconds of one answer.
    """

    def __init__(
        self,
        network: Any,
        chat: Chat,
        engine: Sampler,
        *,
        name: str,
        window: int,
        timeout_s: float = 300.0,
    ) -> None:
        self._network = network
        self._chat = chat
        self._engine = engine
        self._name = name
        self._window = window
        self._timeout_s = timeout_s
        self._numbers = itertools.count()
        self._pass = threading.Lock()
        """One pass for labels at a time bounds their memory."""

    @property
    def identity(self) -> str:
        """The model's name."""
        return self._name

    def ask(self, ask: Ask) -> Reply:
        """The answer; called from any thread.

        Raises:
            JudgeError: when the question does not fit, the template refuses it, sampling fails, or
                two labels begin with the same token.
        """
        with boundary(JudgeError, self._name):
            first_ids = self._first_ids(ask.labels)
            prompt_ids = self._prompt_ids(ask)
            logprobs = self._next_logprobs(prompt_ids)[first_ids] if ask.labels else ()
            text, count = self._sample(ask, prompt_ids)
        return Reply(
            text=text,
            label_logprobs=dict(zip(ask.labels, map(float, logprobs), strict=True)),
            prompt_tokens=len(prompt_ids),
            sampled_tokens=count,
        )

    def close(self) -> None:
        """Close the engine. May be called twice."""
        self._engine.close()

    def check(self, labels: Sequence[str]) -> None:
        """Know before a run that labels can be told apart.

        Raises:
            ConfigError: when two of them begin with the same token.
        """
        try:
            self._first_ids(labels)
        except JudgeError as error:
            raise ConfigError(f"scoring.judge.model: {error}") from None

    def _first_ids(self, labels: Sequence[str]) -> list[int]:
        first_ids = [int(self._chat.encode_action(label)[0]) for label in labels]
        if len(set(first_ids)) < len(labels):
            raise JudgeError(f"{self._name}: of {list(labels)} some begin with the same token")
        return first_ids

    def _prompt_ids(self, ask: Ask) -> IntArray:
        try:
            prompt_ids = self._chat.render_ids(ask.messages)
        except ConfigError as error:  # a template that refuses this conversation
            raise JudgeError(str(error)) from error
        if len(prompt_ids) + ask.max_tokens > self._window:
            raise JudgeError(
                f"{self._name}: a question of {len(prompt_ids)} tokens and {ask.max_tokens} to "
                f"answer do not fit into the window of {self._window}"
            )
        return prompt_ids

    def _next_logprobs(self, prompt_ids: IntArray) -> np.ndarray:
        """[V] natural-log probabilities of the token after the prompt, at temperature 1."""
        ids_1T = torch.from_numpy(prompt_ids.astype(np.int64))[None].to(self._network.device)
        with self._pass, torch.inference_mode():
            logits = self._network(input_ids=ids_1T, use_cache=False, logits_to_keep=1).logits
            logprobs = torch.log_softmax(logits[0, -1].float(), -1).cpu().numpy()
        if not np.isfinite(logprobs.max()):
            raise JudgeError(f"{self._name}: the model's logits are not finite")
        return logprobs

    def _sample(self, ask: Ask, prompt_ids: IntArray) -> tuple[str, int]:
        conversation = f"question {next(self._numbers)}"
        request = SampleRequest(
            conversation=conversation,
            prompt_ids=prompt_ids,
            sampling=Sampling(temperature=ask.temperature, max_tokens=ask.max_tokens),
            seed=ask.seed,
        )
        try:
            sampled = self._engine.sample(request).result(timeout=self._timeout_s)
        except FutureTimeout as error:
            raise JudgeError(f"{self._name}: no answer within {self._timeout_s:g} s") from error
        except SamplerError as error:
            raise JudgeError(f"{self._name}: {error}") from error
        finally:
            self._engine.release(conversation)
        return sampled.text, len(sampled.ids)


class PolicyBackend(ModelBackend):
    """The policy as judge: a `ModelBackend` whose weights change.

    The identity has the weights' version. An answer comes from one version: `load` waits for those
    under way, and keeps later ones waiting.
    """

    def __init__(
        self,
        network: Any,
        chat: Chat,
        engine: Sampler,
        *,
        name: str,
        window: int,
        timeout_s: float = 300.0,
        version: int = 0,
    ) -> None:
        """As `ModelBackend`; `version` is that of the network's weights."""
        super().__init__(network, chat, engine, name=name, window=window, timeout_s=timeout_s)
        self._version = version
        self._asking = 0
        self._loading = False
        self._changed = threading.Condition()

    @property
    def identity(self) -> str:
        """The model's name and the version of its weights."""
        return f"{self._name} version {self._version}"

    def ask(self, ask: Ask) -> Reply:
        """As `ModelBackend.ask`."""
        with self._answering():
            return super().ask(ask)

    def load(self, weights: Mapping[str, Any], version: int) -> None:
        """Use new weights for every later answer.

        Raises:
            SamplerError: when names or shapes do not match, or the engine has stopped.
        """
        with self._changed:
            self._changed.wait_for(lambda: not self._loading)
            self._loading = True
            self._changed.wait_for(lambda: not self._asking)
        try:
            self._engine.load(weights, version)
            self._version = version
        finally:
            with self._changed:
                self._loading = False
                self._changed.notify_all()

    @contextmanager
    def _answering(self) -> Iterator[None]:
        with self._changed:
            self._changed.wait_for(lambda: not self._loading)
            self._asking += 1
        try:
            yield
        finally:
            with self._changed:
                self._asking -= 1
                self._changed.notify_all()
