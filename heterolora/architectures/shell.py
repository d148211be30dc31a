"""Copies of a model with new modules and the same tensors."""

import copy
from typing import TypeVar

from torch import Tensor, nn

Model = TypeVar("Model", bound=nn.Module)


def shell(model: Model) -> Model:
    """Return a copy that can be wired, or given hooks and flags, without a trace in `model`.

    Its frozen parameters and its buffers are the model's own; those that require gradients become
    frozen parameters with the same storage. The copy takes no memory for weights.
    """
    memo: dict[int, Tensor] = {id(buffer): buffer for buffer in model.buffers()}
    for parameter in model.parameters():
        frozen = parameter
        if parameter.requires_grad:
            frozen = nn.Parameter(parameter.detach(), requires_grad=False)
        memo[id(parameter)] = frozen
    return copy.deepcopy(model, memo)
