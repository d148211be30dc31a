"""Parameters of a model that are trained in full."""

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import nn

from heterolora.adapters.adapters import Adapters


class Trained(Adapters):
    """Parameters that are trained in full, besides the head; there are no sites.

    Args:
        model: the model that contains them.
        own: the trained parameters apart from the head, by their names in the model.
        head: the parameters of the task head.
        seed: the seed of the run.
    """

    def __init__(
        self,
        model: Any,
        own: Mapping[str, nn.Parameter],
        head: Iterable[nn.Parameter],
        seed: int,
    ) -> None:
        self._own = dict(own)
        super().__init__(model, {}, head, seed)

    @property
    def count(self) -> int:
        """The number of trained parameters, without the head's."""
        return sum(parameter.numel() for parameter in self._own.values())

    def follow(self, optimizer: torch.optim.Optimizer) -> None:
        """Hook into the steps of `optimizer` where the method needs to; by default, do nothing."""

    def named_tensors(self) -> dict[str, nn.Parameter]:
        """Return all trained parameters: `model.<name>` and `head.<name>`."""
        named = {f"model.{name}": parameter for name, parameter in self._own.items()}
        return named | super().named_tensors()
