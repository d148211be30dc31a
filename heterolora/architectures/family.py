"""What the harness needs to know of a model family: where its parts are."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from transformers import PretrainedConfig


@dataclass(frozen=True)
class Family:
    """The wiring of one model family, as paths of modules.

    Attributes:
        model_type: the `model_type` of its `config.json`.
        layers: the list of layers, from the model with a sequence classification head.
        projections: for each role, the linear layer, from a layer.
        head: the classification head, from the model.
        positions: how many tokens a model of this configuration can read.
    """

    model_type: str
    layers: str
    projections: Mapping[str, str]
    head: str
    positions: Callable[[PretrainedConfig], int]
