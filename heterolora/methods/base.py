"""What a method is, and what it leaves to be trained."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import nn
from transformers import PreTrainedModel

from heterolora.adapters import Adapters, Space
from heterolora.architectures import Loaded, check_whole, layers_of, projection_name
from heterolora.proxies.base import Examples
from heterolora.settings import Settings
from heterolora.sites import Site
from heterolora.unpadding import Unpadding


@dataclass(frozen=True)
class Method(Settings, ABC):
    """A way to fine-tune: what of a model is trained, beside its head.

    Attributes:
        allocates: whether ranks are searched for in what it trains; one that does not is trained
            as it stands.
    """

    allocates: ClassVar[bool] = False

    @property
    def targets_layers(self) -> bool:
        """Whether it has PEFT adapt the linear layers of the search space."""
        return False

    @abstractmethod
    def apply(self, given: "Given") -> Adapters:
        """Prepare the model, in place.

        Raises:
            ModelError: if the model does not allow it.
        """


@dataclass(frozen=True)
class Given:
    """What a method is given.

    Attributes:
        loaded: the model, on its device.
        space: where adapters may go.
        budget: how many parameters, the head's apart, are to be trained where there is a choice.
        seed: of what is drawn.
        steps: that will be trained.
        train: the training split.
    """

    loaded: Loaded
    space: Space
    budget: int
    seed: int
    steps: int
    train: Examples

    @property
    def model(self) -> PreTrainedModel:
        """The model."""
        return self.loaded.model

    @property
    def targets(self) -> list[str]:
        """The names of the linear layers of the search space.

        Raises:
            ModelError: if a role is a part of one.
        """
        loaded = self.loaded
        check_whole(loaded.model.config, loaded.family, self.space.lora)
        layers = range(len(layers_of(loaded.model, loaded.family)))
        sites = (Site(layer, role) for layer in layers for role in self.space.lora)
        return [projection_name(loaded.model, loaded.family, site) for site in sites]

    def without_head(self) -> dict[str, nn.Parameter]:
        """The parameters of the model by name, but for those of its head."""
        head = {id(parameter) for parameter in self.loaded.head}
        return {n: p for n, p in self.model.named_parameters() if id(p) not in head}

    def prepare(self) -> None:
        """Have the model compute without padding, and keep no cache, as one with adapters does."""
        self.model.config.use_cache = False
        Unpadding(self.model, list(layers_of(self.model, self.loaded.family)))


class Trained(Adapters):
    """Parameters that are trained whole, beside the head; there are no sites.

    Args:
        model: has them.
        own: those beside the head, by their names in the model.
        head: the task's.
        seed: of the run.
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
        """The parameters beside the head's."""
        return sum(parameter.numel() for parameter in self._own.values())

    def follow(self, optimizer: torch.optim.Optimizer) -> None:
        """Do what the method does in the steps of `optimizer`; nothing, as a rule."""

    def named_tensors(self) -> dict[str, nn.Parameter]:
        """All that is trained: `model.<name>`, and `head.<name>`."""
        named = {f"model.{name}": parameter for name, parameter in self._own.items()}
        return named | super().named_tensors()
