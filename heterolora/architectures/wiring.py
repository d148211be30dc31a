"""Put adapters on a model."""

from collections.abc import Iterable, Mapping
from typing import Any

from torch import nn
from transformers import PretrainedConfig, PreTrainedModel

from heterolora.adapters import Adapters, LoRALinear, LoRARows, LowRank, Space
from heterolora.architectures.block import PostNormBlock, PreNormBlock, Stack
from heterolora.architectures.family import Family, layers_of
from heterolora.errors import ModelError
from heterolora.kernels.unpadding import Unpadding
from heterolora.seeding import torch_generator
from heterolora.sites import ROLES, SHORTCUT_ROLES, Site


def wire(
    model: PreTrainedModel,
    family: Family,
    space: Space,
    head: Iterable[nn.Parameter],
    seed: int,
) -> Adapters:
    """Put a low-rank adapter at each site of every layer, and freeze the rest.

    The A of each site is drawn from a random stream of its own, so that its initial weights do not
    depend on which other sites there are. All ranks are on.

    Args:
        model: a model of `family`, with any head, changed in place. Without shortcuts it keeps its
            own layers; with them, blocks take their place. It does not use a cache unless a call
            asks for one, as `generate` does.
        family: where the model keeps its parts.
        space: the search space, which says which sites there are.
        head: the parameters to train besides the adapters.
        seed: the seed of the run, for the initial A.

    Raises:
        ModelError: if the model already has adapters, or cannot have these.
    """
    if any(isinstance(module, LowRank) for module in model.modules()):
        raise ModelError("the model already has adapters; load it again before adapting it")
    _check_roles(space, family)
    model.config.use_cache = False  # or decoders would keep keys and values in every pass
    layers = list(layers_of(model, family))
    rows = family.rows(model.config)
    adapters = {
        Site(index, role): _beside(layer, family, Site(index, role), space, seed, rows.get(role))
        for index, layer in enumerate(layers)
        for role in space.lora
        if space.has(Site(index, role))
    }
    if space.shortcuts:
        check_shortcuts(model.config, family)
        adapters |= _stack(model, family, layers, space, seed)
    Unpadding(model, list(layers_of(model, family)))
    listed = sorted(adapters, key=lambda site: (site.layer, ROLES.index(site.role)))
    return Adapters(model, {site: adapters[site] for site in listed}, head, seed, space)


def _check_roles(space: Space, family: Family) -> None:
    """Reject roles that do not exist, and capacities below 1.

    Raises:
        ModelError: if there is one; it lists the roles that exist.
    """
    offered: Mapping[str, tuple[Mapping[str, int], Iterable[str]]] = {
        "lora": (space.lora, family.projections),
        "shortcuts": (space.shortcuts, SHORTCUT_ROLES),
    }
    for name, (wanted, known) in offered.items():
        for role, capacity in wanted.items():
            if role not in known:
                raise ModelError(
                    f"{name}: {family.model_type} models have no '{role}'; choose from "
                    f"{', '.join(known)}"
                )
            if capacity < 1:
                raise ModelError(f"{name}: {role}={capacity}: the rank must be at least 1")


def check_shortcuts(config: PretrainedConfig, family: Family) -> None:
    """Reject a model whose layers cannot have shortcuts, or whose own loop treats them unequally.

    Raises:
        ModelError: if it cannot have shortcuts; it says why.
    """
    if family.parts is None:
        raise ModelError(
            f"search_space.shortcuts: {config.model_type} models cannot have shortcuts, because "
            f"{family.no_shortcuts}; leave them out with search_space.shortcuts=[], or choose "
            "another model"
        )
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


def _adapter(site: Site, widths: tuple[int, int], space: Space, seed: int, like: Any) -> LowRank:
    return LowRank(
        *widths,
        space.capacity(site.role),
        space.scaling_of(site),
        torch_generator(seed, "initialisation", site),
        like.device,
    )


def _beside(
    layer: nn.Module,
    family: Family,
    site: Site,
    space: Space,
    seed: int,
    rows: tuple[int, int] | None,
) -> LowRank:
    """Put an adapter beside a projection of `layer`, or beside some of its rows."""
    path = family.projections[site.role]
    base = layer.get_submodule(path)
    linear = base.linear if isinstance(base, LoRARows) else base
    assert isinstance(linear, nn.Linear), f"{site} is a {type(linear).__name__}"
    start, end = rows or (0, linear.out_features)
    adapter = _adapter(site, (linear.in_features, end - start), space, seed, linear.weight)
    beside = LoRALinear(linear, adapter) if rows is None else LoRARows(base, adapter, start)
    layer.set_submodule(path, beside)
    return adapter


def _stack(
    model: PreTrainedModel, family: Family, layers: list[nn.Module], space: Space, seed: int
) -> dict[Site, LowRank]:
    """Replace the model's layers with blocks, and return their adapters."""
    assert family.parts is not None  # check_shortcuts
    block = PostNormBlock if family.post_norm(model.config) else PreNormBlock
    width = model.config.hidden_size
    adapters: dict[Site, LowRank] = {}
    blocks = []
    for index, layer in enumerate(layers):
        here: dict[str, LowRank] = {}
        for role in space.shortcuts:
            site = Site(index, role)
            if not space.has(site) or site == Site(0, "cut"):
                continue  # the first layer has no attention below it
            here[role] = _adapter(site, (width, width), space, seed, next(layer.parameters()))
            adapters[site] = here[role]
        blocks.append(block(family.parts(layer), here, space.renormalize))
    # New modules start in training mode, which would switch dropout on.
    stack = Stack(blocks).train(layers[0].training)
    model.base_model.set_submodule(family.layers, nn.ModuleList([stack]))
    return adapters
