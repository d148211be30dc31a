"""The record of a run: one directory, whose files are the source of truth."""

import json
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

from omegaconf import OmegaConf

from heterolora.config import Config
from heterolora.errors import RecordError, one_line
from heterolora.tracking.sinks import Row

SCHEMA_VERSION = 1


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


def write_atomically(file: Path, text: str) -> None:
    """Write a file such that readers see the old content or the new, and never a part."""
    partial = file.with_name(f".{file.name}.partial")
    with partial.open("w") as stream:
        stream.write(text)
        stream.flush()
        os.fsync(stream.fileno())
    partial.replace(file)


class Record:
    """The files of one run, opened before its first step.

    Opening it clears what an unfinished run of the same name left; `config.yaml` and
    `provenance.json` are written at once, the JSON lines as they come, `run.json` at each change
    of status.
    """

    def __init__(self, directory: Path, config: Config, provenance: Row) -> None:
        self.directory = directory
        self._metrics: IO[str]
        self._allocations: IO[str]
        try:
            directory.mkdir(parents=True, exist_ok=True)
            for stale in ("run.json", "metrics.jsonl", "allocations.jsonl", "importance.jsonl"):
                (directory / stale).unlink(missing_ok=True)
            for weights in directory.glob("checkpoint/*.safetensors"):
                weights.unlink()
            write_atomically(directory / "config.yaml", OmegaConf.to_yaml(config.resolved()))
            write_atomically(directory / "provenance.json", _json(provenance))
            self._metrics = (directory / "metrics.jsonl").open("w")
            self._allocations = (directory / "allocations.jsonl").open("w")
            self._write_run({"status": "running"})
        except OSError as error:
            raise RecordError(
                f"{directory}: the record cannot be written ({one_line(error)}); choose another "
                "place with output=DIR"
            ) from error

    def step(self, row: Row) -> None:
        """A line of `metrics.jsonl`."""
        self._append(self._metrics, {"event": "step", **row})

    def epoch(self, row: Row) -> None:
        """A line of `metrics.jsonl`."""
        self._append(self._metrics, {"event": "epoch", **row})

    def search(self, row: Row) -> None:
        """A line of `allocations.jsonl`."""
        self._append(self._allocations, row)

    def importance(self, rows: Sequence[Row]) -> None:
        """`importance.jsonl`, whole."""
        lines = "".join(json.dumps(row, allow_nan=False) + "\n" for row in rows)
        write_atomically(self.directory / "importance.jsonl", lines)

    def close(self, run: Row) -> None:
        """`run.json`, for the last time."""
        self._write_run(run)
        self._metrics.close()
        self._allocations.close()

    def _append(self, stream: IO[str], row: Row) -> None:
        stream.write(json.dumps(row, allow_nan=False) + "\n")
        stream.flush()

    def _write_run(self, run: Row) -> None:
        write_atomically(
            self.directory / "run.json", _json({"schema_version": SCHEMA_VERSION, **run})
        )


def _json(value: Any) -> str:
    return json.dumps(value, indent=2, allow_nan=False) + "\n"
