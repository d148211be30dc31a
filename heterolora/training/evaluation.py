"""Validation."""

from collections.abc import Iterable
from contextlib import nullcontext

import torch
from torch import nn

from heterolora.losses import Autocast, Batch, inputs
from heterolora.tasks import Metric, Task
from heterolora.tasks.encoded import Encoded
from heterolora.unpadding import without_padding


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
    return measured(model, task, split.in_order(batch_size), autocast).compute()


@torch.no_grad()
def measured(
    model: nn.Module, task: Task, batches: Iterable[Batch], autocast: Autocast = nullcontext
) -> Metric:
    """The task's metric of some batches; the model is left in evaluation mode."""
    model.eval()
    metric = task.metric()
    for batch in batches:
        with autocast(), without_padding():
            output = model(**inputs(batch))
        metric.update(output, batch)
    return metric
