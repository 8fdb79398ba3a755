"""One step by ours and by TRL: the same sequences and weights, each by its own machinery.

There are three weights: those of the reference, those at the start of the iteration (TRL's old
policy, our proximal one) and those of the step. TRL pads, and computes its old and reference
log-probabilities, importance ratios and advantages. Ours are segments in packed rows, with TRL's
advantages; the learner's pre-passes, the algorithm's columns, the learner's step in micro-batches.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from trl.trainer.grpo_config import GRPOConfig
from trl.trainer.grpo_trainer import GRPOTrainer
from trl.trainer.utils import split_tensor_dict

from rlagents.algos.configs import AlgoConfig
from rlagents.algos.grpo import GRPO
from rlagents.config import LearnerSection, PolicySection, TinySection
from rlagents.data.batches import WEIGHTS
from rlagents.data.packing import pack
from rlagents.learner.step import Learner
from rlagents.policy import models
from rlagents.policy.tiny import byte_tokenizer, tiny_model
from rlagents.types import EpisodeKey, Segment

GROUP, CONSTANT, TEMPERATURE = 3, 40, 0.7
"""Rows of a group, the constant of `dr_grpo`, and what rows were sampled at."""
SCORES = (0.0, 0.2, 1.0, 0.5, 0.0, 1.0)
PROMPTS = (5, 3, 9, 1, 7, 4)
"""Lengths."""
MASKS = ("110011100111", "1", "1110001", "10101010101010101", "11111111", "1100000000111")
"""Of the completions: 1 where a token was sampled, 0 where it was observed."""

START, STEP = 1, 2
"""Seeds of the changes that lead to the weights of the iteration's start, and of the step."""


@dataclass(frozen=True)
class Row:
    prompt_ids: list[int]
    completion_ids: list[int]
    mask: list[int]
    sampling_logprobs: list[float]
    """Those of the weights at the start of the iteration, disturbed; 0 on observations."""


@dataclass(frozen=True)
class Result:
    loss: float
    gradient: dict[str, torch.Tensor]
    inputs: Mapping[str, Any] = field(default_factory=dict)
    """TRL's."""


def save_policy(folder: Path) -> Path:
    """A policy on disk, from where TRL reads its reference."""
    section = TinySection(layers=2, width=32, heads=2, kv_heads=1, mlp=48)
    models.save(tiny_model(section, seed=0, window=64), byte_tokenizer(), folder)
    return folder


def loaded(policy: Path) -> Any:
    return models.load(PolicySection(model=str(policy)), seed=0, window=64)[0]


def move(model: torch.nn.Module, seed: int) -> None:
    """The same change of all weights for the same seed."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for _, parameter in sorted(model.named_parameters()):
            parameter += 0.05 * torch.randn(parameter.shape, generator=generator)


def make_rows(policy: Path, masks: Sequence[str] = MASKS) -> tuple[Row, ...]:
    """Random ids, with log-probabilities as a faulty sampler would have recorded them."""
    model = loaded(policy)
    move(model, START)
    rng = np.random.default_rng(0)
    rows = []
    for length, letters in zip(PROMPTS, masks, strict=True):
        ids = rng.integers(0, 256, length + len(letters))
        mask = np.array([int(letter) for letter in letters])
        with torch.no_grad():
            logits = model(input_ids=torch.from_numpy(ids)[None]).logits[0, length - 1 : -1]
        logprobs = (logits / TEMPERATURE).log_softmax(-1).numpy()
        sampled = logprobs[np.arange(len(mask)), ids[length:]] + rng.normal(0, 0.3, len(mask))
        rows.append(
            Row(
                prompt_ids=ids[:length].tolist(),
                completion_ids=ids[length:].tolist(),
                mask=mask.tolist(),
                sampling_logprobs=(sampled * mask).tolist(),
            )
        )
    return tuple(rows)


def trl_result(
    policy: Path,
    rows: Sequence[Row],
    folder: Path,
    arguments: Mapping[str, Any],
    *,
    vllm: bool = False,
    micro: int = 1,
    rewards: Sequence[Sequence[float]] = (SCORES,),
) -> Result:
    """TRL's loss and gradient.

    Args:
        folder: the trainer's, which writes nothing.
        arguments: of `GRPOConfig`.
        vllm: corrects for the sampler, as TRL does where that is vLLM.
        micro: micro-batches of the step.
        rewards: of the rows, one sequence a reward function.
    """

    def rollout(prompts: list[str], trainer: GRPOTrainer) -> dict[str, list[Any]]:
        return {
            "prompt_ids": [row.prompt_ids for row in rows],
            "completion_ids": [row.completion_ids for row in rows],
            "logprobs": [row.sampling_logprobs for row in rows],
            "env_mask": [row.mask for row in rows],
        }

    def reward_of(values: Sequence[float]) -> Any:
        return lambda **_: list(values)

    prompts = [{"prompt": "a"}] * len(rows)
    trainer = GRPOTrainer(
        model=loaded(policy),
        processing_class=byte_tokenizer(),
        reward_funcs=[reward_of(values) for values in rewards],
        rollout_func=rollout,
        train_dataset=Dataset.from_list(prompts),
        args=GRPOConfig(
            output_dir=str(folder),
            per_device_train_batch_size=len(rows) // micro,
            gradient_accumulation_steps=micro,
            num_generations=GROUP,
            num_iterations=2,  # TRL keeps its old log-probabilities only where they are used again
            temperature=TEMPERATURE,
            max_completion_length=CONSTANT,
            bf16=False,
            use_cpu=True,
            activation_checkpointing=False,
            report_to="none",
            **arguments,
        ),
    )
    model: Any = trainer.model
    model.train()
    trainer.current_gradient_accumulation_steps = micro  # what `train` sets
    trainer.use_vllm = vllm
    trainer._last_loaded_step = trainer.state.global_step  # there is no vLLM to give weights to
    move(model, START)
    inputs = trainer._generate_and_score_completions([dict(prompt) for prompt in prompts])
    move(model, STEP)
    loss = 0.0
    for part in split_tensor_dict(inputs, micro):
        value = trainer._compute_loss(model, part)
        value.backward()
        loss += value.item()
    gradient = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
    return Result(loss=loss, gradient=gradient, inputs=inputs)


def our_result(
    policy: Path, rows: Sequence[Row], algo: AlgoConfig, inputs: Mapping[str, Any]
) -> Result:
    """Our loss and gradient, with TRL's advantages.

    Where ratios are taken to the recorded log-probabilities, those are TRL's old ones.
    """
    behaviour = [row.sampling_logprobs for row in rows]
    if algo.proximal == "behaviour":
        behaviour = inputs["old_per_token_logps"].tolist()
    advantages = inputs["advantages"].tolist()
    segments = [_segment(n, row, behaviour[n], advantages[n]) for n, row in enumerate(rows)]
    constant = {"constant": algo.length_constant} if algo.aggregation == "constant" else {}
    weights = WEIGHTS[algo.aggregation](segments, **constant)
    batch = pack(segments, row_tokens=32, pad_id=256, weights=weights)
    learner = Learner(loaded(policy), LearnerSection(device="cpu", micro_rows=2, logprob_chunk=7))
    learner.freeze_reference()
    gradient: dict[str, torch.Tensor] = {}
    for name, parameter in learner.model.named_parameters():
        # Called after each micro-batch; what stays is the sum.
        parameter.register_post_accumulate_grad_hook(
            lambda p, name=name: gradient.__setitem__(name, p.grad.clone())
        )
    algorithm = GRPO(algo)
    move(learner.model, START)
    batch = learner.columns(batch, algorithm.columns)
    move(learner.model, STEP)
    batch = learner.columns(
        batch, algorithm.step_columns, derive=algorithm.derive if algorithm.derives else None
    )
    stats = learner.step(
        batch,
        algorithm.objective(algorithm.initial_state()),
        entropy_gradient=algorithm.entropy_gradient,
    )
    return Result(loss=stats.metrics["train/loss"], gradient=gradient)


def _segment(number: int, row: Row, behaviour: Sequence[float], advantage: float) -> Segment:
    start = len(row.prompt_ids)
    mask = np.array([0] * start + row.mask, np.bool_)
    logprobs = np.array([0.0] * start + list(behaviour)[: len(row.mask)], np.float32)
    group, member = divmod(number, GROUP)
    return Segment(
        token_ids=np.array(row.prompt_ids + row.completion_ids, np.int32),
        loss_mask=mask,
        behaviour_logprobs=np.where(mask, logprobs, np.float32(0)),
        advantages=np.where(mask, np.float32(advantage), np.float32(0)),
        temperatures=np.where(mask, np.float32(TEMPERATURE), np.float32(1)),
        turns=np.where(mask, 0, -1).astype(np.int32),
        label=number,
        source=(EpisodeKey(stream="train", iteration=0, group=group, member=member), 0),
    )


def apart(first: Result, second: Result, factor: float = 1.0) -> float:
    """Largest difference between the first and `factor` times the second, loss and gradient."""
    assert set(first.gradient) == set(second.gradient)
    pairs = [(first.gradient[name], second.gradient[name]) for name in first.gradient]
    pairs.append((torch.tensor(first.loss), torch.tensor(second.loss)))
    return max(float((a - factor * b).abs().max()) for a, b in pairs)
