"""A small Qwen3 and small batches for the learner's tests."""

from __future__ import annotations

import numpy as np
import torch
from transformers import Qwen3Config, Qwen3ForCausalLM

from rlagents.types import EpisodeKey, Segment

VOCABULARY = 50


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
        "label": label,
        "source": (EpisodeKey(stream="train", iteration=0, group=0, member=label), 0),
    }
    return Segment(**(values | changes))


def segments(seed: int, lengths: list[int]) -> list[Segment]:
    rng = np.random.default_rng(seed)
    return [segment(rng, length, label) for label, length in enumerate(lengths)]
