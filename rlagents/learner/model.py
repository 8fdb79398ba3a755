"""Log-probabilities of packed tokens under a policy, with bounded memory for logits.

Padding is dropped before the model runs: the rows of a (micro-)batch become one flat row of N
tokens with positions and a layout, which may be a tree (`rlagents.learner.sharing`). The
language-model head runs only at trained positions, a chunk at a time under checkpointing, so that
no [N, V] array exists. Logits are in fp32 whatever the model's compute type, and divided by the
temperature the token was sampled at.

Shapes: N tokens of a flat row, n trained positions of it, V vocabulary, W width.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel

from rlagents.config import LearnerSection
from rlagents.data.packing import segment_lengths
from rlagents.errors import ConfigError
from rlagents.learner.attention import PACKED, Layout, layout_of, register
from rlagents.types import Batch, BoolArray

Places = tuple[NDArray[np.intp], ...]
"""Rows and columns of a batch."""

Entropy = Literal["none", "value", "gradient"]
"""What `row_logprobs` makes of entropies: zeros, numbers, or numbers that carry gradient."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class FlatRow:
    """The tokens of a batch without padding, and those whose log-probability is wanted."""

    token_ids: Tensor
    """[1, N]"""
    positions: Tensor
    """[1, N]"""
    layout: Layout
    wanted: Tensor
    """[n] flat indices, never of a segment's first token. A token that several segments share and
    train is there once for each."""
    temperatures: Tensor
    """[n]"""
    columns: Mapping[str, Tensor] = field(default_factory=dict)
    """[n] values of the batch at the wanted positions, by field or column name."""
    places: Places = ()
    """Where the wanted positions are in the batch: rows and columns, each [n]."""
    predictors: Tensor | None = None
    """[n] flat indices of the tokens that they are predicted from; None: those just before."""

    @property
    def targets(self) -> Tensor:
        """[n] the tokens whose log-probability is wanted."""
        return self.token_ids[0, self.wanted]


def precision(config: LearnerSection, device: torch.device) -> AbstractContextManager[Any]:
    """What a forward pass runs under: parameters are in fp32, `bfloat16` is for products."""
    if config.dtype == "float32":
        return nullcontext()
    return torch.autocast(device.type, torch.bfloat16)


def trained_places(batch: Batch) -> BoolArray:
    """[B, T] True where a token has a loss weight and something before it to be predicted from."""
    return (batch.loss_weights != 0) & (batch.segment_ids >= 0) & (batch.positions > 0)


def flat_row(
    batch: Batch, device: torch.device | str = "cpu", *, wanted: BoolArray | None = None
) -> FlatRow:
    """Drop the padding of a batch and choose where the head runs.

    Args:
        batch: packed rows.
        device: of the result.
        wanted: [B, T]; default: `trained_places`. First tokens of segments and padding have no
            log-probability and are left out.
    """
    real = batch.segment_ids >= 0
    chosen = trained_places(batch) if wanted is None else wanted & real & (batch.positions > 0)

    return row_of(
        batch,
        device,
        tokens=np.nonzero(real),
        layout=layout_of(segment_lengths(batch).tolist()),
        wanted=np.flatnonzero(chosen[real]),
        places=np.nonzero(chosen),
    )


def row_of(
    batch: Batch,
    device: torch.device | str,
    *,
    tokens: Places,
    layout: Layout,
    wanted: NDArray[np.intp],
    places: Places,
    predictors: NDArray[np.intp] | None = None,
) -> FlatRow:
    """The flat row of the tokens at [N] places of a batch; the rest as in `FlatRow`."""
    columns = {
        "behaviour_logprobs": batch.behaviour_logprobs,
        "advantages": batch.advantages,
        "loss_weights": batch.loss_weights,
        "sequence_labels": batch.sequence_labels,
        "turns": batch.turns,
        "contexts": batch.contexts,
        **batch.columns,
    }

    def tensor(values: np.ndarray) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(values)).to(device)

    return FlatRow(
        token_ids=tensor(batch.token_ids[tokens].astype(np.int64))[None],
        positions=tensor(batch.positions[tokens].astype(np.int64))[None],
        layout=layout.to(device),
        wanted=tensor(wanted),
        temperatures=tensor(batch.temperatures[places]),
        columns={name: tensor(values[places]) for name, values in columns.items()},
        places=places,
        predictors=None if predictors is None else tensor(predictors),
    )


def row_logprobs(
    model: PreTrainedModel, row: FlatRow, *, chunk: int, entropy: Entropy = "value"
) -> tuple[Tensor, Tensor]:
    """Log-probability and entropy at the wanted positions.

    Args:
        model: prepared by `prepare`.
        row: at least one wanted position.
        chunk: positions whose logits exist at once.
        entropy: whether entropies are wanted, and with their gradient.

    Returns:
        [n] fp32 natural-log probabilities, differentiable, and [n] fp32 entropies in nats of the
        tempered distribution.
    """
    hidden = model.base_model(
        input_ids=row.token_ids, position_ids=row.positions, use_cache=False, layout=row.layout
    ).last_hidden_state[0]
    hidden = hidden.index_select(0, row.wanted - 1 if row.predictors is None else row.predictors)
    head, targets = _head(model), row.targets
    parts = []
    for start in range(0, len(row.wanted), chunk):
        part = slice(start, start + chunk)
        arguments = (head, hidden[part], targets[part], row.temperatures[part], entropy)
        if torch.is_grad_enabled() and len(row.wanted) > chunk:
            parts.append(
                checkpoint(
                    _chunk_logprobs, *arguments, use_reentrant=False, preserve_rng_state=False
                )
            )
        else:
            parts.append(_chunk_logprobs(*arguments))
    return torch.cat([p[0] for p in parts]), torch.cat([p[1] for p in parts])


def _head(model: PreTrainedModel) -> nn.Linear:
    head = model.get_output_embeddings()
    if head is None:
        raise ConfigError(f"policy.model: {type(model).__name__} has no language-model head")
    return head


def _chunk_logprobs(
    head: nn.Module, hidden: Tensor, targets: Tensor, temperatures: Tensor, entropy: Entropy
) -> tuple[Tensor, Tensor]:
    """[n] log-probabilities of targets [n] and entropies, from hidden [n, W]."""
    with torch.autocast(hidden.device.type, enabled=False):
        logits = head(hidden.float()).float() / temperatures[:, None]
        normaliser = logits.logsumexp(-1)
        logprobs = logits.gather(-1, targets[:, None])[:, 0] - normaliser
        if entropy == "none":
            return logprobs, logprobs.new_zeros(logprobs.shape)
        with nullcontext() if entropy == "gradient" else torch.no_grad():
            shifted = logits - normaliser[:, None]
            return logprobs, -(shifted.exp() * shifted).sum(-1)


def policy_logprobs(
    model: PreTrainedModel,
    batch: Batch,
    *,
    chunk: int,
    device: torch.device | str = "cpu",
    wanted: BoolArray | None = None,
) -> tuple[Tensor, Tensor]:
    """Log-probability of each wanted token given those before it in its segment, and entropy.

    Both [B, T], zero elsewhere. `wanted` [B, T] defaults to the tokens with a loss weight.
    """
    row = flat_row(batch, device, wanted=wanted)
    logprobs = torch.zeros(batch.token_ids.shape, device=device)
    entropies = torch.zeros(batch.token_ids.shape, device=device)
    if len(row.wanted) == 0:
        return logprobs, entropies
    places = tuple(torch.from_numpy(index).to(device) for index in row.places)
    values, spread = row_logprobs(model, row, chunk=chunk)
    return logprobs.index_put(places, values), entropies.index_put(places, spread)


def prepare(model: PreTrainedModel, *, activation_checkpointing: bool = False) -> None:
    """Set a causal language model up for packed rows, and check that it is one we compute right.

    Dropout is switched off: a ratio compares the distribution that was sampled.

    Raises:
        ConfigError: when the packed log-probabilities differ from the model's own (linear
            attention, scaled or capped logits, absolute position tables, ...).
    """
    register()
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    if activation_checkpointing:
        # `use_reentrant=False` composes with the head's own checkpoints.
        model.activation_checkpointing_enable({"use_reentrant": False})
    segments, row = _probe(model)
    expected = _own_logprobs(model.eval(), segments)
    model.set_attn_implementation(PACKED)
    # transformers checkpoints activations only in train mode; otherwise eval is the safe one.
    with torch.no_grad():
        packed, _ = row_logprobs(
            model.train(activation_checkpointing), row, chunk=len(row.wanted), entropy="none"
        )
    error = float((packed - expected).abs().max())
    if not error <= 1e-3 * max(1.0, float(expected.abs().max())):
        raise ConfigError(
            f"policy.model: {type(model).__name__} can't be trained in packed rows: its "
            f"log-probabilities move by {error:.2g} nats"
        )


def _probe(model: PreTrainedModel) -> tuple[list[Tensor], FlatRow]:
    """Three short segments of random tokens, two of which begin with the same, and their row."""
    head = _head(model).weight
    draw = torch.Generator().manual_seed(0)
    nodes = [
        torch.randint(head.shape[0], (size,), generator=draw).to(head.device) for size in (4, 3, 5)
    ]
    shared, own, alone = nodes
    layout = layout_of([4, 3, 2, 5], [-1, 0, 0, -1])
    # Flat: 0 to 3 shared, 4 to 6 own, 7 and 8 the same but for the last, 9 to 13 alone.
    wanted = torch.tensor([1, 2, 3, 4, 5, 6, 1, 2, 3, 7, 8, 10, 11, 12, 13])
    predictors = torch.tensor([0, 1, 2, 3, 4, 5, 0, 1, 2, 3, 7, 9, 10, 11, 12])
    row = FlatRow(
        token_ids=torch.cat([shared, own, own[:2], alone])[None],
        positions=torch.tensor([[0, 1, 2, 3, 4, 5, 6, 4, 5, 0, 1, 2, 3, 4]]).to(head.device),
        layout=layout.to(head.device),
        wanted=wanted.to(head.device),
        temperatures=torch.ones(len(wanted), device=head.device),
        predictors=predictors.to(head.device),
    )
    return [torch.cat([shared, own]), torch.cat([shared, own[:2]]), alone], row


@torch.no_grad()
def _own_logprobs(model: PreTrainedModel, segments: list[Tensor]) -> Tensor:
    """What the model's own forward pass says of each segment alone."""
    parts = []
    for ids in segments:
        logits = model(input_ids=ids[None], use_cache=False).logits[0, :-1].float()
        parts.append(logits.log_softmax(-1).gather(-1, ids[1:, None])[:, 0])
    return torch.cat(parts)
