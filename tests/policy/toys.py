"""Small models and tokenizers for tests: bytes, and merge-based with a template like Qwen's."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

from rlagents.config import TinySection
from rlagents.policy.tiny import byte_tokenizer, tiny_model
from rlagents.types import FloatArray, IntArray

CORPUS = [
    "the door to the north is locked and the key is red",
    "open the red door with the red key, then go north to the next room",
    "<think>\nthe key must be in the other room\n</think>\n\ngo south",
] * 20

STRIPPING = (
    "{%- for m in messages -%}"
    "{%- set content = m['content'] -%}"
    "{%- if m['role'] == 'assistant' and not loop.last and '</think>' in content -%}"
    "{%- set content = content.split('</think>')[-1].lstrip('\\n') -%}"
    "{%- endif -%}"
    "{{- '<|im_start|>' + m['role'] + '\\n' + content + '<|im_end|>' + '\\n' -}}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\\n' -}}{%- endif -%}"
)
"""ChatML that strips the thinking of earlier turns."""


def bpe_tokenizer() -> PreTrainedTokenizerFast:
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)  # type: ignore[assignment]
    backend.decoder = decoders.ByteLevel()  # type: ignore[assignment]
    specials = ["<|pad|>", "<|im_start|>", "<|im_end|>"]
    trainer = trainers.BpeTrainer(
        vocab_size=360,
        special_tokens=[AddedToken(s, special=True, normalized=False) for s in specials],  # type: ignore[arg-type]
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(CORPUS, trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, eos_token="<|im_end|>", pad_token="<|pad|>"
    )
    tokenizer.chat_template = STRIPPING
    return tokenizer


def policy(kind: str, *, seed: int = 0, gain: float = 2.0) -> tuple[Any, Any]:
    """A model and its tokenizer; `gain` scales BPE's weights, so that its tokens differ in
    probability as the byte model's do by themselves."""
    if kind == "bytes":
        return tiny_model(TinySection(), seed=seed, window=512), byte_tokenizer()
    tokenizer = bpe_tokenizer()
    config = Qwen3Config(
        vocab_size=len(tokenizer),
        hidden_size=48,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=1,
        head_dim=16,
        tie_word_embeddings=False,
        pad_token_id=None,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = Qwen3ForCausalLM(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(gain)
    return model, tokenizer


def full_logprobs(model: Any, ids: IntArray, temperature: float = 1.0) -> FloatArray:
    """[T] log-probability of each token from those before it; one pass, no cache. [0] is zero."""
    with torch.no_grad():
        logits = model(torch.from_numpy(ids.astype(np.int64))[None], use_cache=False).logits[0]
    logprobs = torch.log_softmax(logits.float() / temperature, -1)[:-1]
    chosen = logprobs.gather(-1, torch.from_numpy(ids[1:].astype(np.int64))[:, None])[:, 0]
    return np.concatenate([np.zeros(1, np.float32), chosen.numpy()])
