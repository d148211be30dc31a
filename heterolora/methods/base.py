"""The base class of methods, and what a method is given."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from heterolora.errors import Problem
from heterolora.proxies.base import Examples
from heterolora.settings import Settings, Situation
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

    def problems(self, situation: Situation) -> Iterator[Problem]:
        """Yield a problem for each setting that needs adapters of single sites."""
        if self.allocates:
            return
        this, adapters = f"`method={self.name}`", "`method=heterolora`"
        if roles := situation.shortcuts:
            remedy = f"set `shortcuts=[]`, or {adapters}"
            yield Problem("shortcuts", roles, f"{this} has no adapters on shortcuts", remedy)
        if names := situation.exclude:
            rule = f"{this} adapts roles, not single sites"
            yield Problem("exclude", names, rule, f"set `exclude=[]`, or {adapters}")
        if situation.engine == "sharded":
            rule = f"{this} trains inside the layers that this engine splits"
            yield Problem("engine", "sharded", rule, f"set `engine=distributed`, or {adapters}")

    def own_parameters(self, situation: Situation) -> Iterator[Problem]:
        """Yield the problems of training the model's own parameters, if they are not in fp32."""
        this = f"`method={self.name}` trains the model's own parameters"
        another = "or choose `method=heterolora`"
        if (stored := situation.quantization) is not None:
            yield Problem("quantization", stored, this, f"set `quantization=null`, {another}")
        if situation.dtype != "fp32":
            remedy = f"set `dtype=fp32`, {another}"
            yield Problem("dtype", situation.dtype, f"{this}, in fp32", remedy)

    def whole_layers(self, situation: Situation) -> Iterator[Problem]:
        """Yield the problem of adapting whole layers, if projections are parts of one."""
        if (family := situation.family) is None:
            return
        parts = family.rows(situation.config)
        if fused := [role for role in situation.projections if role in parts]:
            yield Problem(
                "method",
                self.name,
                f"adapts whole layers, but {', '.join(fused)} of {family.model_type} models are "
                "parts of one layer",
                "choose `method=heterolora`, or other `projections=[...]`, such as "
                "`projections=[o,down]`",
            )

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
