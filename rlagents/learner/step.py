"""One learner: a model, its optimizer, and the optimizer step on a packed batch.

It executes numbers. The loss is sum(loss_weights * terms) and nothing else: the weights already
hold mask and global normaliser, so any split of the rows gives the same gradient.

Parameters are always fp32, and so are their gradients and the optimizer's moments; `bfloat16`
runs the matrix products under autocast. An update that is tiny against its weight therefore never
vanishes in rounding, at the price of 16 bytes a parameter.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel

from rlagents.config import LearnerSection
from rlagents.data.packing import split_rows
from rlagents.errors import LearnerError
from rlagents.learner.model import FlatRow, flat_row, prepare, row_logprobs
from rlagents.learner.optim import clip_gradients, learning_rate, make_optimizer
from rlagents.policy.models import resolve_device
from rlagents.types import Batch

Objective = Callable[[Tensor, Mapping[str, Tensor]], tuple[Tensor, Mapping[str, Tensor]]]
"""(policy_logprobs [n], columns of [n]) -> (terms [n] to be minimised, statistics of [n])."""

REFERENCE = "reference_logprobs"
PROXIMAL = "proximal_logprobs"


@dataclass(frozen=True, slots=True, kw_only=True)
class StepStats:
    """What one optimizer step did."""

    metrics: Mapping[str, float]
    """By tag: `train/loss`, `policy/*`, `learner/*`. The objective's statistics are token means
    under `policy/`."""
    trained_tokens: int
    skipped: bool
    """Loss or gradient was not finite, or nothing was to be trained: weights are as before."""


class Learner:
    """Holds the policy that is trained. Single rank."""

    def __init__(self, model: PreTrainedModel, config: LearnerSection) -> None:
        """Take over `model`: moved to the device, parameters in fp32, prepared for packed rows.

        Raises:
            ConfigError: for a device that is not there or a model that can't be packed.
        """
        self.config = config
        self.device = resolve_device(config.device)
        self.model = model.to(device=self.device, dtype=torch.float32)  # type: ignore[arg-type]
        prepare(self.model, activation_checkpointing=config.activation_checkpointing)
        self.optimizer = make_optimizer(self.model, config)
        self.reference: PreTrainedModel | None = None
        self.steps = 0
        """Calls of `step` so far."""
        self.skipped_steps = 0

    def step(self, batch: Batch, objective: Objective) -> StepStats:
        """One optimizer step on a batch, in micro-batches of `micro_rows` rows.

        A loss or gradient that is not finite changes neither weights nor moments, and is counted.
        """
        started = time.perf_counter()
        self.optimizer.zero_grad(set_to_none=True)
        sums: dict[str, Tensor] = {}
        for part in split_rows(batch, self.config.micro_rows):
            row = flat_row(part, self.device)
            if len(row.wanted):
                self._accumulate(row, objective, sums)
        trained = batch.trained_tokens
        metrics = {f"policy/{k}": v.item() / max(trained, 1) for k, v in sums.items()}
        loss = metrics.pop("policy/loss", 0.0) * max(trained, 1)
        parameters = [p for p in self.model.parameters() if p.grad is not None]
        norm = float(clip_gradients(parameters, self.config.grad_clip)) if parameters else 0.0
        rate = learning_rate(self.config, self.steps)
        skipped = trained == 0 or not (np.isfinite(loss) and np.isfinite(norm))
        if not skipped:
            for group in self.optimizer.param_groups:
                group["lr"] = rate
            self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.steps += 1
        self.skipped_steps += skipped
        metrics |= {
            "train/loss": loss,
            "policy/grad_norm": norm,
            "policy/skipped_steps": float(self.skipped_steps),
            "learner/lr": rate,
            "learner/trained_tokens": float(trained),
            "learner/tokens_per_s": batch.tokens / (time.perf_counter() - started),
        }
        return StepStats(metrics=metrics, trained_tokens=trained, skipped=bool(skipped))

    def _accumulate(self, row: FlatRow, objective: Objective, sums: dict[str, Tensor]) -> None:
        """Add a row's gradient, and the sums of its statistics."""
        with self._autocast():
            logprobs, entropy = row_logprobs(self.model, row, chunk=self.config.logprob_chunk)
        terms, stats = objective(logprobs, row.columns)
        loss = (row.columns["loss_weights"] * terms).sum()
        loss.backward()
        for name, values in {**stats, "loss": loss, "entropy": entropy}.items():
            total = values.detach().double().sum()
            sums[name] = sums[name] + total if name in sums else total

    def columns(self, batch: Batch, names: Sequence[str]) -> Batch:
        """The batch with columns of a no-gradient pass, zero where no token is trained.

        Args:
            batch: packed rows.
            names: `proximal_logprobs` (the policy as it is now), `reference_logprobs`.

        Raises:
            LearnerError: for an unknown name, or where no reference was frozen.
        """
        models = {PROXIMAL: self.model, REFERENCE: self.reference}
        for name in names:
            if name not in models:
                raise LearnerError(f"unknown batch column {name!r}, known are {sorted(models)}")
            if models[name] is None:
                raise LearnerError("no reference policy: call freeze_reference before training")
        filled = {name: self._column(batch, models[name]) for name in names}
        return replace(batch, columns={**batch.columns, **filled})

    @torch.no_grad()
    def _column(self, batch: Batch, model: PreTrainedModel) -> np.ndarray:
        values = np.zeros(batch.token_ids.shape, np.float32)
        first = 0
        for part in split_rows(batch, self.config.micro_rows):
            row = flat_row(part, self.device)
            if len(row.wanted):
                with self._autocast():
                    logprobs, _ = row_logprobs(
                        model, row, chunk=self.config.logprob_chunk, entropy=False
                    )
                rows, places = row.places
                values[first + rows, places] = logprobs.cpu().numpy()
            first += len(part.token_ids)
        return values

    def freeze_reference(self) -> None:
        """Keep a frozen copy of the policy as it is now, for `reference_logprobs`."""
        self.reference = copy.deepcopy(self.model).requires_grad_(False).eval()

    def weights(self) -> dict[str, Tensor]:
        """fp32 copies on the CPU under the names of `state_dict`; tied ones share a tensor."""
        copies: dict[int, Tensor] = {}
        return {
            name: copies.setdefault(id(tensor), tensor.detach().to("cpu", copy=True))
            for name, tensor in self.model.state_dict(keep_vars=True).items()
        }

    def state(self) -> dict[str, Any]:
        """A snapshot: nested dicts with string keys; leaves are CPU tensors and numbers."""
        state: dict[str, Any] = {
            "steps": self.steps,
            "skipped_steps": self.skipped_steps,
            "model": _parameters(self.model),
            "optimizer": {
                name: {key: _copy(value) for key, value in self.optimizer.state[parameter].items()}
                for name, parameter in self.model.named_parameters()
                if parameter in self.optimizer.state
            },
            "rng": {"cpu": torch.get_rng_state()},
        }
        if self.device.type == "cuda":
            state["rng"]["cuda"] = torch.cuda.get_rng_state(self.device)
        if self.reference is not None:
            state["reference"] = _parameters(self.reference)
        return state

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Continue from a snapshot of a learner with the same model and settings.

        Raises:
            LearnerError: when parameters are missing, unknown or of another shape.
        """
        _load(self.model, state["model"])
        self.optimizer.state.clear()
        for name, parameter in self.model.named_parameters():
            if name in state["optimizer"]:
                moments = state["optimizer"][name]
                self.optimizer.state[parameter] = {
                    key: value.to(parameter.device, copy=True) for key, value in moments.items()
                }
        self.reference = None
        if "reference" in state:
            self.freeze_reference()
            _load(self.reference, state["reference"])
        self.steps, self.skipped_steps = int(state["steps"]), int(state["skipped_steps"])
        torch.set_rng_state(state["rng"]["cpu"])
        if "cuda" in state["rng"] and self.device.type == "cuda":
            torch.cuda.set_rng_state(state["rng"]["cuda"], self.device)

    def _autocast(self) -> AbstractContextManager[Any]:
        if self.config.dtype == "float32":
            return nullcontext()
        return torch.autocast(self.device.type, torch.bfloat16)


def _copy(value: Tensor) -> Tensor:
    return value.detach().to("cpu", copy=True)


def _parameters(model: PreTrainedModel) -> dict[str, Tensor]:
    """Parameters by name, tied ones once."""
    return {name: _copy(parameter) for name, parameter in model.named_parameters()}


@torch.no_grad()
def _load(model: PreTrainedModel | None, tensors: Mapping[str, Tensor]) -> None:
    assert model is not None
    own = dict(model.named_parameters())
    if set(own) != set(tensors) or any(own[k].shape != v.shape for k, v in tensors.items()):
        different = sorted(set(own) ^ set(tensors))[:5] or "shapes"
        raise LearnerError(f"the state is of another model: {different} differ")
    for name, parameter in own.items():
        parameter.copy_(tensors[name])
