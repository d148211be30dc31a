"""The states of a run on disk from which it can be resumed: each whole, or known not to be."""

import hashlib
import json
import logging
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError, torch
from torch import Tensor

from heterolora.errors import RecordError, one_line
from heterolora.tracking.files import sync_directory, write_atomically, write_durably, writing
from heterolora.tracking.record import Point
from heterolora.training.state import Row, Tensors

logger = logging.getLogger(__name__)

SCHEMA_VERSION = 1
KEPT = 2
"""The newest one, and the one before for when that turns out to be damaged."""
WEIGHTS = ("best.safetensors", "last.safetensors")


@dataclass(frozen=True)
class Snapshot:
    """A run at a boundary between two steps.

    Attributes:
        point: the step, and the length of the record's lines at it.
        tensors: the state's.
        row: the rest of the state.
        weights: the content of `best.safetensors` and `last.safetensors`, if there were any.
    """

    point: Point
    tensors: Tensors
    row: Row
    weights: dict[str, bytes]


class Snapshots:
    """`checkpoint/resume/step-<n>/` of a run directory, the newest ones.

    Each holds its own copy of the best and last weights: those beside it may be of a later epoch,
    which the resumed run has yet to reach. `checksums.json` has every file's SHA-256.

    Args:
        directory: the run's.
        facts: what must not differ between the run that saves and the run that resumes.
    """

    def __init__(self, directory: Path, facts: Mapping[str, object]) -> None:
        self._directory = directory
        self._weights = directory / "checkpoint"
        self._folder = self._weights / "resume"
        self._facts = {"checkpoint schema": SCHEMA_VERSION, **facts}

    def save(
        self, lengths: Callable[[], dict[str, int]], step: int, tensors: Tensors, row: Row
    ) -> None:
        """Keep a state, if that of this step is not kept yet.

        Args:
            lengths: of the record's lines; asked for when they count.
            step: optimizer steps made.
            tensors: of the state.
            row: the JSON values of the state.

        Raises:
            RecordError: if there is no room; what was kept before remains.
        """
        folder = self._folder / f"step-{step:08d}"
        if folder.exists():
            return
        partial = self._folder / f".{folder.name}.partial"
        with writing(folder):
            try:
                self._write(partial, lengths(), step, tensors, row)
                partial.rename(folder)
                sync_directory(self._folder)
            except OSError:
                shutil.rmtree(partial, ignore_errors=True)
                raise
            for old in self._all()[:-KEPT]:
                shutil.rmtree(old)

    def newest(self) -> Snapshot | None:
        """The last state that is whole, if there is any; what is damaged is said and removed.

        Raises:
            RecordError: if it is of another run than this one.
        """
        for folder in reversed(self._all()):
            try:
                snapshot = self._read(folder)
            except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
                logger.warning(
                    "%s: this checkpoint is damaged (%s); it is left out", folder, one_line(error)
                )
                shutil.rmtree(folder)
            else:
                return snapshot
        return None

    def reinstate(self, snapshot: Snapshot) -> None:
        """Have the best and last weights be those of `snapshot`."""
        with writing(self._weights):
            for name in WEIGHTS:
                if name in snapshot.weights:
                    write_atomically(self._weights / name, snapshot.weights[name])
                else:
                    (self._weights / name).unlink(missing_ok=True)

    def _all(self) -> list[Path]:
        """Their folders, the oldest first."""
        return sorted(self._folder.glob("step-*"))

    def _write(
        self, folder: Path, lengths: dict[str, int], step: int, tensors: Tensors, row: Row
    ) -> None:
        shutil.rmtree(folder, ignore_errors=True)  # a kill may have left it
        folder.mkdir(parents=True)
        state = {"facts": self._facts, "step": step, "lines": lengths, **row}
        contents = {
            "state.json": json.dumps(state, allow_nan=False).encode(),
            "state.safetensors": torch.save(tensors),
            **{
                name: (self._weights / name).read_bytes()
                for name in WEIGHTS
                if (self._weights / name).exists()
            },
        }
        digests = {name: _digest(content) for name, content in contents.items()}
        contents["checksums.json"] = json.dumps(digests, indent=2).encode()
        for name, content in contents.items():
            write_durably(folder / name, content)
        sync_directory(folder)

    def _read(self, folder: Path) -> Snapshot:
        """Check and load; whatever `newest` catches is damage."""
        digests = json.loads((folder / "checksums.json").read_bytes())
        contents = {name: (folder / name).read_bytes() for name in digests}
        for name, content in contents.items():
            if _digest(content) != digests[name]:
                raise ValueError(f"{name} is not what was written")
        row = json.loads(contents["state.json"])
        self._check(row["facts"])
        point = Point(row["step"], row["lines"])
        if not point.is_in(self._directory):
            raise ValueError("lines of the record that it counts on are missing")
        tensors: dict[str, Tensor] = torch.load(contents["state.safetensors"])
        weights = {name: contents[name] for name in WEIGHTS if name in contents}
        # Cloned, because tensors from a file's bytes may be aligned otherwise than torch's own.
        return Snapshot(point, {name: t.clone() for name, t in tensors.items()}, row, weights)

    def _check(self, theirs: Mapping[str, object]) -> None:
        for name, ours in self._facts.items():
            if theirs.get(name) != ours:
                raise RecordError(
                    f"{self._directory}: its checkpoint is of {name} {theirs.get(name)} and this "
                    f"run of {ours}, so that it cannot go on from there; set that back, or start "
                    "over with rerun=true"
                )


def discard(directory: Path) -> None:
    """Remove the states of a run directory: the run is finished."""
    shutil.rmtree(directory / "checkpoint" / "resume", ignore_errors=True)


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
