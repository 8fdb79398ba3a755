"""What sharing prefixes saves the learner: optimizer steps with `learner.share_prefixes` or not.

Three batches: a group of 16 segments that share 70% of their tokens (a card); the windows of one
trajectory with a pinned half; and both at once, a group of 4 trajectories of 8 windows each, where
a window begins with the group's card and the trajectory's pinned first turn. Speeds count the
tokens of the batch, however often they are computed, in processor seconds, so that others on the
machine do not. `bound` is what the tokens that are computed allow.

`gradient_error` is the largest difference of a gradient's entry over the largest entry.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rlagents.bench.report import Result, figure, machine
from rlagents.config import LearnerSection, TinySection
from rlagents.data.packing import pack
from rlagents.learner.sharing import parts_of
from rlagents.learner.step import Learner
from rlagents.policy.tiny import tiny_model
from rlagents.types import Batch, EpisodeKey, Segment

SIZES = TinySection(layers=4, width=256, heads=4, kv_heads=2, mlp=768)
"""2.8M parameters."""
ROWS = 8


def run(*, window: int = 1024, repeats: int = 3, sizes: TinySection = SIZES) -> Result:
    """Measure all figures. Takes about three minutes on one core with the defaults.

    Args:
        window: tokens of a segment.
        repeats: how often both sides run on each batch, in turn; figures are medians.
        sizes: of the model.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        rows, figures, errors, parameters = [], {}, [], 0
        for name, batch in _batches(window).items():
            learners = [_learner(sizes, window, share) for share in (False, True)]
            parameters = sum(p.numel() for p in learners[0].model.parameters())
            (_, plain), (_, shared) = (_step(learner, batch) for learner in learners)
            errors.append(_difference(plain, shared))
            spent = [[_step(learner, batch)[0] for learner in learners] for _ in range(repeats)]
            computed = sum(part.tokens for part in parts_of(batch, rows=ROWS))
            rows += [
                {
                    "batch": name,
                    "tokens": batch.tokens,
                    "computed": computed,
                    "bound": batch.tokens / computed,
                    "naive tokens/s": batch.tokens / naive,
                    "shared tokens/s": batch.tokens / sharing,
                    "speedup": naive / sharing,
                }
                for naive, sharing in spent
            ]
            figures[f"speedup_{name}"] = figure([naive / sharing for naive, sharing in spent])
    finally:
        torch.set_num_threads(before)
    return Result(
        bench="prefix",
        machine=machine(
            torch=torch.__version__,
            window=window,
            micro_rows=ROWS,
            parameters=parameters,
        ),
        rows=rows,
        figures={**figures, "gradient_error": figure(errors)},
    )


def _batches(window: int) -> dict[str, Batch]:
    draw = np.random.default_rng(0)

    def ids(size: int) -> np.ndarray:
        return draw.integers(0, 256, size).astype(np.int32)

    def segment(parts: Sequence[np.ndarray], member: int, context: int) -> Segment:
        """The last part is new, and so are all but the card in the first context."""
        whole = np.concatenate(parts)
        known = len(whole) - len(parts[-1]) if context else len(parts[0])
        place = np.arange(len(whole))
        mask = (place >= known) & (place % 3 > 0)
        return Segment(
            token_ids=whole,
            loss_mask=mask,
            behaviour_logprobs=np.where(mask, -5, 0).astype(np.float32),
            advantages=np.where(mask, draw.normal(), 0).astype(np.float32),
            temperatures=np.ones(len(whole), np.float32),
            turns=np.where(mask, context, -1).astype(np.int32),
            label=member,
            source=(EpisodeKey(stream="bench", iteration=0, group=0, member=member), context),
        )

    card = ids(round(0.7 * window))
    group = [segment([card, ids(window - len(card))], member, 0) for member in range(16)]
    half = ids(window // 2)
    trajectory = [segment([half, ids(window - len(half))], 0, context) for context in range(16)]
    turns = [ids(window // 8) for _ in range(4)]
    rest = window - len(half) - window // 8
    composed = [
        segment([half, turn, ids(rest)], member, context)
        for member, turn in enumerate(turns)
        for context in range(8)
    ]
    batches = {"group16": group, "trajectory": trajectory, "composed": composed}
    return {name: pack(s, row_tokens=window, pad_id=0) for name, s in batches.items()}


def _learner(sizes: TinySection, window: int, share: bool) -> Learner:
    """Never clips, and hardly moves."""
    config = LearnerSection(
        device="cpu", lr=1e-9, grad_clip=1e9, micro_rows=ROWS, share_prefixes=share
    )
    return Learner(tiny_model(sizes, seed=0, window=window), config)


def _step(learner: Learner, batch: Batch) -> tuple[float, list[Tensor]]:
    """Processor seconds of an optimizer step, and its gradient."""
    gradient: list[Tensor] = []

    def keep(*_: Any) -> None:
        gradient.extend(p.grad.clone() for p in learner.model.parameters() if p.grad is not None)

    hook = learner.optimizer.register_step_pre_hook(keep)
    started = time.process_time()
    learner.step(batch, _objective)
    spent = time.process_time() - started
    hook.remove()
    return spent, gradient


def _difference(plain: Sequence[Tensor], shared: Sequence[Tensor]) -> float:
    pairs = list(zip(plain, shared, strict=True))
    return max(float((a - b).abs().max()) for a, b in pairs) / max(
        float(a.abs().max()) for a, _ in pairs
    )


def _objective(
    logprobs: Tensor, entropies: Tensor, columns: Mapping[str, Tensor]
) -> tuple[Tensor, Mapping[str, Tensor]]:
    ratio = (logprobs - logprobs.detach()).exp()
    return -ratio * columns["advantages"], {"ratio_mean": ratio.detach()}
