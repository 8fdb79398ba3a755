"""What the main loop talks to: the learner ranks as one. One in-process rank for now.

Nothing here knows of rewards, groups, environments or algorithms: numbers come in, weights go out.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from rlagents.config import LearnerSection, WarmStartSection
from rlagents.errors import LearnerError, boundary
from rlagents.learner.columns import Derive
from rlagents.learner.sft import OnStep, SftReport, train_sft
from rlagents.learner.step import Learner, Objective, StepStats
from rlagents.types import Batch, Segment


class LearnerGroup:
    """Owns the ranks. Every failure of theirs is a `LearnerError`.

    Examples:
        >>> with LearnerGroup(model, config) as learner:
        ...     stats = learner.step(batch, algorithm.objective(state))
        ...     sampler.load(learner.weights(), version)
    """

    def __init__(self, model: PreTrainedModel, config: LearnerSection) -> None:
        """Take over `model`.

        Raises:
            ConfigError: for a device that is not there or a model that can't be packed.
        """
        torch.set_num_threads(config.threads)
        with boundary(LearnerError, "start of the learner"):
            self._rank: Learner | None = Learner(model, config)

    def step(
        self, batch: Batch, objective: Objective, *, entropy_gradient: bool = False
    ) -> StepStats:
        """One optimizer step; see `Learner.step`."""
        with boundary(LearnerError, "optimizer step"):
            return self._open().step(batch, objective, entropy_gradient=entropy_gradient)

    def columns(
        self, batch: Batch, names: Sequence[str], derive: Derive | None = None, seed: int = 0
    ) -> Batch:
        """The batch with columns of a no-gradient pass; see `Learner.columns`."""
        with boundary(LearnerError, "pre-pass"):
            return self._open().columns(batch, names, derive, seed)

    def sft(
        self,
        segments: Iterable[Segment],
        *,
        config: WarmStartSection,
        seed: int,
        folder: str,
        on_step: OnStep | None = None,
    ) -> SftReport:
        """Supervised training on segments, in place; the optimizer of `step` is untouched."""
        rank = self._open()
        with boundary(LearnerError, "warm start"):
            return train_sft(
                rank.model,
                segments,
                config=config,
                learner=rank.config,
                seed=seed,
                folder=folder,
                on_step=on_step,
            )

    @property
    def steps(self) -> int:
        """Optimizer steps so far, which is the version of the weights."""
        return self._open().steps

    @property
    def model(self) -> PreTrainedModel:
        """The model of the first rank, for export."""
        return self._open().model

    def freeze_reference(self) -> None:
        """Keep a frozen copy of the policy as it is now, for `reference_logprobs`."""
        self._open().freeze_reference()

    def move_reference(self, decay: float) -> None:
        """Move the reference towards the policy; see `Learner.move_reference`."""
        with boundary(LearnerError, "move of the reference"):
            self._open().move_reference(decay)

    def weights(self) -> dict[str, Tensor]:
        """fp32 copies on the CPU under the names of `state_dict`."""
        return self._open().weights()

    def state(self) -> dict[str, Any]:
        """A snapshot of everything that training depends on; see `Learner.state`."""
        return self._open().state()

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Continue from a snapshot."""
        with boundary(LearnerError, "restore of the learner"):
            self._open().load_state(state)

    def close(self) -> None:
        """Free the model and the optimizer. May be called twice."""
        self._rank = None

    def __enter__(self) -> LearnerGroup:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _open(self) -> Learner:
        if self._rank is None:
            raise LearnerError("the learner is closed")
        return self._rank
