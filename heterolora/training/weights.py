"""The trained weights of a run on disk: adapters and head, never the frozen model."""

from pathlib import Path
from typing import Any, Protocol

import torch

from heterolora.adapters import Adapters
from heterolora.adapters.files import read_adapters, write_adapters
from heterolora.files import write_atomically, writing

NAMES = ("best", "last")


class Weights(Protocol):
    """Saves the weights of a run by name: those of the best epoch and of the last."""

    def save(self, name: str, epoch: int) -> None:
        """Save the current weights."""

    def load(self, name: str) -> None:
        """Restore the weights saved under this name."""


class WeightFiles:
    """`best.safetensors` and `last.safetensors`, which `heterolora.load` reads.

    Their content is part of the state, because the files may come from a later epoch than the
    checkpoint, which the resumed run has yet to reach.

    Args:
        folder: where the files are written; created when needed.
        adapters: the adapters whose weights are saved.
    """

    def __init__(self, folder: Path, adapters: Adapters) -> None:
        self._folder = folder
        self._adapters = adapters

    def save(self, name: str, epoch: int) -> None:
        """Write the current weights, atomically.

        Raises:
            RecordError: if they cannot be written, for example on a full disk.
        """
        file = self._file(name)
        with writing(file):
            self._folder.mkdir(parents=True, exist_ok=True)
            write_adapters(file, self._adapters, epoch=str(epoch))

    def load(self, name: str) -> None:
        """Restore the weights saved under this name.

        Raises:
            OSError: if there is no such file.
        """
        _, state, _ = read_adapters(self._file(name))
        self._adapters.load_state_dict(state)

    def state_dict(self) -> dict[str, Any]:
        """Return the bytes of the existing files."""
        files = {name: self._file(name) for name in NAMES}
        return {
            name: torch.frombuffer(bytearray(file.read_bytes()), dtype=torch.uint8)
            for name, file in files.items()
            if file.exists()
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the files from what `state_dict` returned."""
        with writing(self._folder):
            for name in NAMES:
                if name in state:
                    write_atomically(self._file(name), state[name].numpy().tobytes())
                else:
                    self._file(name).unlink(missing_ok=True)

    def _file(self, name: str) -> Path:
        return self._folder / f"{name}.safetensors"
