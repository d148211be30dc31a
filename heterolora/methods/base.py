"""The base class of methods, and what a method is given."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from heterolora.proxies.base import Examples
from heterolora.settings import Settings
from heterolora.sites import Site

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedModel

    from heterolora.adapters import Adapters, Space
    from heterolora.architectures import Loaded


@dataclass(frozen=True)
class Method(Settings, ABC):
    """A way to fine-tune: which parameters of a model are trained, besides its head.

    Attributes:
        allocates: whether searches allocate ranks in what it trains; if not, it is trained as it
            stands.
    """

    allocates: ClassVar[bool] = False

    @property
    def targets_layers(self) -> bool:
        """Whether the method has PEFT adapt the linear layers of the search space."""
        return False

    @abstractmethod
    def apply(self, given: Given) -> Adapters:
        """Prepare the model, in place.

        Raises:
            ModelError: if the model does not support the method.
        """


@dataclass(frozen=True)
class Given:
    """The inputs of a method.

    Attributes:
        loaded: the model, on its device.
        space: the search space: where adapters may go.
        budget: how many parameters to train, not counting the head, where the method has a choice.
        seed: the seed of the random initialization.
        steps: the number of training steps.
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
        """The names of the linear layers in the search space.

        Raises:
            ModelError: if a role is only a part of a linear layer.
        """
        from heterolora.architectures import check_whole, layers_of, projection_name

        loaded = self.loaded
        check_whole(loaded.model.config, loaded.family, self.space.lora)
        layers = range(len(layers_of(loaded.model, loaded.family)))
        sites = (Site(layer, role) for layer in layers for role in self.space.lora)
        return [projection_name(loaded.model, loaded.family, site) for site in sites]

    def without_head(self) -> dict[str, nn.Parameter]:
        """Return the parameters of the model by name, without those of its head."""
        head = {id(parameter) for parameter in self.loaded.head}
        return {n: p for n, p in self.model.named_parameters() if id(p) not in head}

    def prepare(self) -> None:
        """Make the model skip padding and keep no cache, as a model with adapters does."""
        from heterolora.architectures import layers_of
        from heterolora.kernels.unpadding import Unpadding

        self.model.config.use_cache = False
        Unpadding(self.model, list(layers_of(self.model, self.loaded.family)))
