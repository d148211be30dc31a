"""Validation."""

from contextlib import nullcontext

import torch
from torch import nn

from heterolora.losses import Autocast, inputs
from heterolora.tasks import Task
from heterolora.tasks.encoded import Encoded
from heterolora.unpadding import without_padding


@torch.no_grad()
def evaluate(
    model: nn.Module,
    task: Task,
    split: Encoded,
    batch_size: int,
    autocast: Autocast = nullcontext,
) -> dict[str, float]:
    """The mean loss (`loss`) and the task's metrics over a split, dropout off.

    The model is left in evaluation mode.
    """
    model.eval()
    metric = task.metric()
    for batch in split.in_order(batch_size):
        with autocast(), without_padding():
            output = model(**inputs(batch))
        metric.update(output, batch)
    return metric.compute()
