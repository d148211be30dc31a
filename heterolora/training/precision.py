"""Devices and number formats."""

from __future__ import annotations

import platform
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from functools import partial

from heterolora.losses import Autocast
from heterolora.seeding import deterministic_kernels
from heterolora.settings import torch


def resolve_device(name: str) -> torch.device:
    """Return the device of that name; for `auto`, the accelerator if there is one, else the CPU."""
    if name != "auto":
        return torch.device(name)
    return torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")


def device_name(device: torch.device) -> str:
    """Return the product name of the GPU or the processor."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return platform.processor() or platform.machine()


def resolve_precision(name: str, device: torch.device) -> str:
    """Return `bf16` or `fp32`; for `auto`, bf16 on a GPU that supports it natively, else fp32."""
    if name != "auto":
        return name
    bf16 = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    return "bf16" if bf16 else "fp32"


def autocast_for(precision: str, device: torch.device) -> Autocast:
    """Return what makes the context of a forward pass: bfloat16 autocast for `bf16`, else none.

    Trained parameters stay in float32.
    """
    if precision == "bf16":
        return partial(torch.autocast, device.type, dtype=torch.bfloat16)
    return nullcontext


@contextmanager
def matmul_precision(tf32: bool, device: torch.device) -> Iterator[None]:
    """Inside the context, multiply float32 matrices in TF32, where asked for and on a GPU."""
    if not tf32 or device.type != "cuda":
        yield
        return
    # Not `torch.backends.cuda.matmul.fp32_precision`: once that is set, reading this setting is
    # an error, and torch's compiler reads it.
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


@contextmanager
def reproducible(tf32: bool, device: torch.device) -> Iterator[None]:
    """Inside the context, torch computes the same bits on every call.

    Args:
        tf32: as for `matmul_precision`.
        device: as for `matmul_precision`.
    """
    with deterministic_kernels(), matmul_precision(tf32, device):
        yield
