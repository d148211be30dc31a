"""The settings of an optimizer."""

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch

from heterolora.adapters import Adapters
from heterolora.adapters.freezing import freeze_disabled
from heterolora.settings import Settings, setting


@dataclass(frozen=True, kw_only=True)
class Optimizer(Settings, ABC):
    """What makes an optimizer over adapters and head that leaves ranks alone while they are off."""

    learning_rate: float = setting(help="peak learning rate; recipes set it", gt=0, example=2e-4)

    @abstractmethod
    def over(self, parameters: list[torch.nn.Parameter]) -> torch.optim.Optimizer:
        """An optimizer of these parameters.

        Raises:
            UserError: if it cannot be made.
        """

    def make(self, adapters: Adapters) -> torch.optim.Optimizer:
        """An optimizer of all that is trained, in the order of `adapters.named_tensors()`.

        Raises:
            UserError: if it cannot be made.
        """
        optimizer = self.over(list(adapters.named_tensors().values()))
        freeze_disabled(optimizer, adapters)
        return optimizer
