"""Putting adapters on a model."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from torch import nn
from transformers import PretrainedConfig, PreTrainedModel

from heterolora.adapters import Inventory, LoRALinear, LowRank
from heterolora.architectures.block import PostNormBlock, PreNormBlock, Stack
from heterolora.architectures.family import Family
from heterolora.errors import ModelError
from heterolora.seeding import torch_generator
from heterolora.sites import ROLES, Site


@dataclass(frozen=True)
class Shortcuts:
    """The shortcut sites of a search space.

    Attributes:
        ranks: the rank of the sites of each shortcut role.
        alpha: the numerator of the scaling alpha / r.
        renormalize: whether a post-norm block normalises once more behind every cross-layer
            shortcut (`always`), or only behind those that are on (`enabled`).
    """

    ranks: Mapping[str, int]
    alpha: float
    renormalize: str


def wire(
    model: PreTrainedModel,
    family: Family,
    ranks: Mapping[str, int],
    alpha: float,
    seed: int,
    head: Iterable[nn.Parameter],
    shortcuts: Shortcuts | None = None,
) -> Inventory:
    """Put a low-rank adapter at each site of every layer, and freeze the rest.

    Each site draws its A from a stream of its own, so that its initial weights do not depend on
    which other sites there are.

    Args:
        model: a sequence classification model of `family`, changed in place. Without shortcuts it
            keeps its own layers; with them, blocks take their place.
        family: where the model keeps its parts.
        ranks: the rank of the sites of each LoRA role.
        alpha: the numerator of the scaling alpha / r of LoRA sites.
        seed: the run's seed, for the initialisation of A.
        head: the parameters to be trained beside the adapters.
        shortcuts: the shortcut sites, if there are any.

    Raises:
        ModelError: if the model's layers cannot have shortcuts.
    """
    layers = list(model.get_submodule(family.layers).children())
    adapters = {
        Site(index, role): _beside(layer, family, Site(index, role), rank, alpha, seed)
        for index, layer in enumerate(layers)
        for role, rank in ranks.items()
    }
    if shortcuts is not None and shortcuts.ranks:
        check_shortcuts(model.config)
        adapters |= _stack(model, family, layers, shortcuts, seed)
    listed = sorted(adapters, key=lambda site: (site.layer, ROLES.index(site.role)))
    return Inventory(model, {site: adapters[site] for site in listed}, head)


def check_shortcuts(config: PretrainedConfig) -> None:
    """Refuse a model whose own loop treats its layers unequally, which a stack cannot.

    Raises:
        ModelError: with the setting of the model that stands in the way.
    """
    settings = {
        name: getattr(config, name, None)
        for name in ("layer_types", "layerdrop", "add_cross_attention")
    }
    if len(set(settings["layer_types"] or ())) == 1:
        settings["layer_types"] = None
    for setting, value in settings.items():
        if value:
            raise ModelError(
                f"search_space.shortcuts: {config.model_type} models whose config.json says "
                f"{setting}={value} cannot have shortcuts; leave them out with "
                "search_space.shortcuts=[], or choose another model"
            )


def _beside(
    layer: nn.Module, family: Family, site: Site, rank: int, alpha: float, seed: int
) -> LowRank:
    """Put an adapter beside a projection of `layer`."""
    path = family.projections[site.role]
    base = layer.get_submodule(path)
    assert isinstance(base, nn.Linear), f"{site} is a {type(base).__name__}"
    adapter = LowRank(
        base.in_features,
        base.out_features,
        rank,
        alpha,
        torch_generator(seed, "initialisation", site),
        base.weight.device,
    )
    layer.set_submodule(path, LoRALinear(base, adapter))
    return adapter


def _stack(
    model: PreTrainedModel, family: Family, layers: list[nn.Module], shortcuts: Shortcuts, seed: int
) -> dict[Site, LowRank]:
    """Put blocks in the place of the model's layers; returns their adapters."""
    block = PostNormBlock if family.post_norm(model.config) else PreNormBlock
    width = model.config.hidden_size
    adapters: dict[Site, LowRank] = {}
    blocks = []
    for index, layer in enumerate(layers):
        device = next(layer.parameters()).device
        here: dict[str, LowRank] = {}
        for role, rank in shortcuts.ranks.items():
            if role == "cut" and index == 0:
                continue  # there is no attention below the first
            site = Site(index, role)
            generator = torch_generator(seed, "initialisation", site)
            here[role] = LowRank(width, width, rank, shortcuts.alpha, generator, device)
            adapters[site] = here[role]
        blocks.append(block(family.parts(layer), here, shortcuts.renormalize))
    # New modules are born in training mode, which would switch dropout on.
    stack = Stack(blocks).train(layers[0].training)
    model.set_submodule(family.layers, nn.ModuleList([stack]))
    return adapters
