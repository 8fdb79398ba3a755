"""States of models and optimizers as plain tensors by name, and back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from rlagents.errors import LearnerError


def parameters_of(model: PreTrainedModel) -> dict[str, Tensor]:
    """CPU copies of the parameters by name, tied ones once."""
    return {name: _copy(parameter) for name, parameter in model.named_parameters()}


@torch.no_grad()
def load_parameters(model: PreTrainedModel, tensors: Mapping[str, Tensor]) -> None:
    """Undo `parameters_of`.

    Raises:
        LearnerError: when parameters are missing, unknown or of another shape.
    """
    own = dict(model.named_parameters())
    if set(own) != set(tensors) or any(own[k].shape != v.shape for k, v in tensors.items()):
        different = sorted(set(own) ^ set(tensors))[:5] or "shapes"
        raise LearnerError(f"the state is of another model: {different} differ")
    for name, parameter in own.items():
        parameter.copy_(tensors[name])


def moments_of(
    model: PreTrainedModel, optimizer: torch.optim.Optimizer
) -> dict[str, dict[str, Tensor]]:
    """CPU copies of what an optimizer keeps, by the parameter's name."""
    return {
        name: {key: _copy(value) for key, value in optimizer.state[parameter].items()}
        for name, parameter in model.named_parameters()
        if parameter in optimizer.state
    }


def load_moments(
    model: PreTrainedModel,
    optimizer: torch.optim.Optimizer,
    moments: Mapping[str, Mapping[str, Tensor]],
) -> None:
    """Undo `moments_of`."""
    optimizer.state.clear()
    for name, parameter in model.named_parameters():
        if name in moments:
            optimizer.state[parameter] = {
                key: value.to(parameter.device, copy=True) for key, value in moments[name].items()
            }


def random_states(device: torch.device) -> dict[str, Any]:
    """Of the generators a learner may draw from."""
    states = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        states["cuda"] = torch.cuda.get_rng_state(device)
    return states


def load_random_states(states: Mapping[str, Any], device: torch.device) -> None:
    """Undo `random_states`; that of a device that is not here is left out."""
    torch.set_rng_state(states["cpu"])
    if "cuda" in states and device.type == "cuda":
        torch.cuda.set_rng_state(states["cuda"], device)


def _copy(value: Tensor) -> Tensor:
    return value.detach().to("cpu", copy=True)
