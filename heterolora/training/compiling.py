"""Forward passes that a compiler has made faster, and the shapes of batches that go with them."""

from collections.abc import Callable
from typing import Any

import torch
from transformers import PreTrainedModel

LENGTHS = 32
"""Batches are padded to a multiple of this, so that there are few shapes to compile for."""

SHAPES = 256
"""More than batches have: beyond its limit torch would no longer compile, and not say so."""


def compiled(model: PreTrainedModel, backend: str | Callable[..., Any] = "inductor") -> Any:
    """`model` as a callable that computes the same in fewer, larger kernels.

    Each shape of a batch is compiled for when it first comes, and on a GPU recorded as a CUDA
    graph, which starts all kernels of a pass at once. Ranks and scalings are tensors, so that a
    new allocation compiles nothing anew. Calls of `model` itself stay as they are.

    What it returns on a GPU is overwritten by the next call.

    Args:
        model: wired or not, on its device.
        backend: of `torch.compile`.
    """
    mode = "reduce-overhead" if model.device.type == "cuda" else None
    compiled_model: Any = torch.compile(model, dynamic=False, backend=backend, mode=mode)
    limits = {"recompile_limit": SHAPES, "accumulated_recompile_limit": 64 * SHAPES}

    def forward(**inputs: Any) -> Any:
        torch.compiler.cudagraph_mark_step_begin()  # type: ignore[no-untyped-call]
        with torch._dynamo.config.patch(limits):
            return compiled_model(**inputs)

    return forward
