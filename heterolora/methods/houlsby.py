"""Bottleneck adapters (https://arxiv.org/abs/1902.00751)."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from heterolora.adapters import Adapters
from heterolora.adapters.low_rank import kaiming_uniform
from heterolora.architectures import layers_of
from heterolora.methods.base import Given, Method, Trained
from heterolora.seeding import torch_generator

ROLES = ("o", "down")
"""Projections whose outputs pass through an adapter: the last of the attention and of the FFN."""


class Bottleneck(nn.Module):
    """`y + W2 relu(W1 y + b1) + b2` of a linear layer's output y; W2, b1 and b2 start at zero."""

    def __init__(self, base: nn.Linear, width: int, generator: torch.Generator) -> None:
        super().__init__()
        d, like = base.out_features, base.weight
        self.base = base
        self.down = nn.Linear(d, width, device=like.device)
        self.up = nn.Linear(width, d, device=like.device)
        with torch.no_grad():
            self.down.weight.copy_(kaiming_uniform((width, d), generator))
            for zero in (self.down.bias, self.up.weight, self.up.bias):
                zero.zero_()

    def forward(self, x: Tensor) -> Tensor:
        """Map `x` (..., in_features) to (..., out_features)."""
        y: Tensor = self.base(x)
        added: Tensor = self.up(torch.relu(self.down(y)))
        return y + added


@dataclass(frozen=True)
class Houlsby(Method):
    """A bottleneck adapter after the attention and one after the FFN of every layer.

    Their width, at least 1, is chosen so that the parameter count comes nearest to the budget.
    """

    def apply(self, given: Given) -> Adapters:
        """Insert the adapters."""
        layers = list(layers_of(given.model, given.loaded.family))
        paths = [given.loaded.family.projections[role] for role in ROLES]
        bases: list[Any] = [layer.get_submodule(path) for layer in layers for path in paths]
        biases = sum(base.out_features for base in bases)
        per_width = sum(2 * base.out_features + 1 for base in bases)
        width = max(1, round((given.budget - biases) / per_width))
        own: dict[str, nn.Parameter] = {}
        for index, layer in enumerate(layers):
            for role, path in zip(ROLES, paths, strict=True):
                base = layer.get_submodule(path)
                assert isinstance(base, nn.Linear)
                generator = torch_generator(given.seed, "initialisation", f"layers.{index}.{role}")
                adapter = Bottleneck(base, width, generator)
                layer.set_submodule(path, adapter)
                for part in ("down", "up"):
                    for name, parameter in getattr(adapter, part).named_parameters():
                        own[f"layers.{index}.{role}.{part}.{name}"] = parameter
        given.prepare()
        return Trained(given.model, own, given.loaded.head, given.seed)
