"""Putting adapters on a model."""

from collections.abc import Iterable, Mapping

from torch import nn
from transformers import PreTrainedModel

from heterolora.adapters import Inventory, LoRALinear, LowRank
from heterolora.architectures.family import Family
from heterolora.seeding import torch_generator
from heterolora.sites import Site


def wire(
    model: PreTrainedModel,
    family: Family,
    ranks: Mapping[str, int],
    alpha: float,
    seed: int,
    head: Iterable[nn.Parameter],
) -> Inventory:
    """Put a low-rank adapter beside each projection of `ranks` in every layer, and freeze the rest.

    Each site draws its A from a stream of its own, so that its initial weights do not depend on
    which other sites there are.

    Args:
        model: a sequence classification model of `family`, changed in place.
        family: where the model keeps its parts.
        ranks: the rank of the sites of each LoRA role.
        alpha: the numerator of the scaling alpha / r.
        seed: the run's seed, for the initialisation of A.
        head: the parameters to be trained beside the adapters.
    """
    adapters: dict[Site, LowRank] = {}
    for index, layer in enumerate(model.get_submodule(family.layers).children()):
        for role, rank in ranks.items():
            site = Site(index, role)
            path = family.projections[role]
            base = layer.get_submodule(path)
            assert isinstance(base, nn.Linear), f"{site} is a {type(base).__name__}"
            adapters[site] = LowRank(
                base.in_features,
                base.out_features,
                rank,
                alpha,
                torch_generator(seed, "initialisation", site),
                base.weight.device,
            )
            layer.set_submodule(path, LoRALinear(base, adapters[site]))
    return Inventory(model, adapters, head)
