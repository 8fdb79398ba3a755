"""AdamW or Muon, a linear warm-up, and the global norm of the gradient.

Weight decay (off by default) acts on matrices only: norms, biases and embeddings, a head tied to
them included, are left alone, as in nanoGPT and most published recipes.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from rlagents.config import LearnerSection

MUON_REST = 0.2
"""Of Muon's learning rate, for what Muon does not train: embeddings, heads, norms and biases."""


def make_optimizer(model: PreTrainedModel, config: LearnerSection) -> torch.optim.Optimizer:
    """The optimizer of reinforcement learning, by `learner.optimizer`."""
    if config.optimizer == "muon":
        return MuonAdamW(model, config, config.lr)
    matrices, rest = _split(model)
    return _adamw(matrices, rest, config, config.lr)


def _adamw(
    decayed: list[nn.Parameter], rest: list[nn.Parameter], config: LearnerSection, lr: float
) -> torch.optim.AdamW:
    """AdamW in two groups: decayed and not."""
    return torch.optim.AdamW(
        [
            {"params": decayed, "weight_decay": config.weight_decay},
            {"params": rest, "weight_decay": 0.0},
        ],
        lr=lr,
        betas=config.betas,
        fused=rest[0].device.type in ("cpu", "cuda"),
    )


class MuonAdamW(torch.optim.Optimizer):
    """Muon for the hidden matrices, AdamW for all else, as one optimizer with one state.

    Source: Muon, Jordan et al. 2024 (kellerjordan.github.io/posts/muon), torch's own; its update
    is scaled to AdamW's size, arXiv 2502.16982, so that learning rates compare.
    """

    def __init__(self, model: PreTrainedModel, config: LearnerSection, lr: float) -> None:
        """`lr` is Muon's; AdamW has a fifth of it."""
        matrices, rest = _split(model)
        head = model.get_output_embeddings()
        own = {id(p) for p in (head.parameters() if head else ())}
        hidden = [p for p in matrices if p.ndim == 2 and id(p) not in own]
        others = [p for p in matrices if p.ndim != 2 or id(p) in own]
        self.parts: list[torch.optim.Optimizer] = [_adamw(others, rest, config, lr * MUON_REST)]
        if hidden:
            muon = torch.optim.Muon(
                hidden, lr=lr, weight_decay=config.weight_decay, adjust_lr_fn="match_rms_adamw"
            )
            self.parts.append(muon)
        groups = [{**g, "params": g["params"]} for part in self.parts for g in part.param_groups]
        super().__init__(groups, {})

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """One step of both, at the rates that a schedule has set here."""
        assert closure is None, "closures are not supported"
        theirs = [group for part in self.parts for group in part.param_groups]
        for mine, group in zip(self.param_groups, theirs, strict=True):
            group["lr"] = mine["lr"]
        for part in self.parts:
            part.state = self.state  # one dictionary, whoever has replaced it
            part.step()


def _split(model: nn.Module) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """Parameters that require gradients: matrices that are no embeddings, and the others."""
    embeddings = {
        id(parameter)
        for module in model.modules()
        if isinstance(module, nn.Embedding)
        for parameter in module.parameters()
    }
    parameters = [p for p in model.parameters() if p.requires_grad]
    matrices = [p for p in parameters if p.ndim >= 2 and id(p) not in embeddings]
    return matrices, [p for p in parameters if p.ndim < 2 or id(p) in embeddings]


def learning_rate(config: LearnerSection, step: int) -> float:
    """Rises linearly over `warmup_steps` and stays; step counts from 0.

    With 4 warm-up steps: lr/4, lr/2, 3lr/4, lr, lr, ...
    """
    return config.lr * min(1.0, (step + 1) / max(config.warmup_steps, 1))


def gradient_norm(parameters: Iterable[nn.Parameter]) -> float:
    """Global norm of the gradients; 0 where there are none, not finite where one of them isn't."""
    gradients = [p.grad for p in parameters if p.grad is not None]
    return float(nn.utils.get_total_norm(gradients)) if gradients else 0.0


def clip_gradients(parameters: Iterable[nn.Parameter], norm: float, limit: float) -> None:
    """Scale gradients of this finite global norm so that it is at most `limit`."""
    if norm > limit:
        for parameter in parameters:
            if parameter.grad is not None:
                parameter.grad.mul_(limit / norm)
