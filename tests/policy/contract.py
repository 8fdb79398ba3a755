"""What every sampler must keep: ids and log-probabilities are those that were sampled."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from rlagents.policy.chat import Chat
from rlagents.policy.sampler import Finish, Sampler, SampleRequest, Sampling
from rlagents.types import FloatArray, IntArray


def assert_samples_are_exact(
    sampler: Sampler,
    chat: Chat,
    logprobs: Callable[[IntArray, float], FloatArray],
    *,
    temperature: float = 1.0,
    conversations: int = 3,
    turns: int = 3,
    seed: int = 0,
    tolerance: float = 1e-5,
) -> None:
    """Play ragged conversations and check each answer against a pass without a cache.

    Args:
        sampler: what is tested.
        chat: its tokenizer and template.
        logprobs: (ids [T], temperature) -> [T] log-probability of each token from those before it.
        temperature: of the sampling.
        conversations: played at the same time.
        turns: of each conversation.
        seed: of the observations and the sampling.
        tolerance: largest difference of a log-probability.
    """
    rng = np.random.default_rng(seed)
    contexts = [chat.head_ids for _ in range(conversations)]
    for turn in range(turns):
        requests = []
        for i, context in enumerate(contexts):
            words = rng.choice(["the door", "red key", "north", "room 7", "é"], rng.integers(1, 12))
            request = SampleRequest(
                conversation=f"contract-{i}",
                prompt_ids=np.concatenate([context, chat.observation_ids(" ".join(words))]),
                sampling=Sampling(temperature=temperature, max_tokens=int(rng.integers(1, 13))),
                seed=seed * 1000 + turn * 100 + i,
            )
            requests.append(request)
        answers = [f.result(60) for f in [sampler.sample(r) for r in requests]]
        for i, (request, answer) in enumerate(zip(requests, answers, strict=True)):
            limit = request.sampling.max_tokens
            assert 1 <= len(answer.ids) <= limit
            assert len(answer.logprobs) == len(answer.ids)
            ended = int(answer.ids[-1]) == chat.end_id
            assert chat.end_id not in answer.ids[:-1]
            assert answer.finish == (Finish.END if ended else Finish.LENGTH)
            assert ended or len(answer.ids) == limit
            assert answer.text == chat.decode(answer.ids[:-1] if ended else answer.ids)
            whole = np.concatenate([request.prompt_ids, answer.ids])
            expected = logprobs(whole, temperature)[len(request.prompt_ids) :]
            np.testing.assert_allclose(answer.logprobs, expected, rtol=0, atol=tolerance)
            contexts[i] = np.concatenate([whole, chat.close_ids(answer.ids)])
    for i in range(conversations):
        sampler.release(f"contract-{i}")
