"""AdamW with linear warm-up and clipping by the global norm of the gradient; Muon for warm starts.

Weight decay (off by default) acts on matrices only: norms, biases and embeddings, a head tied to
them included, are left alone, as in nanoGPT and most published recipes.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from rlagents.config import LearnerSection

MUON_REST = 0.2
"""Of Muon's learning rate, for what Muon does not train: embeddings, heads, norms and biases."""


def make_optimizer(model: nn.Module, config: LearnerSection) -> torch.optim.AdamW:
    """AdamW over the parameters that require gradients, in two groups: decayed and not."""
    matrices, rest = _split(model)
    return torch.optim.AdamW(
        [
            {"params": matrices, "weight_decay": config.weight_decay},
            {"params": rest, "weight_decay": 0.0},
        ],
        lr=config.lr,
        betas=config.betas,
        fused=rest[0].device.type in ("cpu", "cuda"),
    )


class MuonAdamW(torch.optim.Optimizer):
    """Muon for the hidden matrices, AdamW for all else, as one optimizer without a kept state.

    Source: Muon, Jordan et al. 2024 (kellerjordan.github.io/posts/muon), torch's own; its update
    is scaled to AdamW's size, arXiv 2502.16982, so that learning rates compare.
    """

    def __init__(self, model: nn.Module, config: LearnerSection, lr: float) -> None:
        """`lr` is Muon's; AdamW has a fifth of it."""
        matrices, rest = _split(model)
        self.parts: list[torch.optim.Optimizer] = [
            torch.optim.AdamW(
                rest,
                lr=lr * MUON_REST,
                betas=config.betas,
                weight_decay=0.0,
                fused=rest[0].device.type in ("cpu", "cuda"),
            )
        ]
        if flat := [p for p in matrices if p.ndim == 2]:
            muon = torch.optim.Muon(
                flat, lr=lr, weight_decay=config.weight_decay, adjust_lr_fn="match_rms_adamw"
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


def clip_gradients(parameters: list[nn.Parameter], limit: float) -> Tensor:
    """Scale gradients so that their global norm is at most `limit`; the norm before that.

    A norm that is not finite leaves the gradients as they are: the caller must look.
    """
    gradients = [p.grad for p in parameters if p.grad is not None]
    norm = nn.utils.get_total_norm(gradients)
    if torch.isfinite(norm):
        nn.utils.clip_grads_with_norm_(parameters, limit, norm)
    return norm
