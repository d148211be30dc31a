"""Where a run's numbers come from: code, packages, hardware, model and data."""

import importlib.metadata
import os
import platform
from typing import Any

from heterolora.tracking import source

PACKAGES = (
    "heterolora",
    "torch",
    "transformers",
    "tokenizers",
    "datasets",
    "safetensors",
    "numpy",
    "scikit-learn",
    "scipy",
    "hydra-core",
    "omegaconf",
    "pydantic",
    "wandb",
)


def provenance(
    device: str, device_name: str, model: dict[str, Any], data: dict[str, Any]
) -> dict[str, Any]:
    """What `provenance.json` holds. Versions and hardware, no environment and no secrets."""
    return {
        "code": source.version(),
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in PACKAGES},
        "hardware": {
            "platform": platform.platform(),
            "cpus": len(os.sched_getaffinity(0))
            if hasattr(os, "sched_getaffinity")
            else os.cpu_count(),
            "device": device,
            "device_name": device_name,
        },
        "model": model,
        "data": data,
    }


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
