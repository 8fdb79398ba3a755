from __future__ import annotations

from pathlib import Path

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM, AutoTokenizer

from rlagents.config import TinySection
from rlagents.policy.tiny import byte_tokenizer, tiny_model

TOKENIZER = byte_tokenizer()


def test_the_same_seed_gives_the_same_weights_and_leaves_the_global_state() -> None:
    torch.manual_seed(5)
    state = torch.get_rng_state()
    first = tiny_model(TinySection(), seed=3, window=512)
    assert torch.equal(torch.get_rng_state(), state)
    again = tiny_model(TinySection(), seed=3, window=512)
    other = tiny_model(TinySection(), seed=4, window=512)
    pairs = zip(first.parameters(), again.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)
    assert not torch.equal(first.model.embed_tokens.weight, other.model.embed_tokens.weight)
    assert first.lm_head.weight is first.model.embed_tokens.weight


def test_ten_million_parameters_run() -> None:
    section = TinySection(layers=8, width=320, heads=8, kv_heads=4, mlp=960)
    model = tiny_model(section, seed=0, window=512)
    assert sum(p.numel() for p in model.parameters()) > 9e6
    with torch.no_grad():
        assert model(torch.tensor([[1, 2, 3]])).logits.shape == (1, 3, 260)


@settings(max_examples=50, deadline=None)
@given(st.text())
def test_any_text_is_its_bytes(text: str) -> None:
    ids = TOKENIZER.encode(text, add_special_tokens=False, split_special_tokens=True)
    assert ids == list(text.encode())
    assert TOKENIZER.decode(ids) == text


def test_a_turn_costs_two_tokens_of_template() -> None:
    chat = [
        {"role": "system", "content": "s"},
        {"role": "user", "content": "hi"},
        {"role": "assistant", "content": "A"},
        {"role": "user", "content": "é"},
    ]
    ids = TOKENIZER.apply_chat_template(chat, add_generation_prompt=True, return_dict=False)
    system, user, end = 259, 258, 257
    assert ids == [system, 115, user, 104, 105, 65, end, user, 195, 169]
    assert TOKENIZER.eos_token_id == end


def test_saved_and_read_back_offline(tmp_path: Path) -> None:
    model = tiny_model(TinySection(), seed=0, window=512)
    model.save_pretrained(tmp_path)
    TOKENIZER.save_pretrained(tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path, local_files_only=True)
    again = AutoModelForCausalLM.from_pretrained(tmp_path, local_files_only=True)
    text = "go <|user|> nörth\n  now"
    assert tokenizer.encode(text) == TOKENIZER.encode(text)
    assert tokenizer.decode(tokenizer.encode(text)) == text
    assert tokenizer.chat_template == TOKENIZER.chat_template
    ids = torch.tensor([[104, 105, 257, 0, 255]])
    with torch.no_grad():
        assert torch.equal(model(ids).logits, again(ids).logits)
