"""What of a training changes from step to step, as tensors and JSON values, and back."""

import random
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from heterolora.adapters import Inventory
from heterolora.seeding import global_states, set_global_states

Tensors = dict[str, Tensor]
Row = dict[str, Any]


def capture(
    inventory: Inventory, optimizer: torch.optim.Optimizer, selection: random.Random
) -> tuple[Tensors, Row]:
    """Weights, the optimizer's moments (of adapters that are off too), generators, allocation.

    Tensors are named `weights/layers.3.q.A`, `optimizer/layers.3.q.A/exp_avg`, `generators/cpu`.
    """
    weights = inventory.state()
    names = list(weights)
    tensors = {f"weights/{name}": tensor for name, tensor in weights.items()}
    for index, moments in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer/{names[index]}/{key}": value for key, value in moments.items()}
    tensors |= {
        f"generators/{name}": state for name, state in global_states(inventory.model.device).items()
    }
    return (
        {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()},
        {
            "enabled": [str(site) for site in inventory.sites if site in inventory.enabled],
            "selection": selection.getstate(),
        },
    )


def put_back(
    tensors: Mapping[str, Tensor],
    row: Row,
    inventory: Inventory,
    optimizer: torch.optim.Optimizer,
    selection: random.Random,
) -> None:
    """Take over what `capture` gave; the global generators are those at the time of the call."""
    weights: Tensors = {}
    moments: dict[int, Tensors] = {}
    generators: Tensors = {}
    indices = {name: index for index, name in enumerate(inventory.state())}
    for path, tensor in tensors.items():
        match path.split("/"):
            case ["weights", name]:
                weights[name] = tensor
            case ["optimizer", name, key]:
                moments.setdefault(indices[name], {})[key] = tensor
            case ["generators", name]:
                generators[name] = tensor
    inventory.load_state(weights)
    inventory.enable_only(site for site in inventory.sites if str(site) in set(row["enabled"]))
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": moments, "param_groups": groups})
    version, words, spare = row["selection"]
    selection.setstate((version, tuple(words), spare))
    set_global_states(generators, inventory.model.device)
