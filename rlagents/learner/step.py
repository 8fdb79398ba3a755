"""One learner: a model, its optimizer, and the optimizer step on a packed batch.

It executes numbers. The loss is sum(loss_weights * terms) and nothing else: the weights already
hold mask and global normaliser, so any split of the rows gives the same gradient.

Parameters are always fp32, and so are their gradients and the optimizer's moments; `bfloat16`
runs the matrix products under autocast. An update that is tiny against its weight therefore never
vanishes in rounding, at the price of 16 bytes a parameter.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from rlagents.config import LearnerSection
from rlagents.depth import DepthSums
from rlagents.errors import LearnerError
from rlagents.learner.columns import (
    CURRENT,
    ENTROPIES,
    PROXIMAL,
    REFERENCE,
    Derive,
    derived_columns,
    pre_pass,
    spread,
)
from rlagents.learner.depth import by_axis, depth_sums, totals
from rlagents.learner.model import Entropy, FlatRow, precision, prepare, row_logprobs
from rlagents.learner.norms import RunningNorm, label_batches, label_metrics
from rlagents.learner.optim import (
    clip_gradients,
    gradient_norm,
    learning_rate,
    make_optimizer,
)
from rlagents.learner.sharing import flat_rows
from rlagents.learner.snapshot import (
    load_moments,
    load_parameters,
    load_random_states,
    moments_of,
    parameters_of,
    random_states,
)
from rlagents.policy.models import resolve_device
from rlagents.types import Batch

Objective = Callable[[Tensor, Tensor, Mapping[str, Tensor]], tuple[Tensor, Mapping[str, Tensor]]]
"""(policy_logprobs [n], entropies [n], columns of [n]) -> (terms [n] to be minimised, statistics of
[n]). A token's term may depend on its own numbers only: what depends on others is a column."""

NOT_FINITE, NO_SIGNAL, OUTLIERS = "not_finite", "no_signal", "outliers"
"""Why a step is skipped."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StepStats:
    """What one optimizer step did."""

    metrics: Mapping[str, float]
    """By tag: `train/loss`, `policy/*`, `learner/*`. The objective's statistics are token means
    under `policy/`."""
    trained_tokens: int
    skipped: bool
    """Weights and moments are as before: loss or gradient was not finite, the gradient was zero
    everywhere, or its norm was out of line."""
    label_norms: Mapping[int, float] = field(default_factory=dict)
    """Gradient norm of each sequence label, every `learner.norm_report` steps."""
    depth: DepthSums = field(default_factory=dict)
    """The objective's statistics and the entropy by turn and by segment."""


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
        self.skips = {NOT_FINITE: 0, NO_SIGNAL: 0, OUTLIERS: 0}
        """How many of them changed nothing, and why."""
        self.norms = RunningNorm()
        self._shares = [group["lr"] / config.lr for group in self.optimizer.param_groups]

    def step(
        self, batch: Batch, objective: Objective, *, entropy_gradient: bool = False
    ) -> StepStats:
        """One optimizer step on a batch, in micro-batches of `micro_rows` rows.

        A step is skipped, and counted, where loss or gradient is not finite, where the gradient is
        zero everywhere (an optimizer with momentum would move all the same) and where its norm is
        an outlier (`learner.skip_outliers`): weights and moments are then as before.

        Args:
            batch: packed rows with the columns that the objective reads.
            objective: terms of the tokens of some rows.
            entropy_gradient: whether the objective differentiates the entropies it is given.
        """
        started = time.perf_counter()
        entropy: Entropy = "gradient" if entropy_gradient else "value"
        every = self.config.norm_report
        report = every > 0 and self.steps % every == 0
        label_norms = self._label_norms(batch, objective, entropy) if report else {}
        sums = self._gradient(batch, objective, entropy)
        norm = gradient_norm(self.model.parameters())
        trained = batch.trained_tokens
        loss = float(sums.pop("loss", 0.0))
        depth = by_axis(sums)
        metrics = {f"policy/{k}": total / max(trained, 1) for k, total in totals(depth).items()}
        limit = self.norms.limit(self.config.grad_clip, self.config.clip_adaptive)
        rate = learning_rate(self.config, self.steps)
        skip = self._skip(loss, norm)
        if skip is None:
            clip_gradients(self.model.parameters(), norm, limit)
            for group, share in zip(self.optimizer.param_groups, self._shares, strict=True):
                group["lr"] = rate * share
            self.optimizer.step()
        else:
            self.skips[skip] += 1
        self.optimizer.zero_grad(set_to_none=True)
        self.steps += 1
        metrics |= {
            "train/loss": loss,
            "policy/grad_norm": norm,
            "policy/grad_limit": limit,
            "policy/skipped_steps": float(sum(self.skips.values())),
            **{f"policy/skipped_{reason}": float(count) for reason, count in self.skips.items()},
            **label_metrics(label_norms),
            "learner/lr": rate,
            "learner/trained_tokens": float(trained),
            "learner/tokens_per_s": batch.tokens / (time.perf_counter() - started),
        }
        return StepStats(
            metrics=metrics,
            trained_tokens=trained,
            skipped=skip is not None,
            label_norms=label_norms,
            depth=depth,
        )

    def _skip(self, loss: float, norm: float) -> str | None:
        """Why the step is not to be taken, or None; the running norm learns from one that is."""
        if not (math.isfinite(loss) and math.isfinite(norm)):
            return NOT_FINITE
        if norm == 0:
            return NO_SIGNAL
        self.norms, accepted = self.norms.judge(
            norm, clip=self.config.clip_adaptive, skip=self.config.skip_outliers
        )
        return None if accepted else OUTLIERS

    def _gradient(self, batch: Batch, objective: Objective, entropy: Entropy) -> dict[str, Tensor]:
        """Leave the gradient of the batch in the parameters; sums of its statistics."""
        self.optimizer.zero_grad(set_to_none=True)
        sums: dict[str, Tensor] = {}
        rows, share = self.config.micro_rows, self.config.share_prefixes
        for row in flat_rows(batch, rows=rows, share=share, device=self.device):
            self._accumulate(row, objective, entropy, sums)
        return sums

    def _accumulate(
        self, row: FlatRow, objective: Objective, entropy: Entropy, sums: dict[str, Tensor]
    ) -> None:
        """Add a row's gradient, and the sums of its statistics."""
        with precision(self.config, self.device):
            logprobs, entropies = row_logprobs(
                self.model, row, chunk=self.config.logprob_chunk, entropy=entropy
            )
        terms, stats = objective(logprobs, entropies, row.columns)
        loss = (row.columns["loss_weights"] * terms).sum()
        loss.backward()
        found = depth_sums(row.columns, {**stats, "entropy": entropies})
        for name, total in {**found, "loss": loss.detach().double()}.items():
            sums[name] = sums[name] + total if name in sums else total

    def _label_norms(
        self, batch: Batch, objective: Objective, entropy: Entropy
    ) -> dict[int, float]:
        """Gradient norm of each label: each segment once more, forward and backward.

        The gradient of the batch is the sum over labels, because a term depends on its own token's
        numbers only.
        """
        norms = {}
        for label, part in label_batches(batch):
            self._gradient(part, objective, entropy)
            norms[label] = gradient_norm(self.model.parameters())
        return norms

    def columns(
        self, batch: Batch, names: Sequence[str], derive: Derive | None = None, seed: int = 0
    ) -> Batch:
        """The batch with columns of a no-gradient pass, zero where no token is trained.

        Args:
            batch: packed rows: all of them, where something is derived.
            names: `proximal_logprobs`, `current_logprobs` and `current_entropies` of the policy as
                it is now, in one pass; `reference_logprobs`.
            derive: makes further columns of the trained tokens of the whole batch: CPU tensors [n]
                of every field and column, those of `names` included, `segment_labels` and
                `sequence_labels` (int64). Not called where no token is trained.
            seed: of the generator that `derive` is given.

        Raises:
            LearnerError: for an unknown name, where no reference was frozen, or for a derived
                column of another shape.
        """
        known = (PROXIMAL, CURRENT, ENTROPIES, REFERENCE)
        if unknown := [name for name in names if name not in known]:
            raise LearnerError(f"unknown batch column {unknown[0]!r}, known are {sorted(known)}")
        made: dict[str, Tensor] = {}
        if {PROXIMAL, CURRENT, ENTROPIES} & set(names):
            logprobs, entropies = pre_pass(
                self.model, batch, self.config, entropy=ENTROPIES in names
            )
            made = {PROXIMAL: logprobs, CURRENT: logprobs, ENTROPIES: entropies}
        if REFERENCE in names:
            made[REFERENCE], _ = pre_pass(self._known_reference(), batch, self.config)
        filled = {name: spread(batch, made[name]) for name in names}
        batch = replace(batch, columns={**batch.columns, **filled})
        if derive is None:
            return batch
        return replace(batch, columns={**batch.columns, **derived_columns(batch, derive, seed)})

    def freeze_reference(self) -> None:
        """Keep a frozen copy of the policy as it is now, for `reference_logprobs`."""
        self.reference = copy.deepcopy(self.model).requires_grad_(False).eval()

    @torch.no_grad()
    def move_reference(self, decay: float) -> None:
        """Move the reference: reference = decay x reference + (1 - decay) x policy, in place.

        Raises:
            LearnerError: where no reference was frozen.
            ValueError: for a decay outside [0, 1].
        """
        if not 0 <= decay <= 1:
            raise ValueError(f"expected a decay between 0 and 1, got {decay}")
        policy = dict(self.model.named_parameters())
        for name, parameter in self._known_reference().named_parameters():
            parameter.lerp_(policy[name], 1 - decay)

    def _known_reference(self) -> PreTrainedModel:
        if self.reference is None:
            raise LearnerError("no reference policy: call freeze_reference before training")
        return self.reference

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
            "skips": dict(self.skips),
            "norms": asdict(self.norms),
            "model": parameters_of(self.model),
            "optimizer": moments_of(self.model, self.optimizer),
            "rng": random_states(self.device),
        }
        if self.reference is not None:
            state["reference"] = parameters_of(self.reference)
        return state

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Continue from a snapshot of a learner with the same model and settings.

        Raises:
            LearnerError: when parameters are missing, unknown or of another shape.
        """
        load_parameters(self.model, state["model"])
        load_moments(self.model, self.optimizer, state["optimizer"])
        self.reference = None
        if "reference" in state:
            self.freeze_reference()
            load_parameters(self._known_reference(), state["reference"])
        self.steps, self.skips = int(state["steps"]), dict(state["skips"])
        self.norms = RunningNorm(**state["norms"])
        load_random_states(state["rng"], self.device)
