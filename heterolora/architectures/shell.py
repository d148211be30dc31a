"""A model's modules anew, on the tensors that it has."""

import copy
from typing import TypeVar

from torch import Tensor, nn

Model = TypeVar("Model", bound=nn.Module)


def shell(model: Model) -> Model:
    """A copy that can be wired, or given hooks and flags, without a trace in `model`.

    Its frozen parameters and buffers are the model's own; those that require gradients are other
    parameters of the same storage, frozen. It takes no memory for weights.
    """
    memo: dict[int, Tensor] = {id(buffer): buffer for buffer in model.buffers()}
    for parameter in model.parameters():
        frozen = parameter
        if parameter.requires_grad:
            frozen = nn.Parameter(parameter.detach(), requires_grad=False)
        memo[id(parameter)] = frozen
    return copy.deepcopy(model, memo)
