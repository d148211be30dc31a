"""Checkpoints on disk from which a run can resume: each one complete, or known to be damaged."""

import hashlib
import json
import logging
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from heterolora.errors import RecordError, one_line
from heterolora.files import sync_directory, write_durably, writing
from heterolora.settings import Stateful

logger = logging.getLogger(__name__)

SCHEMA_VERSION = 3
KEPT = 2
"""Number of checkpoints kept: the newest, and the one before in case the newest is damaged."""
STATE, TENSORS, CHECKSUMS = "state.json", "state.safetensors", "checksums.json"


class CheckpointManager:
    """Saves and loads the states of all stateful objects, in `step-<n>/` below a folder.

    Each checkpoint holds its tensors as safetensors, everything else as JSON, and the SHA-256 of
    every file.

    Args:
        folder: where the checkpoints are written; created when needed.

    Attributes:
        stateful: the objects whose state is saved, by name. Those that may refuse a state come
            first.
        facts: facts that must be the same when saving and when loading, worded for an error
            message.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.stateful: dict[str, Stateful] = {}
        self.facts: dict[str, object] = {"checkpoint schema": SCHEMA_VERSION}

    def exists(self) -> bool:
        """Whether there is a checkpoint, complete or not."""
        return bool(self._all())

    @property
    def newest(self) -> int | None:
        """The step of the newest checkpoint, complete or not; None if there is none."""
        return max((int(folder.name.removeprefix("step-")) for folder in self._all()), default=None)

    def save(self, step: int) -> None:
        """Save the states of all `stateful`, unless this step is already saved.

        Raises:
            RecordError: if it cannot be written, for example on a full disk; earlier checkpoints
                remain.
        """
        folder = self._folder / f"step-{step:08d}"
        if folder.exists():
            return
        partial = self._folder / f".{folder.name}.partial"
        state = {name: one.state_dict() for name, one in self.stateful.items()}
        with writing(folder):
            try:
                self._write(partial, {"facts": self.facts, "step": step, "state": state})
                partial.rename(folder)
                sync_directory(self._folder)
            except OSError:
                shutil.rmtree(partial, ignore_errors=True)
                raise
            for old in self._all()[:-KEPT]:
                shutil.rmtree(old)

    def load(self) -> int | None:
        """Restore all `stateful` from the newest complete checkpoint.

        A checkpoint is damaged if one of its files is missing or differs from what was written, or
        if one of the `stateful` refuses its state with a ValueError. It is skipped with a warning,
        and removed once an older checkpoint turns out to be complete.

        Returns:
            The step of the checkpoint; None if there is none.

        Raises:
            RecordError: if all checkpoints are damaged, or one belongs to another run or cannot be
                read at the moment; nothing is removed then.
        """
        damaged = []
        for folder in reversed(self._all()):
            try:
                kept = self._read(folder)
                for name, one in self.stateful.items():
                    one.load_state_dict(kept["state"][name])
            except (ValueError, SafetensorError, FileNotFoundError) as error:
                logger.warning("%s: this checkpoint is damaged (%s)", folder, one_line(error))
                damaged.append(folder)
            except OSError as error:
                raise RecordError(
                    f"{folder}: this checkpoint cannot be read ({one_line(error)}); fix that "
                    "and run the same command again, or start over with rerun=true"
                ) from error
            else:
                for useless in damaged:
                    shutil.rmtree(useless)
                return int(kept["step"])
        if damaged:
            raise RecordError(
                f"{self._folder}: all {len(damaged)} checkpoints are damaged, so the run "
                "cannot resume; rerun=true starts over and erases its record"
            )
        return None

    def discard(self) -> None:
        """Remove all checkpoints: the run is finished."""
        shutil.rmtree(self._folder, ignore_errors=True)

    def _all(self) -> list[Path]:
        """The folders of all checkpoints, oldest first."""
        return sorted(self._folder.glob("step-*"))

    def _write(self, folder: Path, content: dict[str, Any]) -> None:
        shutil.rmtree(folder, ignore_errors=True)  # left behind if the process was killed
        folder.mkdir(parents=True)
        tensors: dict[str, Tensor] = {}
        values = _without_tensors(content, tensors)
        contents = {
            STATE: json.dumps(values, allow_nan=False).encode(),
            TENSORS: save(tensors),
        }
        digests = {name: _digest(data) for name, data in contents.items()}
        contents[CHECKSUMS] = json.dumps(digests, indent=2).encode()
        for name, data in contents.items():
            write_durably(folder / name, data)
        sync_directory(folder)

    def _read(self, folder: Path) -> dict[str, Any]:
        """Check and load one checkpoint.

        Raises:
            ValueError: if it is damaged; or SafetensorError, or FileNotFoundError.
        """
        digests = json.loads((folder / CHECKSUMS).read_bytes())
        if not isinstance(digests, dict):
            raise ValueError(f"{CHECKSUMS} has no checksums")
        contents = {name: (folder / name).read_bytes() for name in digests}
        for name, data in contents.items():
            if _digest(data) != digests[name]:
                raise ValueError(f"{name} differs from what was written")
        if not {STATE, TENSORS} <= contents.keys():
            raise ValueError(f"{CHECKSUMS} lacks a file")
        kept: dict[str, Any] = json.loads(contents[STATE])
        self._check(kept["facts"])
        for path, tensor in load(contents[TENSORS]).items():
            *parents, name = path.split("/")
            node = kept
            for parent in parents:
                node = node.setdefault(parent, {})
            # Cloned, because tensors from a file's bytes may be aligned differently from torch's.
            node[name] = tensor.clone()
        return kept

    def _check(self, theirs: Mapping[str, object]) -> None:
        for name, ours in self.facts.items():
            if theirs.get(name) != ours:
                raise RecordError(
                    f"{self._folder}: its checkpoint has {name} {theirs.get(name)} but this run "
                    f"has {ours}, so it cannot resume; set it back, or start over with rerun=true"
                )


def _without_tensors(
    node: Mapping[str, Any], tensors: dict[str, Tensor], path: str = ""
) -> dict[str, Any]:
    """Return `node` without its tensors, which are put into `tensors` by path, such as `a/b/c`."""
    kept: dict[str, Any] = {}
    for name, value in node.items():
        if isinstance(value, Tensor):
            tensors[f"{path}{name}"] = value.detach().cpu().contiguous()
        elif isinstance(value, Mapping):
            kept[name] = _without_tensors(value, tensors, f"{path}{name}/")
        else:
            kept[name] = value
    return kept


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
