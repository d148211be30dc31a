"""A frozen model of which each process keeps a part."""

from collections.abc import Iterable

import torch
import torch.distributed as dist
from torch import nn

from heterolora.adapters import Adapters


def shard(adapters: Adapters, layers: Iterable[nn.Module], device: torch.device) -> None:
    """Divide what is frozen among the processes of the default group, and move it to `device`.

    Each layer, and what is outside of them, is gathered for the time of its passes (FSDP2,
    `fully_shard`). What is trained stays whole in every process: it is small, and all that reads
    or changes it goes on as with a whole model.

    Args:
        adapters: of the model, on the CPU.
        layers: of the model.
        device: of this process.
    """
    # They take a second to import, which every run would pay.
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    trained = set(adapters.named_tensors().values())
    mesh = init_device_mesh(device.type, (dist.get_world_size(),))
    for layer in layers:
        fully_shard(layer, mesh=mesh, ignored_params=trained)
    fully_shard(adapters.model, mesh=mesh, ignored_params=trained)
    adapters.model.to(device)
