"""Bottleneck adapters (https://arxiv.org/abs/1902.00751)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from heterolora.methods.base import Given, Method
from heterolora.seeding import torch_generator
from heterolora.settings import torch

if TYPE_CHECKING:
    from torch import nn

    from heterolora.adapters import Adapters

ROLES = ("o", "down")
"""Projections whose outputs pass through an adapter: the last of the attention and of the FFN."""


@dataclass(frozen=True)
class Houlsby(Method):
    """A bottleneck adapter after the attention and one after the FFN of every layer.

    Their width, at least 1, is chosen so that the parameter count comes nearest to the budget.
    """

    def apply(self, given: Given) -> Adapters:
        """Insert the adapters."""
        from heterolora.adapters.bottleneck import Bottleneck
        from heterolora.adapters.full_parameters import Trained
        from heterolora.architectures import layers_of

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
                assert isinstance(base, torch.nn.Linear)
                generator = torch_generator(given.seed, "initialisation", f"layers.{index}.{role}")
                adapter = Bottleneck(base, width, generator)
                layer.set_submodule(path, adapter)
                for part in ("down", "up"):
                    for name, parameter in getattr(adapter, part).named_parameters():
                        own[f"layers.{index}.{role}.{part}.{name}"] = parameter
        given.prepare()
        return Trained(given.model, own, given.loaded.head, given.seed)
