from __future__ import annotations

from pathlib import Path

import pytest
import torch

from rlagents.config import PolicySection, TinySection
from rlagents.errors import ConfigError
from rlagents.policy.models import load, resolve_device, save
from rlagents.policy.tiny import tiny_model


def read(folder: str | Path, window: int = 64) -> object:
    return load(PolicySection(model=str(folder)), seed=0, window=window)


def test_tiny_is_made_from_the_seed_and_the_section() -> None:
    section = PolicySection(tiny=TinySection(layers=3))
    model, tokenizer = load(section, seed=1, window=64, dtype="bfloat16")
    assert model.config.num_hidden_layers == 3
    assert model.dtype == torch.bfloat16 and not model.training
    assert tokenizer.eos_token == "<|end|>"


def test_a_saved_policy_reads_back_the_same(tmp_path: Path) -> None:
    model, tokenizer = load(PolicySection(), seed=1, window=64)
    save(model, tokenizer, tmp_path)
    assert (tmp_path / "model.safetensors").exists()
    again, read_tokenizer = load(PolicySection(model=str(tmp_path)), seed=9, window=64)
    ids = torch.tensor([[1, 2, 257]])
    with torch.no_grad():
        assert torch.equal(model(ids).logits, again(ids).logits)
    assert read_tokenizer.encode("a<|end|>") == tokenizer.encode("a<|end|>")


def test_folders_that_can_not_be_used_name_the_key(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"policy\.model: no folder"):
        read(tmp_path / "nowhere")
    (tmp_path / "file").write_text("x")
    with pytest.raises(ConfigError, match=r"policy\.model: no folder"):
        read(tmp_path / "file")
    (tmp_path / "pickled").mkdir()
    (tmp_path / "pickled" / "pytorch_model.bin").write_bytes(b"x")
    with pytest.raises(ConfigError, match=r"policy\.model: .*safetensors"):
        read(tmp_path / "pickled")
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "model.safetensors").write_bytes(b"x")
    with pytest.raises(ConfigError, match=r"policy\.model: can't load"):
        read(broken)


def test_no_template_and_a_window_too_large_are_refused(tmp_path: Path) -> None:
    model, tokenizer = load(PolicySection(), seed=1, window=64)
    save(model, tokenizer, tmp_path)
    limit = model.config.max_position_embeddings
    with pytest.raises(ConfigError, match=rf"policy\.model: .*at most {limit} tokens"):
        read(tmp_path, window=limit + 1)
    tokenizer.chat_template = None
    bare = tmp_path / "bare"
    save(model, tokenizer, bare)
    with pytest.raises(ConfigError, match=r"policy\.model: .*no chat template"):
        read(bare)


def test_devices() -> None:
    assert resolve_device("cpu") == torch.device("cpu")
    assert resolve_device("auto").type in ("cpu", "cuda", "mps")
    with pytest.raises(ConfigError, match=r"learner\.device: unknown device 'cudo'; .*'cuda'"):
        resolve_device("cudo")
    absent = [
        name
        for name, present in (
            ("cuda", torch.cuda.is_available()),
            ("mps", torch.backends.mps.is_available()),
        )
        if not present
    ]
    for name in absent:
        with pytest.raises(ConfigError, match=f"this machine has no {name}"):
            resolve_device(name)


def test_a_larger_window_raises_the_position_limit_of_tiny() -> None:
    assert tiny_model(TinySection(), seed=0, window=99_999).config.max_position_embeddings == 99_999
