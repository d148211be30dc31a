"""The settings of an optimizer."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING

from heterolora.settings import Settings, setting, torch

if TYPE_CHECKING:
    from heterolora.adapters import Adapters


@dataclass(frozen=True, kw_only=True)
class Optimizer(Settings, ABC):
    """Makes an optimizer over adapters and head that leaves ranks that are off unchanged."""

    learning_rate: float = setting(help="peak learning rate; recipes set it", gt=0, example=2e-4)

    @abstractmethod
    def over(self, parameters: list[torch.nn.Parameter]) -> torch.optim.Optimizer:
        """Return an optimizer over these parameters.

        Raises:
            UserError: if it cannot be created.
        """

    def make(self, adapters: Adapters) -> torch.optim.Optimizer:
        """Return an optimizer over all trained tensors, in the order of `adapters.named_tensors()`.

        Raises:
            UserError: if it cannot be created.
        """
        from heterolora.adapters.freezing import freeze_disabled

        optimizer = self.over(list(adapters.named_tensors().values()))
        freeze_disabled(optimizer, adapters)
        return optimizer
