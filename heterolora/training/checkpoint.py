"""The trained weights of a run on disk: adapters and head, never the frozen model."""

from pathlib import Path

from safetensors import safe_open, torch

from heterolora.adapters import Inventory
from heterolora.tracking.files import write_atomically, writing


def save(file: Path, inventory: Inventory, epoch: int) -> None:
    """Write adapters and head by name, with the sites that are on, atomically.

    Raises:
        RecordError: if there is no room for it.
    """
    metadata = {
        "epoch": str(epoch),
        "enabled": " ".join(str(site) for site in inventory.sites if site in inventory.enabled),
    }
    tensors = {name: tensor.contiguous().cpu() for name, tensor in inventory.state().items()}
    with writing(file):
        file.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(file, torch.save(tensors, metadata))


def restore(file: Path, inventory: Inventory) -> None:
    """Put the adapters and head of `file` on the model; the allocation too."""
    inventory.load_state(torch.load_file(file))
    with safe_open(file, "pt") as stream:
        enabled = set(stream.metadata()["enabled"].split())
    inventory.enable_only(site for site in inventory.sites if str(site) in enabled)
