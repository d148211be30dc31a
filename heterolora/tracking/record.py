"""The record of a run: one directory, whose files are the source of truth."""

import json
import logging
import os
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from heterolora.config import Config
from heterolora.errors import RecordError, one_line
from heterolora.tracking import source
from heterolora.tracking.files import write_atomically, writing
from heterolora.tracking.sinks import Row

logger = logging.getLogger(__name__)

SCHEMA_VERSION = 1
LINES = ("metrics.jsonl", "allocations.jsonl")
WANDB_ID = "wandb-id"
"""A file: a record that is resumed goes on in the same W&B run, one that starts over in another."""


def run_directory(config: Config) -> Path:
    """`<output>/<name>/<task>/<strategy>-<proxy>-<identity>-s<seed>`, named by what is run."""
    parts = [config.strategy.name, *([config.proxy.name] if config.proxy else [])]
    leaf = "-".join([*parts, config.identity(), f"s{config.seed}"])
    return Path(config.output) / config.name / config.task.name / leaf


def read_run(directory: Path) -> Row | None:
    """The content of `run.json`, or None where there is none that can be read.

    An unreadable file is one that was never completed: files are written whole or not at all.
    """
    return read_json(directory / "run.json")


def read_json(file: Path) -> Row | None:
    """The object in a JSON file, or None where there is none that can be read."""
    try:
        content = json.loads(file.read_text())
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return None
    return content if isinstance(content, dict) else None


def read_rows(file: Path) -> list[Row]:
    """The rows of a JSON-lines file; none where there is no file."""
    if not file.is_file():
        return []
    return [json.loads(line) for line in file.read_text().splitlines()]


def check_writable(directory: Path) -> None:
    """Make sure that `directory` can be written in, before anything costly is done.

    Raises:
        RecordError: if it cannot be made or written.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=directory):
            pass
    except OSError as error:
        raise RecordError(
            f"output={directory}: cannot be written ({one_line(error)}); choose another with "
            "output=DIR"
        ) from error


@dataclass(frozen=True)
class Point:
    """Where an earlier process left the record in good order.

    Attributes:
        step: optimizer steps made by then.
        lines: for each JSON-lines file, its length in bytes.
    """

    step: int
    lines: dict[str, int]

    def is_in(self, directory: Path) -> bool:
        """Whether the files are as long as that."""
        return all(
            (directory / name).is_file() and (directory / name).stat().st_size >= size
            for name, size in self.lines.items()
        )


class Record:
    """The files of one run, opened before its first step.

    `config.yaml` and `provenance.json` are written at once, the JSON lines as they come, `run.json`
    at each change of status. A record that is resumed keeps the first two, and its lines up to
    `point`; otherwise opening it clears what an unfinished run of the same name left.
    """

    def __init__(
        self, directory: Path, config: Config, provenance: Row, point: Point | None = None
    ) -> None:
        self.directory = directory
        try:
            directory.mkdir(parents=True, exist_ok=True)
            if point is None:
                self._clear()
                write_atomically(directory / "config.yaml", OmegaConf.to_yaml(config.resolved()))
                write_atomically(directory / "provenance.json", _json(provenance))
                if diff := source.diff():
                    write_atomically(directory / "code.diff", diff)
            else:
                self._note_resumption(point.step, provenance)
            self._lines = {
                name: _opened(directory / name, point.lines[name] if point else 0) for name in LINES
            }
            self._write_run({"status": "running"})
        except OSError as error:
            raise RecordError(
                f"{directory}: the record cannot be written ({one_line(error)}); choose another "
                "place with output=DIR"
            ) from error

    def step(self, row: Row) -> None:
        """A line of `metrics.jsonl`."""
        self._append("metrics.jsonl", {"event": "step", **row})

    def epoch(self, row: Row) -> None:
        """A line of `metrics.jsonl`."""
        self._append("metrics.jsonl", {"event": "epoch", **row})

    def search(self, row: Row) -> None:
        """A line of `allocations.jsonl`."""
        self._append("allocations.jsonl", row)

    def lengths(self) -> dict[str, int]:
        """How many bytes each JSON-lines file has, all of them on the disk."""
        for stream in self._lines.values():
            os.fsync(stream.fileno())
        return {name: os.fstat(stream.fileno()).st_size for name, stream in self._lines.items()}

    def importance(self, rows: Sequence[Row]) -> None:
        """`importance.jsonl`, whole."""
        lines = "".join(json.dumps(row, allow_nan=False) + "\n" for row in rows)
        write_atomically(self.directory / "importance.jsonl", lines)

    def close(self, run: Row) -> None:
        """`run.json`, for the last time."""
        for stream in self._lines.values():
            stream.close()
        with writing(self.directory / "run.json"):
            self._write_run(run)

    def _clear(self) -> None:
        # The states to resume from go first: without the lines they count on they are no use.
        shutil.rmtree(self.directory / "checkpoint" / "resume", ignore_errors=True)
        for stale in ("run.json", "importance.jsonl", "code.diff", WANDB_ID, *LINES):
            (self.directory / stale).unlink(missing_ok=True)
        for weights in self.directory.glob("checkpoint/*.safetensors"):
            weights.unlink()

    def _note_resumption(self, step: int, now: Row) -> None:
        """Add to `provenance.json` where the run goes on, and whatever is not as it began."""
        file = self.directory / "provenance.json"
        first = json.loads(file.read_text())
        changed = {key: value for key, value in now.items() if value != first.get(key)}
        for key in sorted({"code", "packages"} & changed.keys()):
            logger.warning(
                "%s: other %s than the run began with; see provenance.json", self.directory, key
            )
        entry = {"step": step, "code": now["code"], **changed}
        first["resumed"] = [*first.get("resumed", []), entry]
        write_atomically(file, _json(first))

    def _append(self, name: str, row: Row) -> None:
        """Add a line, or nothing at all where the disk is full."""
        line = (json.dumps(row, allow_nan=False) + "\n").encode()
        stream = self._lines[name]
        before = os.fstat(stream.fileno()).st_size
        with writing(self.directory / name):
            try:
                while line:
                    line = line[stream.write(line) :]
            except OSError:
                stream.truncate(before)
                raise

    def _write_run(self, run: Row) -> None:
        write_atomically(
            self.directory / "run.json", _json({"schema_version": SCHEMA_VERSION, **run})
        )


def _opened(file: Path, length: int) -> FileIO:
    """The file, cut to `length` bytes, to be added to; each line is written when it comes."""
    stream = FileIO(file, "a")
    stream.truncate(length)
    return stream


def _json(value: Any) -> str:
    return json.dumps(value, indent=2, allow_nan=False) + "\n"
