"""Columns of a batch: from a pass without gradient, and what an algorithm derives from all of it.

A term may need more than its own token: the ratio of a trajectory over all its segments, a quantile
of entropies, a rank of covariances. Those are computed here, before the batch is cut into rows of a
forward pass or dealt to ranks, from numbers without gradient. A column is then a number at a token
like any other, and any split of the rows gives the same gradient.

Shapes: [B, T] a batch, n its trained tokens, row by row.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import fields

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel

from rlagents.config import LearnerSection
from rlagents.errors import LearnerError
from rlagents.learner.model import precision, row_logprobs, trained_places
from rlagents.learner.sharing import flat_rows
from rlagents.types import Batch, FloatArray

Derive = Callable[[Mapping[str, Tensor], torch.Generator], Mapping[str, Tensor]]
"""(columns of [n] on the CPU, generator) -> further columns of [n]."""

PROXIMAL = "proximal_logprobs"
"""The policy's log-probabilities when the column was made, under a name that stays."""
REFERENCE = "reference_logprobs"
CURRENT = "current_logprobs"
"""Those of the weights just before a step: made anew for each."""
ENTROPIES = "current_entropies"

FIELDS = tuple(field.name for field in fields(Batch) if field.name != "columns")


@torch.no_grad()
def pre_pass(
    model: PreTrainedModel, batch: Batch, config: LearnerSection, *, entropy: bool = False
) -> tuple[Tensor, Tensor]:
    """[n] log-probabilities and entropies (or zeros) of the trained tokens, on the CPU.

    Needs the memory of a forward pass of `micro_rows` rows, whatever the size of the batch.
    """
    trained = trained_places(batch)
    number = np.cumsum(trained).reshape(trained.shape) - 1
    results = torch.zeros(int(trained.sum())), torch.zeros(int(trained.sum()))
    for row in flat_rows(
        batch, rows=config.micro_rows, share=config.share_prefixes, device=model.device
    ):
        with precision(config, model.device):
            values = row_logprobs(
                model,
                row,
                chunk=config.logprob_chunk,
                entropy="value" if entropy else "none",
            )
        places = torch.from_numpy(number[row.places])
        for result, value in zip(results, values, strict=True):
            result[places] = value.cpu()
    return results


def trained_columns(batch: Batch) -> dict[str, Tensor]:
    """[n] every field and column of a batch at its trained tokens, on the CPU.

    Integers are int64. `segment_labels` numbers the segments of the batch from 0, as
    `sequence_labels` names their trajectories.
    """
    chosen = trained_places(batch)
    arrays = {name: getattr(batch, name) for name in FIELDS} | dict(batch.columns)
    counts = batch.segment_ids.max(axis=1, initial=-1).astype(np.int64) + 1
    arrays["segment_labels"] = batch.segment_ids + (np.cumsum(counts) - counts)[:, None]
    tensors = {name: torch.from_numpy(values[chosen]) for name, values in arrays.items()}
    return {
        name: values if values.is_floating_point() else values.long()
        for name, values in tensors.items()
    }


def derived_columns(batch: Batch, derive: Derive, seed: int) -> dict[str, FloatArray]:
    """[B, T] what `derive` makes of the trained tokens of the whole batch, zero elsewhere.

    Args:
        batch: with the columns that `derive` reads.
        derive: pure; called once, not at all without a trained token.
        seed: of the generator it is given.

    Raises:
        LearnerError: for a result that is not [n], or has the name of a field of the batch.
    """
    columns = trained_columns(batch)
    size = columns["loss_weights"].shape
    if size[0] == 0:
        return {}
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        results = derive(columns, generator)
    for name, values in results.items():
        if name in (*FIELDS, "segment_labels"):
            raise LearnerError(f"a derived column may not replace the batch's own {name!r}")
        if values.shape != size:
            raise LearnerError(
                f"derived column {name!r}: expected {list(size)}, one value a trained token, "
                f"got {list(values.shape)}"
            )
    return {name: spread(batch, values) for name, values in results.items()}


def spread(batch: Batch, values: Tensor) -> FloatArray:
    """[B, T] the values [n] at the trained tokens as float32, zero elsewhere."""
    column = np.zeros(batch.token_ids.shape, np.float32)
    column[trained_places(batch)] = values.float().cpu().numpy()
    return column
