"""AdamW in one call, for scripts."""

import torch

from heterolora.adapters import Adapters
from heterolora.training.optimizers import AdamW


def adamw(
    adapters: Adapters,
    learning_rate: float,
    weight_decay: float = 0.01,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
) -> torch.optim.Optimizer:
    """Return AdamW over adapters and head; it leaves ranks that are off unchanged."""
    settings = AdamW(learning_rate=learning_rate, weight_decay=weight_decay, betas=betas, eps=eps)
    return settings.make(adapters)
