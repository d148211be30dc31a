"""Model families: where the parts of their models are."""

import functools
import importlib
import pkgutil
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedModel

from heterolora.errors import ModelError
from heterolora.sites import Site


class Parts(nn.Module, ABC):
    """The parts of one layer of a family, from which a block with shortcuts is built.

    Every part maps a stream (batch, length, d) to another. The layer keeps its modules, and with
    them its dropout and its attention implementation.
    """

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer: Any = layer

    @abstractmethod
    def attention(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Return Attn(x), including its dropout.

        The other arguments are those that the model passes to its layers.
        """

    @abstractmethod
    def feed_forward(self, x: Tensor) -> Tensor:
        """Return FFN(x), including its dropout."""

    @abstractmethod
    def norm1(self, x: Tensor) -> Tensor:
        """Return LN1(x), the norm of the attention."""

    @abstractmethod
    def norm2(self, x: Tensor) -> Tensor:
        """Return LN2(x), the norm of the FFN."""


def as_it_is(model: nn.Module) -> None:
    """Change nothing."""


@dataclass(frozen=True)
class Family:
    """The wiring of one model family, as paths of modules.

    Attributes:
        model_type: the `model_type` in the `config.json` of its models.
        layers: the path of the list of layers, in the model without a head (`model.base_model`).
        projections: for each role, the path of the linear layer, in a layer.
        parts: the class of the parts of a layer; None if layers cannot have shortcuts.
        post_norm: returns whether a model with this configuration normalizes the stream itself.
        positions: returns how many tokens a model with this configuration can read.
        optional: modules of the model without a head that a checkpoint may lack, such as a pooler;
            if it does, they are drawn at random and trained like a head.
        decoder: whether its models read from left to right, and so can predict the next token.
        separate: makes a model keep the examples of a packed row apart by their `position_ids`, if
            its attention does not do so by itself.
        no_shortcuts: the reason why a layer cannot have shortcuts; None if it can.
        rows: returns, for each role whose projection is part of its linear layer in a model with
            this configuration, the index of its first output feature and the one after its last.
        beside_tokens: whether projections also map something besides the tokens of a batch, which
            has no separate part for each batch when several are concatenated.
    """

    model_type: str
    layers: str
    projections: Mapping[str, str]
    parts: type[Parts] | None
    post_norm: Callable[[PretrainedConfig], bool]
    positions: Callable[[PretrainedConfig], int]
    optional: tuple[str, ...] = ()
    decoder: bool = True
    separate: Callable[[nn.Module], None] = as_it_is
    no_shortcuts: str | None = None
    rows: Callable[[PretrainedConfig], Mapping[str, tuple[int, int]]] = lambda config: {}
    beside_tokens: bool = False


_registered: dict[str, Family] = {}


def register(family: Family) -> None:
    """Register a family; it replaces one with the same `model_type`."""
    _registered[family.model_type] = family


@functools.cache
def _read_files() -> None:
    from heterolora.architectures import families

    users = dict(_registered)
    for module in pkgutil.iter_modules(families.__path__, f"{families.__name__}."):
        importlib.import_module(module.name)
    _registered.update(users)


class _Families(Mapping[str, Family]):
    """The registered families; the files in `families` are imported on first access."""

    def __getitem__(self, model_type: str) -> Family:
        _read_files()
        return _registered[model_type]

    def __iter__(self) -> Iterator[str]:
        _read_files()
        return iter(_registered)

    def __len__(self) -> int:
        _read_files()
        return len(_registered)


FAMILIES: Mapping[str, Family] = _Families()
"""The families that can be wired, by `model_type`; a new one is a new file in `families`."""


def family_named(model_type: str | None, where: str) -> Family:
    """Return the family with a `model_type`.

    Args:
        model_type: the model type, as in `config.json`.
        where: what to call the model in an error.

    Raises:
        ModelError: if there is no such family.
    """
    if model_type is None or model_type not in FAMILIES:
        raise ModelError(
            f"{where}: is a '{model_type}' model, which is not supported; choose one of the "
            f"families {', '.join(sorted(FAMILIES))}"
        )
    return FAMILIES[model_type]


def family_of(model: PreTrainedModel) -> Family:
    """Return the family of a model, whatever its head.

    Raises:
        ModelError: if it belongs to no known family.
    """
    config = getattr(model, "config", None)
    return family_named(getattr(config, "model_type", None), type(model).__name__)


def layers_of(model: PreTrainedModel, family: Family) -> nn.ModuleList:
    """Return the layers of a model of `family`, whatever its head.

    Raises:
        ModelError: if they are not where the family has them.
    """
    try:
        layers = model.base_model.get_submodule(family.layers)
    except AttributeError as error:
        raise ModelError(
            f"{type(model).__name__}: has no {family.layers}, which a complete "
            f"{family.model_type} model has; give one created by an Auto class of transformers"
        ) from error
    assert isinstance(layers, nn.ModuleList)
    return layers


def projection_name(model: PreTrainedModel, family: Family, site: Site) -> str:
    """Return the name of a LoRA site's linear layer, in a model without adapters."""
    prefix = "" if model.base_model is model else f"{model.base_model_prefix}."
    return f"{prefix}{family.layers}.{site.layer}.{family.projections[site.role]}"


def check_whole(config: PretrainedConfig, family: Family, roles: Iterable[str]) -> None:
    """Reject roles whose projection is part of a linear layer, since PEFT only adapts whole layers.

    Args:
        config: the configuration of a model of `family`.
        family: where the projections are.
        roles: the roles of the sites to check.

    Raises:
        ModelError: if there is such a role; it names the first.
    """
    parts = family.rows(config)
    for role in roles:
        if role in parts:
            raise ModelError(
                f"{role}: is only a part of {family.projections[role]} in {family.model_type} "
                "models, and PEFT adapts whole layers; use heterolora.adapt and heterolora.save "
                "(method=heterolora, --to heterolora)"
            )


def head_of(model: PreTrainedModel) -> tuple[nn.Parameter, ...]:
    """Return the parameters of the task head: all outside the model's base.

    The head of a language model does not count: it was trained with the base, or shares its
    embeddings.
    """
    if model.get_output_embeddings() is not None:
        return ()
    base = {id(parameter) for parameter in model.base_model.parameters()}
    return tuple(parameter for parameter in model.parameters() if id(parameter) not in base)
