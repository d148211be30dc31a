"""A checkpoint as named in the configuration: its `config.json`, its shapes, and its weights."""

import functools
from dataclasses import dataclass
from pathlib import Path

import torch
from huggingface_hub import is_offline_mode
from torch import nn
from transformers import AutoConfig, AutoModel, PretrainedConfig

from heterolora import architectures
from heterolora.architectures import FAMILIES, Family, Headed, Loaded, Storage
from heterolora.architectures.wiring import check_shortcuts
from heterolora.errors import ModelError, one_line
from heterolora.harness.config import embedded
from heterolora.harness.config.schema import ModelConfig, SearchSpaceConfig
from heterolora.harness.network import PREFETCH, try_hub
from heterolora.sites import Site


def source(model: ModelConfig) -> str | Path:
    """Return the folder of a checkpoint, or its name on the Hub.

    Raises:
        ModelError: if there is no such folder.
    """
    if model.path is None:
        return embedded.MODELS.get(model.name, model.name)
    if not Path(model.path).is_dir():
        raise ModelError(
            f"model.path={model.path}: there is no such directory; give one with config.json, "
            "model.safetensors and a tokenizer"
        )
    return Path(model.path)


def settings(model: ModelConfig) -> PretrainedConfig:
    """Return the content of `config.json`.

    Raises:
        ModelError: if it cannot be found, reached or read.
    """
    return _settings(str(source(model)), model.revision, model.where)


def family(model: ModelConfig) -> Family:
    """Return the family that knows where models of this type keep their parts.

    Raises:
        ModelError: as for `settings`, and for a type that cannot be wired.
    """
    return architectures.family_named(settings(model).model_type, model.where)


def check(model: ModelConfig) -> None:
    """Check that a model can be created and wired.

    Raises:
        ModelError: as for `settings`; for a type that cannot be wired; or for a model without
            layers.
    """
    family(model)
    _skeleton(str(source(model)), model.revision, model.where)


def load(model: ModelConfig, task: Headed, seed: int, device: str | None = None) -> Loaded:
    """Load the model with a head for `task`, and its tokenizer.

    Args:
        model: the model, and how its weights are stored.
        task: the task that it is loaded for.
        seed: the seed of a head that the checkpoint lacks.
        device: the device on which quantized weights are created.

    Raises:
        ModelError: as for `settings` and `architectures.load_pretrained`.
    """
    family(model)
    storage = Storage(model.dtype, model.attn_implementation, model.quantization, device)
    try:
        return architectures.load_pretrained(
            source(model), task, model.revision, seed, model.where, storage
        )
    except ModelError as error:
        if isinstance(error.__cause__, OSError) and is_offline_mode() and _is_remote(model):
            reason = one_line(error.__cause__)[:200]
            raise ModelError(f"{model.where}: cannot be loaded ({reason}); {PREFETCH}") from error
        raise


def fetch(model: ModelConfig, task: Headed) -> Path | None:
    """Download to the cache everything that `load` reads, by loading it.

    Returns:
        The folder in the cache, named by the Hub's commit; None for a local model.

    Raises:
        ModelError: as for `load`.
    """
    if not _is_remote(model):
        return None
    kept_plainly = {"dtype": "fp32", "attn_implementation": None, "quantization": None}
    load(model.model_copy(update=kept_plainly), task, seed=0)  # there may be no GPU here
    return architectures.folder_of(model.name, model.revision)


def _is_remote(model: ModelConfig) -> bool:
    return isinstance(source(model), str)


@dataclass(frozen=True)
class Shape:
    """The shape of what an adapter adapts: it maps `inputs` features to `outputs`."""

    inputs: int
    outputs: int

    @property
    def width(self) -> int:
        """The highest rank that a matrix of this shape can have."""
        return min(self.inputs, self.outputs)

    @property
    def unit_cost(self) -> int:
        """The adapter parameters per rank."""
        return self.inputs + self.outputs


def sites(model: ModelConfig, space: SearchSpaceConfig) -> dict[Site, Shape]:
    """Return every site of the search space in this model.

    Raises:
        ModelError: if the model is not available, or lacks one of the roles.
    """
    found = places(model, space)
    return {site: shape for site, shape in found.items() if str(site) not in space.exclude}


def places(model: ModelConfig, space: SearchSpaceConfig) -> dict[Site, Shape]:
    """Return every place for a role of the search space, including those that it excludes.

    Raises:
        ModelError: as for `sites`.
    """
    known = family(model)
    config = settings(model)
    layers = _skeleton(str(source(model)), model.revision, model.where)
    found: dict[Site, Shape] = {}
    rows = known.rows(config)
    for index, layer in enumerate(layers.children()):
        for role in space.projections:
            linear = layer.get_submodule(known.projections[role])
            assert isinstance(linear, nn.Linear)
            start, end = rows.get(role, (0, linear.out_features))
            found[Site(index, role)] = Shape(linear.in_features, end - start)
        for shortcut in space.shortcuts:
            if shortcut != "cut" or index > 0:  # below layer 0 there is no attention
                found[Site(index, shortcut)] = Shape(config.hidden_size, config.hidden_size)
    return found


def shortcuts_problem(model: ModelConfig) -> str | None:
    """Return why the model cannot have shortcuts; None if it can."""
    try:
        check_shortcuts(settings(model), family(model))
    except ModelError as error:
        return str(error)
    return None


@functools.cache
def _settings(where_from: str, revision: str | None, where: str) -> PretrainedConfig:
    if not Path(where_from).is_dir():
        try_hub()
    try:
        return AutoConfig.from_pretrained(where_from, revision=revision)
    except Exception as error:  # whatever transformers raises for a broken file
        if where.startswith("model.path"):
            raise ModelError(
                f"{where}: is not a model in Hugging Face format ({one_line(error)[:160]}); give a "
                "directory with config.json, model.safetensors and a tokenizer"
            ) from error
        raise ModelError(
            f"{where}: is not in the cache and the hub cannot be reached "
            f"({one_line(error)[:160]}); give a local directory with model.path=DIR, {PREFETCH}, "
            "or use the embedded model=opt_starter"
        ) from error


@functools.cache
def _skeleton(where_from: str, revision: str | None, where: str) -> nn.ModuleList:
    """Return the layers of a model that has shapes but no weights."""
    config = _settings(where_from, revision, where)
    try:
        with torch.device("meta"):
            model = AutoModel.from_config(config)
        layers = architectures.layers_of(model, FAMILIES[config.model_type])
    except Exception as error:  # whatever transformers raises for numbers that do not fit
        raise ModelError(
            f"{where}: no model can be created from its config.json ({one_line(error)[:160]}); "
            "give the one that belongs to the weights"
        ) from error
    if not len(layers):
        raise ModelError(
            f"{where}: its config.json says that it has no layers; give the one that belongs to "
            "the weights"
        )
    return layers
