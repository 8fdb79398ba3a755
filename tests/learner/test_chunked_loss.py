"""Where one window covers all, the chunked loss is the loss of the whole sequence.

And where it does not, it is the sum over the same actions, each under its own context.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from rlagents.config import ContextSection, LearnerSection, WarmStartSection
from rlagents.data.demonstrations import Demonstration
from rlagents.data.packing import pack, token_mean_weights
from rlagents.learner.model import policy_logprobs, prepare
from rlagents.learner.sft import train_sft
from rlagents.policy.chat import Chat
from rlagents.rollout.context import ContextWindow
from rlagents.rollout.splitting import Splitter
from rlagents.types import Segment, Task
from tests.policy.toys import policy

TURNS = tuple((f"door {n} is locked" * (1 + n % 3), f"key {n}") for n in range(7))
DEMONSTRATION = Demonstration(task=Task(env_id="x", seed=0), turns=TURNS)


def cut(chat: Chat, **context: Any) -> list[Segment]:
    section = ContextSection(**context)
    split = Splitter(WarmStartSection(), chat, lambda: ContextWindow(chat, section, 12), 12)
    return list(split.split(DEMONSTRATION))


def whole_sequence(model: Any, tokenizer: Any) -> tuple[torch.Tensor, int]:
    """Plain transformers: the conversation as the template writes it, labels on the actions."""
    messages: list[dict[str, str]] = []
    labels: list[int] = []
    ids: list[int] = []
    for observation, action in TURNS:
        messages.append({"role": "user", "content": observation})
        prompt = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
        before = tokenizer.encode(prompt, add_special_tokens=False)
        labels += [-100] * (len(before) - len(labels))
        said = [*tokenizer.encode(action, add_special_tokens=False), tokenizer.eos_token_id]
        ids = before + said
        labels += said
        messages.append({"role": "assistant", "content": action})
    loss = model(input_ids=torch.tensor([ids]), labels=torch.tensor([labels]), use_cache=False).loss
    return loss, sum(label != -100 for label in labels)


def chunked(model: Any, segments: list[Segment]) -> torch.Tensor:
    """The learner: rows of segments, mean over trained tokens."""
    batch = pack(segments, row_tokens=512, pad_id=0, weights=token_mean_weights(segments))
    logprobs, _ = policy_logprobs(model, batch, chunk=64)
    return -(logprobs * torch.from_numpy(batch.loss_weights.copy())).sum()


def gradients(model: Any, loss: torch.Tensor) -> dict[str, torch.Tensor]:
    model.zero_grad()
    loss.backward()
    return {name: p.grad.clone() for name, p in model.named_parameters()}


@pytest.mark.parametrize("kind", ["bytes", "merges"])
def test_one_window_that_covers_all_is_the_whole_sequence(kind, tmp_path):
    model, tokenizer = policy(kind)
    plain, count = whole_sequence(model, tokenizer)
    expected = gradients(model, plain)

    (segment,) = cut(Chat(tokenizer), window=512, pinned_turns=1)
    assert segment.loss_mask.sum() == count
    prepare(model)
    loss = chunked(model, [segment])
    assert loss.item() == pytest.approx(plain.item(), rel=1e-5)
    found = gradients(model, loss)
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-4, atol=1e-5)

    report = train_sft(
        model,
        [segment],
        config=WarmStartSection(epochs=1, batch_segments=1),
        learner=LearnerSection(device="cpu"),
        seed=0,
        folder=str(tmp_path),
    )
    assert report.first_loss == pytest.approx(plain.item(), rel=1e-5)
    assert report.trained_tokens == count


def test_smaller_windows_train_the_same_actions_under_their_own_contexts():
    """Token by token: the mean of cross entropies, each given what the window shows, no more."""
    model, tokenizer = policy("bytes")
    segments = cut(Chat(tokenizer), window=160, pinned_turns=1, overlap=40)
    assert len(segments) > 2
    losses = []
    for segment in segments:
        ids = torch.from_numpy(segment.token_ids.astype(np.int64))
        logits = model(input_ids=ids[None], use_cache=False).logits[0, :-1]
        each = F.cross_entropy(logits, ids[1:], reduction="none")
        losses.append(each[torch.from_numpy(segment.loss_mask.copy())[1:]])
    expected = torch.cat(losses)
    said = sum(len(action.encode()) + 1 for _, action in TURNS)
    assert len(expected) == said
    prepare(model)
    assert chunked(model, segments).item() == pytest.approx(expected.mean().item(), rel=1e-5)
