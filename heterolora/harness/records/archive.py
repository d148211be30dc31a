"""Finished runs as lines of one compressed file: all that reports read, except losses of steps.

Each line is an `ArchivedRow`. The file contains neither weights nor paths of the machine.
"""

import gzip
import io
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from heterolora.errors import RecordError
from heterolora.files import write_atomically, writing
from heterolora.harness.records import schema
from heterolora.harness.records.read import Run, read_archive

Row = dict[str, Any]

LARGEST = 1_000_000
"""Maximum size in bytes of a file that is meant for a repository."""


def write_archive(file: Path, runs: Iterable[Run]) -> int:
    """Add finished runs to a file, keeping those it already holds; return how many are new.

    If the file already holds a run with the same experiment, task, identity and seed, that one
    stays.

    Raises:
        RecordError: if the file is damaged, cannot be written, or would be too large to commit.
    """
    before = read_archive(file) if file.exists() else []
    found = {key_of(run): run for run in (*runs, *before)}
    content = _compressed(_row(found[key]) for key in sorted(found))
    if len(content) > LARGEST:
        raise RecordError(
            f"{file}: would have {len(content):,} bytes, above the limit of {LARGEST:,} per file; "
            "archive fewer runs in it, such as those of one task"
        )
    with writing(file):
        file.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(file, content)
    return len(found) - len(before)


def restore(run: Run, output: Path) -> bool:
    """Write the record of an archived run below `output`, so that it is not run again.

    The record has no weights; the file `schema.RESTORED` says so.

    Returns:
        True if the record was written, False if there already was one.

    Raises:
        RecordError: if it cannot be written.
    """
    directory = output / str(run.config["name"]) / run.config["task"]["name"] / run.directory.name
    if (directory / schema.RUN).exists():
        return False
    files = {
        schema.RESTORED: "",
        schema.CONFIG: OmegaConf.to_yaml(OmegaConf.create(run.config)),
        schema.PROVENANCE: run.provenance.model_dump_json(exclude_unset=True, indent=2),
        schema.METRICS: _text(run.epochs),
        schema.ALLOCATIONS: _text(run.searches),
        **({schema.IMPORTANCE: _text(run.importance)} if run.importance else {}),
        schema.RUN: run.result.model_dump_json(exclude_unset=True, indent=2),
    }
    with writing(directory):
        directory.mkdir(parents=True, exist_ok=True)
        for name, content in files.items():  # run.json last: it marks the record as complete
            write_atomically(directory / name, content)
    return True


def key_of(run: Run) -> tuple[str, str, str, int]:
    """Return what was run, regardless of where: experiment, task, identity and seed."""
    return str(run.config["name"]), run.config["task"]["name"], str(run.result.identity), run.seed


def _row(run: Run) -> Row:
    """Return a run as plain values, without anything specific to the machine."""
    config = {**run.config, "output": "outputs", "tracking": {}}
    provenance = run.provenance.row()
    for section in ("model", "task"):
        config[section] = {**config[section], "path": None}
    provenance = _without_paths(provenance)
    if "resumed" in provenance:
        provenance["resumed"] = [_without_paths(one) for one in provenance["resumed"]]
    return {
        "directory": run.directory.name,
        "config": config,
        "provenance": provenance,
        "result": run.result.row(),
        "epochs": [row.row() for row in run.epochs],
        "searches": [row.row() for row in run.searches],
        "importance": [row.row() for row in run.importance],
    }


def _without_paths(origin: Row) -> Row:
    """Return an origin without the paths of model and data."""
    found = {part: origin[part] for part in ("model", "data") if origin.get(part)}
    return {**origin, **{part: {**value, "path": None} for part, value in found.items()}}


def _compressed(rows: Iterable[Row]) -> bytes:
    """Return rows as JSON lines, compressed into the same bytes whenever it is done."""
    content = io.BytesIO()
    with gzip.GzipFile(filename="", mode="wb", fileobj=content, mtime=0) as stream:
        for row in rows:
            stream.write(json.dumps(row, separators=(",", ":")).encode() + b"\n")
    return content.getvalue()


def _text(rows: Iterable[schema.RecordModel]) -> str:
    return "".join(json.dumps(row.row()) + "\n" for row in rows)
