"""The trained weights of a run on disk: adapters and head, never the frozen model."""

import os
from pathlib import Path

from safetensors import safe_open
from safetensors.torch import load_file, save_file

from heterolora.adapters import Inventory


def save(file: Path, inventory: Inventory, epoch: int) -> None:
    """Write adapters and head by name, with the sites that are on, atomically."""
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_name(f".{file.name}.partial")
    metadata = {
        "epoch": str(epoch),
        "enabled": " ".join(str(site) for site in inventory.sites if site in inventory.enabled),
    }
    tensors = {name: tensor.contiguous().cpu() for name, tensor in inventory.state().items()}
    save_file(tensors, partial, metadata)
    with partial.open("rb") as stream:
        os.fsync(stream.fileno())
    partial.replace(file)


def restore(file: Path, inventory: Inventory) -> None:
    """Put the adapters and head of `file` on the model; the allocation too."""
    inventory.load_state(load_file(file))
    with safe_open(file, "pt") as stream:
        enabled = set(stream.metadata()["enabled"].split())
    inventory.enable_only(site for site in inventory.sites if str(site) in enabled)
