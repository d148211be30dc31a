"""Where a run's numbers come from, as far as is known before model and data are loaded."""

import functools
import importlib.metadata
import os
import platform
from typing import Any

from heterolora.harness.records import code_version
from heterolora.settings import added_by

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


def provenance(device: str, device_name: str) -> dict[str, Any]:
    """Return code version, packages and hardware for `Record.open`: no environment, no secrets.

    What is known only later, such as the revisions of model and data, goes to
    `Record.add_provenance`.
    """
    return {
        "code": code_version.version(),
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in PACKAGES} | added_by(),
        "hardware": {
            "platform": platform.platform(),
            "cpus": len(os.sched_getaffinity(0))
            if hasattr(os, "sched_getaffinity")
            else os.cpu_count(),
            "device": device,
            "device_name": device_name,
        },
    }


@functools.cache  # a sweep asks for each of its runs, and each time it is a file to be parsed
def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
