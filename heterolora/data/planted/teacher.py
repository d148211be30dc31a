"""The teacher: the embedded model with low-rank changes planted at a few sites."""

import torch
from torch import Tensor, nn

from heterolora.architectures import Loaded, load_pretrained, projection_name
from heterolora.architectures.loading import Headed
from heterolora.data.starter import MODEL_DIR
from heterolora.seeding import torch_generator
from heterolora.sites import Site

HALVES = (range(4), range(4, 8))
"""Of the layers of the embedded model: one site is changed in each."""
RANK = 16
"""Of each change: all that the budget of rank 2 at 16 sites gives each of two."""
SIZE = 4.0
"""The Frobenius norm of a change, over that of the weight."""


def planted_sites(planting: int) -> tuple[Site, ...]:
    """The sites that are changed: the values of one early layer and of one late layer.

    Args:
        planting: a seed.
    """
    generator = torch_generator(planting, "where")
    drawn = [int(torch.randint(len(half), (), generator=generator)) for half in HALVES]
    return tuple(Site(half[i], "v") for half, i in zip(HALVES, drawn, strict=True))


def change(weight: Tensor, generator: torch.Generator) -> Tensor:
    """`size ||W|| U V^T / sqrt(rank)`, U and V random with orthonormal columns.

    No direction of it is larger than another, so that a lower rank does not come near it.
    """
    u, v = (torch.linalg.qr(torch.randn(n, RANK, generator=generator))[0] for n in weight.shape)
    made: Tensor = SIZE * weight.norm() / RANK**0.5 * u @ v.T
    return made


@torch.no_grad()
def teacher(planting: int, task: Headed) -> Loaded:
    """The embedded model with the changes, on the CPU.

    Args:
        planting: a seed.
        task: says which head it has.
    """
    loaded = load_pretrained(MODEL_DIR, task)
    for site in planted_sites(planting):
        linear = loaded.model.get_submodule(projection_name(loaded.model, loaded.family, site))
        assert isinstance(linear, nn.Linear)
        linear.weight += change(linear.weight, torch_generator(planting, "planted", site))
    return loaded
