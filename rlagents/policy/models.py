"""Where a policy's weights and tokenizer come from, and where they go."""

from __future__ import annotations

import copy
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.utils import logging as transformers_logging

from rlagents.config import PolicySection
from rlagents.errors import ConfigError, nearest
from rlagents.policy.tiny import byte_tokenizer, tiny_model

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
DEVICES = ("auto", "cpu", "cuda", "mps")
_LOADING = threading.Lock()
"""transformers changes the process's state while it loads (initialisation, tied weights, default
dtype): two at once leave it changed, and no later model loads."""


def load(
    section: PolicySection,
    *,
    seed: int,
    window: int,
    device: str | torch.device = "cpu",
    dtype: str = "float32",
) -> tuple[Any, Any]:
    """The policy's model, in eval mode on `device`, and its tokenizer.

    `tiny` is made from `seed`; anything else is a Hugging Face folder or name, read from
    safetensors and without running code that comes with it.

    Raises:
        ConfigError: with the key `policy.model`, when it is missing or can't be used.
    """
    if dtype not in DTYPES:
        raise ConfigError(f"learner.dtype: unknown dtype {dtype!r}{nearest(dtype, DTYPES)}")
    target = resolve_device(device) if isinstance(device, str) else device
    if section.model == "tiny":
        model: Any = tiny_model(section.tiny, seed=seed, window=window)
        tokenizer: Any = byte_tokenizer()
    else:
        model, tokenizer = _pretrained(section.model)
        _check(section.model, model, tokenizer, window)
    if dtype == "bfloat16" and section.fp32_head:
        return bfloat16_body(model).to(target).eval(), tokenizer
    return model.to(device=target, dtype=DTYPES[dtype]).eval(), tokenizer


def bfloat16_body(model: Any) -> Any:
    """A model in bf16 but for its head: weights and product in fp32, as the learner computes it.

    The head's output decides what is sampled. In bf16 a logit of 16 is rounded to multiples of
    1/16, and the log-probabilities of sampler and learner differ by as much. Costs a second copy
    of an embedding that was tied to the head.
    """
    head = copy.deepcopy(model.get_output_embeddings()).float()
    head.register_forward_pre_hook(_in_float32)
    model = model.to(torch.bfloat16)
    model.set_output_embeddings(head)
    return model


def _in_float32(head: Any, inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
    return tuple(values.float() for values in inputs)


def save(model: Any, tokenizer: Any, folder: str | Path) -> None:
    """Write a folder in Hugging Face format (safetensors, tokenizer, chat template)."""
    with _no_bars():
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)


@contextmanager
def _no_bars() -> Iterator[None]:
    """Keep transformers' own progress bars out of ours."""
    shown = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            transformers_logging.enable_progress_bar()


def copy_weights(model: Any, weights: Mapping[str, Any]) -> None:
    """Copy tensors or arrays into a model in place; tied weights need one of their names.

    Raises:
        ValueError: when names or shapes do not match; nothing is copied then.
    """
    own = model.state_dict()
    given = {name: torch.as_tensor(value) for name, value in weights.items()}
    unknown = sorted(set(given) - set(own))
    covered = {own[name].data_ptr() for name in given if name in own}
    missing = sorted(n for n, t in own.items() if n not in given and t.data_ptr() not in covered)
    if unknown or missing:
        raise ValueError(f"unknown names {unknown[:3]}, missing names {missing[:3]}")
    for name, tensor in given.items():
        if tensor.shape != own[name].shape:
            raise ValueError(f"{name} has {tuple(tensor.shape)}, expected {tuple(own[name].shape)}")
    for name, tensor in given.items():
        own[name].copy_(tensor)


def resolve_device(name: str) -> torch.device:
    """`auto` takes cuda, then mps, then cpu.

    Raises:
        ConfigError: for an unknown name, and for a device that this machine does not have.
    """
    present = {
        "cpu": True,
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
    }
    if name not in DEVICES:
        raise ConfigError(f"learner.device: unknown device {name!r}{nearest(name, DEVICES)}")
    if name == "auto":
        name = next(d for d in ("cuda", "mps", "cpu") if present[d])
    if not present[name]:
        have = ", ".join(d for d in present if present[d])
        raise ConfigError(f"learner.device: this machine has no {name} (it has: {have})")
    return torch.device(name)


def check(section: PolicySection) -> None:
    """Read the tokenizer alone, so that a policy that is not there is known before workers start.

    Raises:
        ConfigError: with the key `policy.model`.
    """
    if section.model != "tiny":
        _tokenizer(*_source(section.model))


def _source(name: str) -> tuple[str, bool]:
    """What transformers should read, and whether it is a folder of this machine."""
    folder = Path(name).expanduser()
    local = folder.is_dir()
    if local and not list(folder.glob("*.safetensors")):
        raise ConfigError(
            f"policy.model: {name!r} holds no *.safetensors (other weight formats are not read)"
        )
    is_path = name.startswith((".", "/", "~")) or name.count("/") > 1
    if folder.is_file() or (is_path and not local):
        raise ConfigError(f"policy.model: no folder at {name!r}")
    return (str(folder) if local else name), local


@contextmanager
def _loading(source: str) -> Iterator[None]:
    """Turn whatever transformers raises into one line."""
    try:
        with _no_bars():
            yield
    except (OSError, ValueError, KeyError, ImportError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        raise ConfigError(f"policy.model: can't load {source!r}: {reason[:300]}") from error


def _tokenizer(source: str, local: bool) -> Any:
    with _loading(source):
        return AutoTokenizer.from_pretrained(
            source, trust_remote_code=False, local_files_only=local
        )


def _pretrained(name: str) -> tuple[Any, Any]:
    source, local = _source(name)
    tokenizer = _tokenizer(source, local)
    with _LOADING, _loading(source):
        model = AutoModelForCausalLM.from_pretrained(
            source,
            trust_remote_code=False,
            use_safetensors=True,
            local_files_only=local,
            attn_implementation="sdpa",
            dtype=torch.float32,
        )
    return model, tokenizer


def _check(name: str, model: Any, tokenizer: Any, window: int) -> None:
    if not getattr(tokenizer, "chat_template", None):
        raise ConfigError(f"policy.model: the tokenizer of {name!r} has no chat template")
    limit = getattr(model.config, "max_position_embeddings", None)
    if limit is not None and window > limit:
        raise ConfigError(
            f"policy.model: {name!r} reads at most {limit} tokens, context.window is {window}"
        )
