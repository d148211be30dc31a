"""Validation."""

import torch
from torch import nn

from heterolora.config import TaskConfig
from heterolora.data.batching import Encoded
from heterolora.data.metrics import metrics
from heterolora.data.tasks import Loss
from heterolora.training.precision import Autocast


@torch.no_grad()
def evaluate(
    model: nn.Module,
    task: TaskConfig,
    split: Encoded,
    batch_size: int,
    loss: Loss,
    autocast: Autocast,
) -> dict[str, float]:
    """The mean loss and the task's metrics over a split, dropout off.

    The model is left in evaluation mode.
    """
    model.eval()
    logits = []
    for batch in split.in_order(batch_size):
        batch.pop("labels")
        with autocast():
            logits.append(model(**batch).logits.float().cpu())
    outputs = torch.cat(logits)
    mean = loss(outputs, split.labels).item() / len(split)
    return {"loss": mean, **metrics(task, outputs, split.labels.tolist())}
