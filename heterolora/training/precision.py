"""Devices and number formats."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial

import torch

from heterolora.errors import ConfigError

Autocast = Callable[[], AbstractContextManager[object]]
"""Makes the context in which the model's forward pass runs."""


def resolve_device(name: str) -> torch.device:
    """The device of that name; for `auto`, the accelerator where there is one, else the CPU.

    Raises:
        ConfigError: if the machine has no such device.
    """
    accelerator = torch.accelerator.current_accelerator(check_available=True)
    if name == "auto":
        return accelerator or torch.device("cpu")
    device = torch.device(name)
    if device.type != "cpu" and (
        accelerator is None
        or accelerator.type != device.type
        or (device.index or 0) >= torch.accelerator.device_count()
    ):
        found = (
            f"{torch.accelerator.device_count()} x {accelerator.type}" if accelerator else "none"
        )
        raise ConfigError(
            [
                f"device={name}: this machine has no such device (accelerators: {found}); "
                "set device=auto"
            ]
        )
    return device


def resolve_precision(name: str, device: torch.device) -> str:
    """`bf16` or `fp32`; for `auto`, bf16 on a GPU that computes in it, else fp32."""
    if name != "auto":
        return name
    bf16 = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    return "bf16" if bf16 else "fp32"


def autocast_for(precision: str, device: torch.device) -> Autocast:
    """Forward passes in bfloat16, with parameters and what is trained in float32; or nothing."""
    if precision == "bf16":
        return partial(torch.autocast, device.type, dtype=torch.bfloat16)
    return nullcontext
