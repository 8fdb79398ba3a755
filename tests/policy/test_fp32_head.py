"""In bf16 the head is where sampler and learner part, so the sampler's is computed in fp32 too."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch

from rlagents.config import LearnerSection, PolicySection
from rlagents.data.packing import pack
from rlagents.learner.step import Learner
from rlagents.policy.chat import Chat
from rlagents.policy.local import LocalEngine
from rlagents.policy.models import bfloat16_body, copy_weights, load
from rlagents.policy.sampler import SampleRequest, Sampling
from rlagents.types import EpisodeKey, FloatArray, Segment
from tests.policy.toys import policy

WINDOW = 64


def test_the_switch_decides_and_the_body_stays_in_bf16() -> None:
    ids = torch.arange(8)[None]
    logits = {}
    for fp32_head in (True, False):
        section = PolicySection(fp32_head=fp32_head)
        model, _ = load(section, seed=1, window=64, dtype="bfloat16")
        assert model.dtype == torch.bfloat16 and not model.training
        kinds = {name: tensor.dtype for name, tensor in model.state_dict().items()}
        head = kinds.pop("lm_head.weight")
        assert head == (torch.float32 if fp32_head else torch.bfloat16)
        assert set(kinds.values()) == {torch.bfloat16}
        with torch.no_grad():
            logits[fp32_head] = model(ids).logits
        assert logits[fp32_head].dtype == head
    assert not torch.equal(logits[True], logits[True].bfloat16().float())
    torch.testing.assert_close(logits[True], logits[False].float(), atol=0.05, rtol=0.02)
    plain, _ = load(PolicySection(), seed=1, window=64)
    assert plain.lm_head.weight is plain.model.embed_tokens.weight


@pytest.mark.parametrize("kind", ["bytes", "bpe"])
def test_new_weights_reach_a_tied_and_an_untied_head_exactly(kind: str) -> None:
    model = bfloat16_body(policy(kind)[0])
    new, _ = policy(kind, seed=9)
    copy_weights(model, new.state_dict())
    assert torch.equal(model.lm_head.weight, new.lm_head.weight)
    assert torch.equal(
        model.model.embed_tokens.weight, new.model.embed_tokens.weight.to(torch.bfloat16)
    )


def mismatch(master: Any, tokenizer: Any, *, fp32_head: bool) -> FloatArray:
    """[n] log-probability of each sampled token: the learner's less the recorded one."""
    learner = Learner(copy.deepcopy(master), LearnerSection(device="cpu", dtype="bfloat16"))
    model = copy.deepcopy(master)
    model = bfloat16_body(model) if fp32_head else model.to(torch.bfloat16)
    chat = Chat(tokenizer, system="")
    engine = LocalEngine(model, chat, window=WINDOW, cache_tokens=8 * WINDOW, max_batch=8)
    engine.load(learner.weights(), 1)
    prompts = [np.arange(3, 20 + i, dtype=np.int32) for i in range(8)]
    futures = [
        engine.sample(
            SampleRequest(
                conversation=str(i),
                prompt_ids=prompt,
                sampling=Sampling(max_tokens=24),
                seed=i,
            )
        )
        for i, prompt in enumerate(prompts)
    ]
    segments = []
    for i, (prompt, future) in enumerate(zip(prompts, futures, strict=True)):
        answer = future.result(60)
        ids = np.concatenate([prompt, answer.ids])
        mask = np.arange(len(ids)) >= len(prompt)
        recorded = np.concatenate([np.zeros(len(prompt), np.float32), answer.logprobs])
        segments.append(
            Segment(
                token_ids=ids,
                loss_mask=mask,
                behaviour_logprobs=recorded,
                advantages=mask.astype(np.float32),
                temperatures=np.ones(len(ids), np.float32),
                turns=np.where(mask, 0, -1).astype(np.int32),
                label=i,
                source=(EpisodeKey(stream="train", iteration=0, group=0, member=i), 0),
            )
        )
    engine.close()
    batch = pack(segments, row_tokens=WINDOW, pad_id=0)
    now = learner.columns(batch, ["proximal_logprobs"]).columns["proximal_logprobs"]
    return (now - batch.behaviour_logprobs)[batch.loss_weights != 0]


def test_an_fp32_head_brings_sampler_and_learner_together() -> None:
    """Logits near 18, as those of large models: their spacing in bf16 is 1/8.

    A direction that all hidden states share lifts all logits alike, which no probability notices;
    rounding does. What is left with an fp32 head is the body's own rounding.
    """
    master, tokenizer = policy("bpe")
    with torch.no_grad():
        master.model.embed_tokens.weight += 0.1
        master.lm_head.weight += 20 / 48
        assert 15 < float(master(torch.arange(3, 30)[None]).logits.mean()) < 25
    apart, together = (
        np.abs(mismatch(master, tokenizer, fp32_head=fp32_head)) for fp32_head in (False, True)
    )
    assert len(apart) > 100
    assert apart.mean() > 0.015
    assert together.mean() < 0.3 * apart.mean() and together.max() < 0.5 * apart.max()
