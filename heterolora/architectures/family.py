"""What the harness needs to know of a model family: where its parts are."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from transformers import PretrainedConfig


class Parts(nn.Module, ABC):
    """The parts of one layer of a family, from which a block with shortcuts is put together.

    Every part maps a stream (batch, length, d) to another. The layer keeps its modules, and with
    them its dropout and its attention implementation.
    """

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer: Any = layer

    @abstractmethod
    def attention(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Attn(x), its dropout included; the rest is what the model passes to its layers."""

    @abstractmethod
    def feed_forward(self, x: Tensor) -> Tensor:
        """FFN(x), its dropout included."""

    @abstractmethod
    def norm1(self, x: Tensor) -> Tensor:
        """LN1(x), the norm of the attention."""

    @abstractmethod
    def norm2(self, x: Tensor) -> Tensor:
        """LN2(x), the norm of the FFN."""


@dataclass(frozen=True)
class Family:
    """The wiring of one model family, as paths of modules.

    Attributes:
        model_type: the `model_type` of its `config.json`.
        layers: the list of layers, from the model with a sequence classification head.
        projections: for each role, the linear layer, from a layer.
        parts: the parts of a layer.
        post_norm: whether a model of this configuration normalises the stream itself.
        head: the classification head, from the model.
        positions: how many tokens a model of this configuration can read.
    """

    model_type: str
    layers: str
    projections: Mapping[str, str]
    parts: type[Parts]
    post_norm: Callable[[PretrainedConfig], bool]
    head: str
    positions: Callable[[PretrainedConfig], int]
