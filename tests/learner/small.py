"""A small Qwen3, small batches and a small objective for the learner's tests."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor
from transformers import Qwen3Config, Qwen3ForCausalLM

from rlagents.config import LearnerSection
from rlagents.data.packing import pack
from rlagents.learner.model import policy_logprobs
from rlagents.learner.step import Learner
from rlagents.types import Batch, EpisodeKey, Segment

VOCABULARY = 50
LENGTHS = [30, 20, 17, 40, 5, 12]


def small_model(seed: int = 0, **changes) -> Qwen3ForCausalLM:
    torch.manual_seed(seed)
    sizes = {
        "vocab_size": VOCABULARY,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "max_position_embeddings": 4096,
        "tie_word_embeddings": True,
        "attn_implementation": "sdpa",
        # Far from uniform, so that an error shows.
        "initializer_range": 0.3,
    }
    return Qwen3ForCausalLM(Qwen3Config(**(sizes | changes)))


def segment(
    rng: np.random.Generator, length: int, label: int = 0, *, trained: float = 0.5, **changes
) -> Segment:
    mask = rng.random(length) < trained
    mask[0] = False
    values = {
        "token_ids": rng.integers(0, VOCABULARY, length).astype(np.int32),
        "loss_mask": mask,
        "behaviour_logprobs": np.where(mask, -rng.random(length), 0).astype(np.float32),
        "advantages": np.where(mask, rng.normal(size=length), 0).astype(np.float32),
        "temperatures": np.where(mask, rng.uniform(0.5, 1.5, length), 1).astype(np.float32),
        "turns": np.where(mask, 0, -1).astype(np.int32),
        "label": label,
        "source": (EpisodeKey(stream="train", iteration=0, group=0, member=label), 0),
    }
    return Segment(**(values | changes))


def segments(seed: int, lengths: list[int]) -> list[Segment]:
    rng = np.random.default_rng(seed)
    return [segment(rng, length, label) for label, length in enumerate(lengths)]


def small_learner(model_changes=None, **changes) -> Learner:
    settings = {"device": "cpu", "lr": 1e-2, **changes}
    return Learner(small_model(**(model_changes or {})), LearnerSection(**settings))


def on_policy(one: Learner, parts: Sequence[Segment]) -> Batch:
    """The batch as if the learner's policy had sampled it."""
    batch = pack(parts, row_tokens=64, pad_id=0)
    logprobs, _ = policy_logprobs(one.model, batch, chunk=512)
    return dataclasses.replace(batch, behaviour_logprobs=logprobs.detach().numpy())


def clipped(logprobs: Tensor, entropies: Tensor, columns: Mapping[str, Tensor]):
    """A minimal clipped surrogate."""
    ratio = (logprobs - columns["behaviour_logprobs"]).exp()
    clamped = ratio.clamp(0.8, 1.2)
    terms = -torch.minimum(ratio * columns["advantages"], clamped * columns["advantages"])
    return terms, {"ratio_mean": ratio.detach(), "clip_frac_low": (ratio < 0.8).float()}


def gradients_of(one: Learner) -> list[dict[str, Tensor]]:
    """A list that the gradient of each coming step is added to, by the parameter's name."""
    seen: list[dict[str, Tensor]] = []

    def keep(*_) -> None:
        named = one.model.named_parameters()
        seen.append({name: p.grad.clone() for name, p in named if p.grad is not None})

    one.optimizer.register_step_pre_hook(keep)
    return seen
