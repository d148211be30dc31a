"""LoRA on a linear layer, and on part of one."""

from typing import Any

import torch
from torch import Tensor, nn

from heterolora.adapters.low_rank import LowRank


class LoRALinear(nn.Module):
    """`y = W0 x + b + scaling B diag(mask) A x`: a linear layer with a low-rank adapter.

    The base layer keeps its parameters and is called unchanged, so that its outputs are reproduced
    exactly while the adapter is zero.
    """

    def __init__(self, base: nn.Linear, adapter: LowRank) -> None:
        super().__init__()
        self.base = base
        self.adapter = adapter

    @property
    def linear(self) -> nn.Linear:
        """The linear layer, without its adapter."""
        return self.base

    def forward(self, x: Tensor) -> Tensor:
        """Map `x` (..., in_features) to (..., out_features)."""
        return self.adapter.added(self.base(x), x)


class LoRARows(nn.Module):
    """`y = W0 x + b`, with `scaling B diag(mask) A x` added to some of its features.

    This adapts one of several projections that a layer computes together, such as the queries in
    a layer for queries, keys and values: the adapter is added to some rows of W0.
    """

    def __init__(self, base: nn.Module, adapter: LowRank, start: int) -> None:
        """Put an adapter on part of a layer.

        Args:
            base: the linear layer, or the module that carries the adapters of its other parts.
            adapter: the adapter, whose output has the width of the part.
            start: the index of the first output feature of the part.
        """
        super().__init__()
        self.base = base
        self.adapter = adapter
        self.start, self.end = start, start + adapter.B.shape[0]

    @property
    def linear(self) -> Any:
        """The linear layer, without any adapter."""
        return self.base.linear if isinstance(self.base, LoRARows) else self.base

    def forward(self, x: Tensor) -> Tensor:
        """Map `x` (..., in_features) to (..., out_features)."""
        y: Tensor = self.base(x)
        part = y[..., self.start : self.end]
        added = self.adapter.added(part, x)
        if added is part:
            return y
        return torch.cat([y[..., : self.start], added, y[..., self.end :]], dim=-1)
