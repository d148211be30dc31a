"""Rules about the device, and about what it has to support."""

import importlib.util
import os
import shutil
import sys
from collections.abc import Iterable

import torch
from transformers import MODEL_MAPPING

from heterolora.errors import ModelError
from heterolora.harness.config import checkpoints
from heterolora.harness.config.schema import (
    Device,
    ModelConfig,
    Precision,
    TrainingConfig,
)
from heterolora.harness.config.validation import Rule
from heterolora.training.precision import resolve_device, resolve_precision


def bf16_needs_bf16(model: ModelConfig, precision: Precision, device: Device) -> Iterable[str]:
    """Trained parameters are fp32, and work with bf16 weights only under autocast."""
    if model.dtype != "bf16" or list(device_exists(device)):
        return
    resolved = resolve_precision(precision, resolve_device(device))
    if resolved != "bf16":
        here = f", but precision=auto is {resolved} here" if precision == "auto" else ""
        yield (
            f"model.dtype=bf16: needs forward passes in bf16{here}; set precision=bf16, or "
            "model.dtype=fp32"
        )


def quantization_is_there(model: ModelConfig, device: Device) -> Iterable[str]:
    """Quantized weights need a GPU and bitsandbytes."""
    if model.quantization is None:
        return
    if resolve_device(device).type != "cuda":
        yield (
            f"model.quantization={model.quantization}: needs a GPU, but device={device} is not "
            "one; set device=cuda where there is one, or model.quantization=null"
        )
    elif importlib.util.find_spec("bitsandbytes") is None:
        yield (
            f"model.quantization={model.quantization}: needs bitsandbytes, which is not installed; "
            "pip install 'heterolora[quantization]', or set model.quantization=null"
        )


def attention_is_there(model: ModelConfig, precision: Precision, device: Device) -> Iterable[str]:
    """The model and the machine support the requested attention."""
    asked = f"model.attn_implementation={model.attn_implementation}"
    remedy = "set model.attn_implementation=null, or eager"
    if model.attn_implementation in (None, "eager") or list(device_exists(device)):
        return
    try:
        kind = MODEL_MAPPING[type(checkpoints.settings(model))]
    except ModelError:
        return  # reported by model_is_usable
    flash = model.attn_implementation == "flash_attention_2"
    if not (kind._supports_flash_attn if flash else kind._supports_sdpa):
        name = checkpoints.settings(model).model_type
        yield f"{asked}: {name} models do not support this attention; {remedy}"
    elif flash and resolve_device(device).type != "cuda":
        yield f"{asked}: needs a GPU, but device={device} is not one; {remedy}"
    elif flash and importlib.util.find_spec("flash_attn") is None:
        yield f"{asked}: needs flash-attn, which is not installed; install it, or {remedy}"
    elif flash and resolve_precision(precision, resolve_device(device)) != "bf16":
        yield f"{asked}: computes in bf16; set precision=bf16, or {remedy}"


def device_exists(device: Device) -> Iterable[str]:
    """The machine has the device."""
    accelerator = torch.accelerator.current_accelerator(check_available=True)
    wanted = resolve_device(device)
    if wanted.type != "cpu" and (
        accelerator is None
        or accelerator.type != wanted.type
        or (wanted.index or 0) >= torch.accelerator.device_count()
    ):
        found = f"{torch.accelerator.device_count()} of {accelerator}" if accelerator else "none"
        yield (
            f"device={device}: this machine has no such device (accelerators: {found}); "
            "set device=auto"
        )


def tf32_is_read(training: TrainingConfig, precision: Precision, device: Device) -> Iterable[str]:
    """TF32 has no effect on what is computed in bf16."""
    if not training.tf32 or list(device_exists(device)):
        return
    if resolve_precision(precision, resolve_device(device)) != "fp32":
        here = ", which is bf16 here" if precision == "auto" else ""
        yield (
            f"training.tf32=true: has no effect with precision={precision}{here}; "
            "set precision=fp32 or training.tf32=false"
        )


def compiler_is_there(training: TrainingConfig, device: Device) -> Iterable[str]:
    """On a CPU, torch compiles with the machine's C++ compiler."""
    if not training.compile or list(device_exists(device)):
        return
    compiler = os.environ.get("CXX", "clang++" if sys.platform == "darwin" else "g++")
    if resolve_device(device).type == "cpu" and shutil.which(compiler) is None:
        yield (
            f"training.compile=true: device={device} needs a C++ compiler, and {compiler} is not "
            "installed; install it, or set training.compile=false"
        )


RULES: tuple[Rule, ...] = (
    device_exists,
    tf32_is_read,
    compiler_is_there,
    bf16_needs_bf16,
    quantization_is_there,
    attention_is_there,
)
