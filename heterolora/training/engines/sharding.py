"""Sharding of a frozen model over the processes of a run."""

from collections.abc import Iterable

import torch
import torch.distributed as dist
from torch import nn

from heterolora.adapters import Adapters


def shard(adapters: Adapters, layers: Iterable[nn.Module], device: torch.device) -> None:
    """Shard the frozen parameters over the processes of the default group; move to `device`.

    Each layer, and whatever is outside the layers, is gathered only for its passes (FSDP2,
    `fully_shard`). Trained parameters stay whole in every process: they are small, and all code
    that reads or changes them works as with a whole model.

    Args:
        adapters: the adapters of the model, on the CPU.
        layers: the layers of the model.
        device: the device of this process.
    """
    # These imports take a second, which every other run would pay as well.
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    trained = set(adapters.named_tensors().values())
    mesh = init_device_mesh(device.type, (dist.get_world_size(),))
    for layer in layers:
        fully_shard(layer, mesh=mesh, ignored_params=trained)
    fully_shard(adapters.model, mesh=mesh, ignored_params=trained)
    adapters.model.to(device)
