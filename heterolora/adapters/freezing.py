"""Optimizers that leave alone what is off."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from heterolora.adapters.ranked import Ranked


def freeze_disabled(
    optimizer: torch.optim.Optimizer, adapters: Ranked[Any]
) -> list[RemovableHandle]:
    """Make `optimizer` pass over ranks that are off: weights, moments and decay stay, bit for bit.

    A rank that is off has zero gradients, and an optimizer still decays weights and moments under
    a zero gradient; it leaves alone only parameters that have none. So adapters that are off
    lose their gradients before each step; of those with some ranks on, the other rows of A and
    columns of B, and of everything in the optimizer's state that has their shape, are put back
    after it. An adapter has one count of its steps, whatever ranks were on in them.

    Returns:
        What undoes it, by `remove()`.
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
    """A parameter, and what the optimizer keeps for each of its entries."""
    yield parameter.detach()
    for value in optimizer.state.get(parameter, {}).values():
        if isinstance(value, Tensor) and value.shape == parameter.shape:
            yield value
