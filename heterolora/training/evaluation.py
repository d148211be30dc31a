"""Validation."""

from collections.abc import Iterator
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from heterolora.kernels.unpadding import without_padding
from heterolora.losses import Autocast, inputs
from heterolora.tasks import Metric, Task
from heterolora.tasks.encoded import Encoded


@torch.no_grad()
def outputs(
    model: nn.Module, split: Encoded, batch_size: int, autocast: Autocast = nullcontext
) -> Iterator[tuple[Any, dict[str, Tensor]]]:
    """Yield the model's output for each batch of a split, in order, and the batch; dropout is off.

    The model is left in evaluation mode.
    """
    model.eval()
    for batch in split.in_order(batch_size):
        with autocast(), without_padding():
            output = model(**inputs(batch))
        yield output, batch


def evaluate(
    model: nn.Module,
    task: Task,
    split: Encoded,
    batch_size: int,
    autocast: Autocast = nullcontext,
) -> dict[str, float]:
    """Return the mean loss (`loss`) and the task's metrics over a split, with dropout off.

    The model is left in evaluation mode.
    """
    return measured(model, task, split, batch_size, autocast).compute()


def measured(
    model: nn.Module,
    task: Task,
    split: Encoded,
    batch_size: int,
    autocast: Autocast = nullcontext,
) -> Metric:
    """Return the task's metric over a split, before `compute`, so that others can be added."""
    metric = task.metric()
    for output, batch in outputs(model, split, batch_size, autocast):
        metric.update(output, batch)
    return metric
