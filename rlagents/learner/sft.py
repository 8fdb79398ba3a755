"""Supervised warm start on segments, with TRL's `SFTTrainer`.

The trainer gets `input_ids` and `labels` (-100 where not trained) and our collator, which lays the
segments of a batch end to end without padding. Log-probabilities come from the learner's own
function, so that segments are isolated exactly as in RL and the head runs at trained positions
only; TRL's own loss is the same number (a test compares) but projects every token. The loss is the
mean over trained tokens, which the trainer counts over a whole optimizer step.

Segments are written to the trainer's folder as they come and read from there through a memory map:
memory does not grow with the number of demonstrations. What is trained is counted twice, by the
masks of the segments and by the labels that reach the model, and the two must agree.
"""

from __future__ import annotations

import copy
import os
import random
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import (
    PreTrainedModel,
    PreTrainedTokenizerFast,
    PrinterCallback,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)
from trl.trainer.sft_config import SFTConfig
from trl.trainer.sft_trainer import SFTTrainer

from rlagents.config import LearnerSection, WarmStartSection
from rlagents.learner.attention import layout_of
from rlagents.learner.model import FlatRow, precision, row_logprobs
from rlagents.learner.optim import MuonAdamW
from rlagents.learner.rows import IGNORED, Rows, check_count, spool
from rlagents.types import Segment

OnStep = Callable[[int, int, float], None]
"""(step from 1, total steps, loss of the step)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SftReport:
    """What a warm start did."""

    steps: int
    trained_tokens: int
    """Labels the model received, over all epochs."""
    first_loss: float
    last_loss: float
    seconds: float


def train_sft(
    model: PreTrainedModel,
    segments: Iterable[Segment],
    *,
    config: WarmStartSection,
    learner: LearnerSection,
    seed: int,
    folder: str,
    on_step: OnStep | None = None,
) -> SftReport:
    """Train `model`, already prepared for packed rows, in place.

    The learning rate rises over the first 5% of the steps and then falls linearly to 0. Modes,
    config and the global random states are afterwards as they were.

    Args:
        model: fp32, on its device, prepared by `rlagents.learner.model.prepare`.
        segments: consumed one by one; those without a trained token are left out.
        config: epochs, learning rate, segments a step.
        learner: memory and optimizer settings: `micro_rows` and `row_tokens` bound a forward pass.
        seed: of the order of the segments.
        folder: for the segments and what the trainer writes; nothing is left in it.
        on_step: called after each optimizer step.

    Raises:
        ValueError: when no segment has a trained token.
        LearnerError: when the model received more or fewer tokens than the segments have.
    """
    os.makedirs(folder, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        rows = spool(segments, scratch, keep=config.batch_segments)
        if not rows.tokens:
            raise ValueError("no segment has a token to train")
        return _train(model, rows, config, learner, seed, scratch, on_step)


def _train(
    model: PreTrainedModel,
    rows: Rows,
    config: WarmStartSection,
    learner: LearnerSection,
    seed: int,
    folder: str,
    on_step: OnStep | None,
) -> SftReport:
    micro = _micro_segments(rows.longest, config.batch_segments, learner)
    device = next(model.parameters()).device
    arguments = SFTConfig(
        output_dir=folder,
        max_length=None,
        remove_unused_columns=False,
        dataset_kwargs={"skip_prepare_dataset": True},
        per_device_train_batch_size=micro,
        gradient_accumulation_steps=config.batch_segments // micro,
        num_train_epochs=config.epochs,
        learning_rate=config.lr,
        adam_beta1=learner.betas[0],
        adam_beta2=learner.betas[1],
        weight_decay=learner.weight_decay,
        max_grad_norm=learner.grad_clip,
        optim="adamw_torch_fused" if device.type in ("cpu", "cuda") else "adamw_torch",
        seed=seed,
        bf16=False,
        use_cpu=device.type == "cpu",
        activation_checkpointing=learner.activation_checkpointing,
        activation_checkpointing_kwargs={"use_reentrant": False},
        dataloader_num_workers=0,
        dataloader_pin_memory=False,
        logging_strategy="no",
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
    )
    if arguments.n_gpu > 1:
        # One learner is one device; the trainer would spread it over all it sees.
        arguments._n_gpu = 1
    started = time.perf_counter()
    with _unchanged(model):
        trainer = _Trainer(
            model=model,
            args=arguments,
            data_collator=_collate,
            train_dataset=rows.dataset(),
            processing_class=_no_tokenizer(),
            optimizers=(MuonAdamW(model, learner, config.lr), None)
            if config.optimizer == "muon"
            else (None, None),
        )
        trainer.remove_callback(PrinterCallback)
        trainer.add_callback(_Progress(trainer, on_step))
        trainer.precision = partial(precision, learner, device)
        trainer.chunk = learner.logprob_chunk
        trainer.train()
        losses = trainer.losses
    check_count(trainer.trained_tokens, trainer.expected_tokens, rows.tokens, config.epochs)
    return SftReport(
        steps=len(losses),
        trained_tokens=trainer.trained_tokens,
        first_loss=losses[0],
        last_loss=losses[-1],
        seconds=time.perf_counter() - started,
    )


def schedule(step: int, total: int) -> float:
    """Factor of the learning rate at a step from 0: up over a twentieth of them, down to 0."""
    return min(1.0, (step + 1) / max(total // 20, 1)) * (1 - step / total)


class _Trainer(SFTTrainer):
    """Counts what the model receives, and keeps the loss of each optimizer step."""

    def __init__(self, **arguments: Any) -> None:
        self.trained_tokens = 0
        self.expected_tokens = 0
        """What the segments behind the labels say."""
        self.losses: list[float] = []
        self.partial = 0.0
        """Loss of the current step so far: accumulated parts add up to a mean over tokens."""
        self.precision: Callable[[], AbstractContextManager[Any]] = nullcontext
        self.chunk = 1024
        super().__init__(**arguments)

    def create_scheduler(
        self, num_training_steps: int, optimizer: torch.optim.Optimizer | None = None
    ) -> torch.optim.lr_scheduler.LRScheduler:
        """Transformers' own schedules spend the first step at a rate of 0."""
        chosen: Any = self.optimizer if optimizer is None else optimizer
        self.lr_scheduler = torch.optim.lr_scheduler.LambdaLR(
            chosen, lambda step: schedule(step, num_training_steps)
        )
        return self.lr_scheduler

    def compute_loss_context_manager(self) -> AbstractContextManager[Any]:
        return self.precision()

    def compute_loss(
        self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        assert not return_outputs, "this trainer never evaluates"
        labels = inputs["labels"][0]
        wanted = (labels != IGNORED).nonzero()[:, 0]
        row = FlatRow(
            token_ids=inputs["input_ids"],
            positions=inputs["position_ids"],
            layout=inputs["layout"],
            wanted=wanted,
            temperatures=torch.ones(len(wanted), device=labels.device),
        )
        logprobs, _ = row_logprobs(model, row, chunk=self.chunk, entropy="none")
        loss = -logprobs.sum() / num_items_in_batch
        self.trained_tokens += len(wanted)
        self.expected_tokens += inputs["trained"]
        self.partial += float(loss.detach())
        return loss


class _Progress(TrainerCallback):
    """Closes the loss of a step, and reports it."""

    def __init__(self, trainer: _Trainer, on_step: OnStep | None) -> None:
        self.trainer = trainer
        self.on_step = on_step

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        loss, self.trainer.partial = self.trainer.partial, 0.0
        self.trainer.losses.append(loss)
        if self.on_step is not None:
            self.on_step(state.global_step, state.max_steps, loss)


def _collate(examples: list[dict[str, np.ndarray]]) -> dict[str, Any]:
    """One flat row [1, N] of segments laid end to end."""
    lengths = [len(example["input_ids"]) for example in examples]

    def flat(parts: list[np.ndarray]) -> torch.Tensor:
        return torch.from_numpy(np.concatenate(parts).astype(np.int64))[None]

    return {
        "input_ids": flat([example["input_ids"] for example in examples]),
        "labels": flat([example["labels"] for example in examples]),
        "position_ids": flat([np.arange(length) for length in lengths]),
        "layout": layout_of(lengths),
        "trained": sum(int(example["trained"]) for example in examples),
    }


def _micro_segments(lengths: Sequence[int], batch: int, learner: LearnerSection) -> int:
    """Most segments a forward pass, a divisor of `batch`, that never exceed the learner's rows."""
    longest = sorted(lengths, reverse=True)
    limit = learner.micro_rows * max(learner.row_tokens, longest[0])
    return max(
        n for n in range(1, batch + 1) if batch % n == 0 and (n == 1 or sum(longest[:n]) <= limit)
    )


def _no_tokenizer() -> PreTrainedTokenizerFast:
    """The trainer insists on a tokenizer; ids are made already, so this one knows no token."""
    return PreTrainedTokenizerFast(tokenizer_object=Tokenizer(WordLevel({}, unk_token="")))


@contextmanager
def _unchanged(model: PreTrainedModel) -> Iterator[None]:
    """Put back all that trainers leave on a model, and the global random states."""
    own = set(model.__dict__)
    training, config = model.training, copy.deepcopy(model.config.__dict__)
    generation = copy.deepcopy(model.generation_config)
    states = random.getstate(), np.random.get_state()
    with torch.random.fork_rng():
        try:
            yield
        finally:
            for name in set(model.__dict__) - own:
                # TRL's fused head replaces `forward` on the instance.
                delattr(model, name)
            model.config.__dict__.clear()
            model.config.__dict__.update(config)
            model.generation_config = generation
            model.zero_grad(set_to_none=True)
            model.train(training)
            random.setstate(states[0])
            np.random.set_state(states[1])
