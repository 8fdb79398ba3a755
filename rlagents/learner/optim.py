"""AdamW with linear warm-up and clipping by the global norm of the gradient.

Weight decay (off by default) acts on matrices only: norms, biases and embeddings, a head tied to
them included, are left alone, as in nanoGPT and most published recipes.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from rlagents.config import LearnerSection


def make_optimizer(model: nn.Module, config: LearnerSection) -> torch.optim.AdamW:
    """AdamW over the parameters that require gradients, in two groups: decayed and not."""
    embeddings = {
        id(parameter)
        for module in model.modules()
        if isinstance(module, nn.Embedding)
        for parameter in module.parameters()
    }
    parameters = [p for p in model.parameters() if p.requires_grad]
    decayed = [p for p in parameters if p.ndim >= 2 and id(p) not in embeddings]
    kept = [p for p in parameters if p.ndim < 2 or id(p) in embeddings]
    return torch.optim.AdamW(
        [
            {"params": decayed, "weight_decay": config.weight_decay},
            {"params": kept, "weight_decay": 0.0},
        ],
        lr=config.lr,
        betas=config.betas,
        fused=parameters[0].device.type in ("cpu", "cuda"),
    )


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
