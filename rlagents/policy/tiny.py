"""The embedded default policy: a small Qwen3-style causal LM over bytes, made from a seed.

Nothing is downloaded. The tokenizer has one id for each byte, the byte's own value, and four
special tokens; the chat template spends two tokens on a turn:

    <|system|>text<|user|>observation action<|end|><|user|>...

Nothing stands between an observation and its action: only actions are trained, so the model is
never asked where an observation ends, and a token in between keeps two layers from learning to
look things up (recall of a card's facts: exact after 300 supervised steps without it, at chance
after 600 with it).
"""

from __future__ import annotations

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

from rlagents.config import TinySection

PAD, END = "<|pad|>", "<|end|>"
SPECIALS = (PAD, END, "<|user|>", "<|system|>")
"""Ids 256, 257, ... in this order."""

VOCABULARY = 256 + len(SPECIALS)
MIN_POSITIONS = 32_768
"""Rotary positions cost nothing, so that the limit is far above any tiny window."""

TEMPLATE = (
    "{%- for message in messages -%}"
    "{%- if message['role'] == 'assistant' -%}{{- message['content'] + '<|end|>' -}}"
    "{%- else -%}{{- '<|' + message['role'] + '|>' + message['content'] -}}{%- endif -%}"
    "{%- endfor -%}"
)


def tiny_model(section: TinySection, *, seed: int, window: int) -> Qwen3ForCausalLM:
    """A new model on the CPU in fp32, in eval mode: the same weights for the same seed.

    The global random state is left as it was. `window` only raises the position limit.
    """
    config = Qwen3Config(
        vocab_size=VOCABULARY,
        hidden_size=section.width,
        intermediate_size=section.mlp,
        num_hidden_layers=section.layers,
        num_attention_heads=section.heads,
        num_key_value_heads=section.kv_heads,
        head_dim=section.width // section.heads,
        max_position_embeddings=max(window, MIN_POSITIONS),
        tie_word_embeddings=True,
        pad_token_id=256 + SPECIALS.index(PAD),
        eos_token_id=256 + SPECIALS.index(END),
        bos_token_id=None,
        # The usual 0.02 is meant for widths in the thousands; here it costs hundreds of steps.
        initializer_range=section.width**-0.5,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = Qwen3ForCausalLM(config)
    return model.eval()


def byte_tokenizer() -> PreTrainedTokenizerFast:
    """The tokenizer of the tiny model: any text to its UTF-8 bytes and back."""
    letters = _letters()
    backend = Tokenizer(models.BPE(vocab={letters[b]: b for b in range(256)}, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)  # type: ignore[assignment]
    backend.decoder = decoders.ByteLevel()  # type: ignore[assignment]
    backend.add_special_tokens([AddedToken(s, special=True, normalized=False) for s in SPECIALS])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        eos_token=END,
        pad_token=PAD,
        additional_special_tokens=list(SPECIALS[2:]),
        clean_up_tokenization_spaces=False,
    )
    tokenizer.chat_template = TEMPLATE
    return tokenizer


def _letters() -> list[str]:
    """[256] the printable letter by which byte-level tokenizers write each byte.

    Bytes that print stand for themselves, the others for U+0100 and up (GPT-2's table).
    """
    printable = {*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    hidden = [b for b in range(256) if b not in printable]
    return [chr(b) if b in printable else chr(256 + hidden.index(b)) for b in range(256)]
