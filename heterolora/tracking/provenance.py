"""Where a run's numbers come from: code, packages, hardware, model and data."""

import importlib.metadata
import os
import platform
import subprocess
from pathlib import Path
from typing import Any

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
        "code": git_state(Path(__file__).parent),
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


def git_state(directory: Path) -> dict[str, Any]:
    """The commit of the code and whether the tree differs from it; None of both outside git."""
    commit = _git(directory, "rev-parse", "HEAD")
    status = _git(directory, "status", "--porcelain")
    return {"commit": commit, "dirty": None if status is None else bool(status)}


def _git(directory: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", "-C", str(directory), *arguments], capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
