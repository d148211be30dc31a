"""Keep optimizers from changing adapters and ranks that are off."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from heterolora.adapters.ranked import Ranked


def freeze_disabled(
    optimizer: torch.optim.Optimizer, adapters: Ranked[Any]
) -> list[RemovableHandle]:
    """Make `optimizer` skip ranks that are off: their weights and moments stay, bit for bit.

    A rank that is off has zero gradients, but an optimizer still decays weights and moments under
    a zero gradient; it skips only parameters whose gradient is None. So the gradients of adapters
    that are off are set to None before each step. If only some ranks of an adapter are on, the
    rows of A and columns of B that are off are restored after the step, as are those of every
    tensor of the same shape in the optimizer's state. Each adapter has a single step count,
    whichever of its ranks were on.

    Returns:
        The handles of the hooks; `remove()` on each undoes this.
    """
    saved: list[tuple[Tensor, Tensor]] = []

    def before(*_: object) -> None:
        saved.clear()
        for adapter in adapters.values():
            if adapter.rank == 0:
                adapter.A.grad = adapter.B.grad = None
            elif adapter.rank < adapter.capacity:
                rank = adapter.rank
                for tensor in _tensors(optimizer, adapter.A):
                    saved.append((tensor[rank:], tensor[rank:].clone()))
                for tensor in _tensors(optimizer, adapter.B):
                    saved.append((tensor[:, rank:], tensor[:, rank:].clone()))

    def after(*_: object) -> None:
        for rows, values in saved:
            rows.copy_(values)

    return [optimizer.register_step_pre_hook(before), optimizer.register_step_post_hook(after)]


def _tensors(optimizer: torch.optim.Optimizer, parameter: nn.Parameter) -> Iterator[Tensor]:
    """Yield a parameter, and each tensor of its shape in the optimizer's state."""
    yield parameter.detach()
    for value in optimizer.state.get(parameter, {}).values():
        if isinstance(value, Tensor) and value.shape == parameter.shape:
            yield value
