"""A key-value cache of slots for transformers: every row has its own length and its own place.

A slot holds one conversation. A forward pass names, for each of its rows, the slot and the
positions of its tokens; keys and values are written in place and read back as a view. Shape
letters: S slots, B rows of a pass, N tokens of a row, K keys read, H heads, D head width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.cache_utils import Cache, CacheLayerMixin
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from rlagents.errors import ConfigError

ALIGNMENT = 16
"""Slots hold a multiple of this many positions: with it every slot starts at the same offset from
a 64-byte boundary, so that a result does not depend on the slot."""


@dataclass(slots=True)
class _Pass:
    """What the layers need to know of the forward pass that runs."""

    slots: slice | Tensor = field(default_factory=lambda: slice(0, 0))
    """The slots of the rows: a range (read in place) or [B] indices (gathered)."""
    write_slots: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.long))
    """[B, 1] the slot of each row."""
    write_positions: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.long))
    """[B, N] where each token goes in its slot."""
    flat: dict[int, Tensor] = field(default_factory=dict)
    """H -> [B x H x N] the same as rows of [S x H x capacity]; layers of equal H share it."""
    keys: int = 0
    """K"""


class SlotLayer(CacheLayerMixin):
    """One layer's keys and values, [S, H, capacity, D] each."""

    def __init__(self, current: _Pass, slots: int, capacity: int) -> None:
        super().__init__()
        self._current = current
        self._slots = slots
        self._capacity = capacity

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Allocate at the first write, when widths, dtype and device are known."""
        self.keys, self.values = (self._empty(key_states), self._empty(value_states))
        self.is_initialized = True

    def _empty(self, like: Tensor) -> Tensor:
        shape = (self._slots, like.shape[1], self._capacity, like.shape[3])
        return torch.zeros(shape, dtype=like.dtype, device=like.device)

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Write [B, H, N, D], return all keys and values that the rows may see, [B, H, K, D]."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        assert self.keys is not None and self.values is not None
        self._write(self.keys, key_states)
        self._write(self.values, value_states)
        return self._read(self.keys), self._read(self.values)

    def _write(self, store: Tensor, new: Tensor) -> None:
        heads, width = store.shape[1], store.shape[-1]
        now = self._current
        if heads not in now.flat:
            rows_BH = now.write_slots * heads + torch.arange(heads, device=store.device)
            places_BHN = rows_BH[:, :, None] * self._capacity + now.write_positions[:, None, :]
            now.flat[heads] = places_BHN.flatten()
        store.view(-1, width).index_copy_(0, now.flat[heads], new.reshape(-1, width))

    def _read(self, store: Tensor) -> Tensor:
        now = self._current
        if isinstance(now.slots, slice):
            return store[now.slots, :, : now.keys]
        return store[:, :, : now.keys].index_select(0, now.slots)

    def grow(self, slots: int) -> None:
        """Make room for more slots; what is cached stays."""
        self._slots = slots
        if self.keys is not None and self.values is not None:
            self.keys, self.values = _grown(self.keys, slots), _grown(self.values, slots)

    def copy(self, source: int, target: int, start: int, stop: int) -> None:
        """Copy the positions from `start` to `stop` of one slot into another."""
        for store in (self.keys, self.values):
            if store is not None:
                store[target, :, start:stop] = store[source, :, start:stop]

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """(K, 0); masks are passed ready-made, so that nothing is derived from it."""
        return self._current.keys, 0

    def get_seq_length(self) -> int:
        """Unused: every pass states its positions."""
        return 0

    def get_max_length(self) -> int:
        """Positions a slot can hold."""
        return self._capacity


def grouped_attention(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """The `sdpa` of transformers without copying keys for grouped queries.

    The queries that share a key head are laid out as more queries of that head: [B, H x G, N, D]
    becomes [B, H, G x N, D]. On the CPU the copies were half of the time of a prefill.
    """
    batch, heads, tokens, width = query.shape
    groups = heads // key.shape[1]
    if attention_mask is None or attention_mask.shape[1] != 1 or groups == 1:
        return sdpa_attention_forward(module, query, key, value, attention_mask, **kwargs)
    packed = query.reshape(batch, key.shape[1], groups * tokens, width)
    mask = attention_mask.repeat(1, 1, groups, 1) if tokens > 1 else attention_mask
    output = scaled_dot_product_attention(
        packed, key, value, attn_mask=mask, scale=kwargs.get("scaling")
    )
    return output.reshape(batch, heads, tokens, -1).transpose(1, 2).contiguous(), None


GROUPED = "rlagents_grouped"


class SlotModel:
    """A causal language model of transformers over a slot cache.

    Args:
        model: any causal LM whose layers all keep full keys and values.
        window: tokens a slot must hold.
        slots: how many slots to start with; `grow` adds more.

    Raises:
        ConfigError: naming `policy.model`, for a model whose cache this can't keep.
    """

    def __init__(self, model: Any, *, window: int, slots: int) -> None:
        _check_config(model)
        if model.device.type == "cpu" and model.config._attn_implementation == "sdpa":
            AttentionInterface.register(GROUPED, grouped_attention)
            AttentionMaskInterface.register(GROUPED, sdpa_mask)
            model.config._attn_implementation = GROUPED
        self.model = model
        self.device: torch.device = model.device
        self.slots = slots
        self.scratch = window
        """Position for tokens that fill up a row; never read, since no pass reads that far."""
        self.capacity = -(-(window + 1) // ALIGNMENT) * ALIGNMENT
        self._pass = _Pass()
        layers: list[Any] = [
            SlotLayer(self._pass, slots, self.capacity)
            for _ in range(model.config.get_text_config().num_hidden_layers)
        ]
        self._layers = layers
        self._cache = Cache(layers=layers)
        self._probe()

    @torch.inference_mode()
    def grow(self, slots: int) -> None:
        """Make room for more slots; what is cached stays."""
        self.slots = slots
        for layer in self._layers:
            layer.grow(slots)

    @torch.inference_mode()
    def copy(self, source: int, target: int, start: int, stop: int) -> None:
        """Copy what is cached at the positions from `start` to `stop` of a slot into another."""
        for layer in self._layers:
            layer.copy(source, target, start, stop)

    @torch.inference_mode()
    def clear(self) -> None:
        """Overwrite everything with zeros: a NaN left in a slot would spread through a mask."""
        self._cache.reset()

    @torch.inference_mode()
    def logits(self, ids_BN: Tensor, positions_BN: Tensor, slots: Sequence[int]) -> Tensor:
        """Logits after the last token of each row, [B, V]; writes all tokens into the cache.

        Rows shorter than N are filled up on the left with any id at position -1.

        Args:
            ids_BN: int64, on the CPU.
            positions_BN: int64, on the CPU; the position of each token in its own conversation.
            slots: the slot of each row; a contiguous range is read without copying.
        """
        keys = int(positions_BN.max()) + 1
        first = slots[0]
        rows = torch.as_tensor(slots, dtype=torch.long)
        places_BN = torch.where(positions_BN < 0, self.scratch, positions_BN)
        now = self._pass
        now.keys = keys
        contiguous = len(slots) == slots[-1] - first + 1
        now.slots = slice(first, first + len(slots)) if contiguous else rows.to(self.device)
        now.write_slots = rows[:, None].to(self.device)
        now.write_positions = places_BN.to(self.device)
        now.flat = {}
        positions_BN = positions_BN.clamp(min=0)  # a filler sees key 0: no row may see nothing
        hidden_BNK = torch.arange(keys) > positions_BN[:, :, None]
        mask_BNK = torch.zeros(hidden_BNK.shape, dtype=self.model.dtype)
        mask_BNK.masked_fill_(hidden_BNK, float("-inf"))
        return self._forward(ids_BN, positions_BN, mask_BNK[:, None])

    def _forward(self, ids_BN: Tensor, positions_BN: Tensor, mask_B1NK: Tensor) -> Tensor:
        output = self.model(
            input_ids=ids_BN.to(self.device),
            position_ids=positions_BN.to(self.device),
            attention_mask=mask_B1NK.to(self.device),
            past_key_values=self._cache,
            use_cache=True,
            logits_to_keep=1,
        )
        return output.logits[:, -1]

    def _probe(self) -> None:
        """Compare 8 tokens, 5 at once and 3 one by one, with a pass without a cache."""
        ids_1N = torch.arange(8)[None]
        places_1N = torch.arange(8)[None]
        try:
            with torch.inference_mode():
                whole = self.model(input_ids=ids_1N.to(self.device), use_cache=False).logits[:, -1]
                self.logits(ids_1N[:, :5], places_1N[:, :5], [0])
                for n in (5, 6, 7):
                    cached = self.logits(ids_1N[:, n : n + 1], places_1N[:, n : n + 1], [0])
        except (TypeError, ValueError, AttributeError, RuntimeError, IndexError) as error:
            raise ConfigError(
                f"policy.model: the engine can't keep this model's cache: {error}"
            ) from error
        finally:
            self.clear()
        worst = float((whole - cached).abs().max() / (1 + whole.abs().max()))
        if worst > (1e-3 if self.model.dtype == torch.float32 else 5e-2):
            raise ConfigError(
                "policy.model: the engine can't keep this model's cache: with it the logits are "
                f"off by {worst:.1e} of their size"
            )


def _grown(store: Tensor, slots: int) -> Tensor:
    bigger = torch.zeros((slots, *store.shape[1:]), dtype=store.dtype, device=store.device)
    bigger[: len(store)] = store
    return bigger


def _check_config(model: Any) -> None:
    config = model.config.get_text_config()
    kinds = set(getattr(config, "layer_types", None) or ["full_attention"])
    if kinds != {"full_attention"}:
        raise ConfigError(
            f"policy.model: layers of the kinds {sorted(kinds)} keep no full key-value cache, "
            "which multi-turn sampling needs"
        )
    if getattr(config, "sliding_window", None) and getattr(config, "use_sliding_window", True):
        raise ConfigError("policy.model: a sliding attention window drops keys between turns")
    rope = (getattr(config, "rope_parameters", None) or {}).get("rope_type", "default")
    if rope in ("dynamic", "longrope"):
        raise ConfigError(f"policy.model: {rope!r} positions change keys that are already cached")
    if config._attn_implementation not in ("sdpa", "eager", GROUPED):
        raise ConfigError(
            f"policy.model: attention {config._attn_implementation!r} takes no mask by row; "
            "load the model with sdpa"
        )
