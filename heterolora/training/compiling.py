"""Compiled forward passes, and the batch shapes that suit them."""

from collections.abc import Callable
from typing import Any

import torch
from transformers import PreTrainedModel

LENGTHS = 32
"""Batches are padded to a multiple of this, so that there are few shapes to compile for."""

SHAPES = 256
"""More than the number of batch shapes: past its limit, torch silently stops compiling."""


def compiled(model: PreTrainedModel, backend: str | Callable[..., Any] = "inductor") -> Any:
    """Compile `model` into a callable that computes the same in fewer, larger kernels.

    Each batch shape is compiled when it first occurs, and on a GPU recorded as a CUDA graph, which
    launches all kernels of a pass at once. Ranks and scalings are tensors, so a new allocation
    triggers no recompilation. Calling `model` itself works as before.

    On a GPU, each call overwrites what the previous call returned.

    Args:
        model: the model on its device, wired or not.
        backend: the backend of `torch.compile`.
    """
    mode = "reduce-overhead" if model.device.type == "cuda" else None
    compiled_model: Any = torch.compile(model, dynamic=False, backend=backend, mode=mode)
    limits = {"recompile_limit": SHAPES, "accumulated_recompile_limit": 64 * SHAPES}

    def forward(**inputs: Any) -> Any:
        torch.compiler.cudagraph_mark_step_begin()  # type: ignore[no-untyped-call]
        with torch._dynamo.config.patch(limits):
            return compiled_model(**inputs)

    return forward
