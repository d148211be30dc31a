"""The optimizer of a run."""

import torch

from heterolora.adapters import Inventory
from heterolora.config import OptimizerConfig


def build_optimizer(inventory: Inventory, config: OptimizerConfig) -> torch.optim.AdamW:
    """AdamW over adapters and head, passing over adapters that are off at each step."""
    optimizer = torch.optim.AdamW(
        [*inventory.adapter_parameters(), *inventory.head.values()],
        lr=config.learning_rate,
        betas=config.betas,
        eps=config.eps,
        weight_decay=config.weight_decay,
    )
    inventory.spare_disabled(optimizer)
    return optimizer
