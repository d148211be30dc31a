"""The optimizer of a run."""

import torch

from heterolora.adapters import Adapters
from heterolora.adapters.freezing import freeze_disabled


def adamw(
    adapters: Adapters,
    learning_rate: float,
    weight_decay: float = 0.01,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
) -> torch.optim.AdamW:
    """AdamW over adapters and head that leaves ranks alone while they are off."""
    optimizer = torch.optim.AdamW(
        list(adapters.named_tensors().values()),
        lr=learning_rate,
        betas=betas,
        eps=eps,
        weight_decay=weight_decay,
        fused=True,
    )
    freeze_disabled(optimizer, adapters)
    return optimizer
