"""Finished runs as lines of one file: everything that reports read, except the losses of steps.

The first line holds what all runs of the file have in common; each further line holds what is
particular to one run. The file contains neither weights nor paths of the machine.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from pydantic import ValidationError

from heterolora.errors import RecordError
from heterolora.files import write_atomically, writing
from heterolora.harness.records import schema
from heterolora.harness.records.read import Run
from heterolora.harness.records.schema import (
    EpochRow,
    ImportanceRow,
    Provenance,
    RunConfig,
    RunRecord,
    SearchRow,
    StepRow,
)

Row = dict[str, Any]

FORMAT = 1
LARGEST = 1_000_000
"""Maximum size in bytes of a file that is meant for a repository."""


@dataclass(frozen=True)
class ArchivedRun(Run):
    """A run whose rows come from an archive; it has no losses of steps.

    Attributes:
        kept: the rows of each kind.
    """

    kept: Mapping[str, Sequence[Any]]

    @cached_property
    def epochs(self) -> Sequence[EpochRow]:
        """The row of each epoch."""
        return [EpochRow.model_validate(row) for row in self.kept["epochs"]]

    @cached_property
    def steps(self) -> Sequence[StepRow]:
        """Empty: an archive keeps no steps."""
        return []

    @cached_property
    def searches(self) -> Sequence[SearchRow]:
        """The row of each search."""
        return [SearchRow.model_validate(row) for row in self.kept["searches"]]

    @cached_property
    def importance(self) -> Sequence[ImportanceRow]:
        """The row of each site that was left out after training."""
        return [ImportanceRow.model_validate(row) for row in self.kept["importance"]]


def write_archive(file: Path, runs: Iterable[Run]) -> int:
    """Add finished runs to a file, keeping those it already holds; return how many are new.

    If the file already holds a run with the same experiment, task, identity and seed, that one
    stays.

    Raises:
        RecordError: if the file is damaged, cannot be written, or would be too large to commit.
    """
    before = read_archive(file) if file.exists() else []
    found = {key_of(run): run for run in (*runs, *before)}
    rows = [_packed(found[key]) for key in sorted(found)]
    common = _common(rows)
    head = {"archive": FORMAT, "common": common}
    lines = [head, *(_beside(row, common) for row in rows)]
    content = "".join(
        json.dumps(line, separators=(",", ":"), sort_keys=True) + "\n" for line in lines
    )
    if len(content) > LARGEST:
        raise RecordError(
            f"{file}: would have {len(content):,} bytes, above the limit of {LARGEST:,} per file; "
            "archive fewer runs in it, such as those of one task"
        )
    with writing(file):
        file.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(file, content)
    return len(rows) - len(before)


def is_archive(file: Path) -> bool:
    """Whether a file is an archive according to its content; the files of a run are not."""
    if file.name in (schema.METRICS, schema.ALLOCATIONS, schema.IMPORTANCE) or not file.is_file():
        return False
    with file.open("rb") as stream:
        return stream.read(12).startswith(b'{"archive":')


def read_archive(file: Path) -> list[Run]:
    """Read the runs of an archive, checking every line.

    Raises:
        RecordError: if the archive is damaged or of another format.
    """
    head, *lines = _lines(file)
    if head.get("archive") != FORMAT:
        raise RecordError(
            f"{file}: is an archive of format {head.get('archive')}, but this version reads "
            f"{FORMAT}; read it with the version that wrote it"
        )
    runs: list[Run] = []
    for number, line in enumerate(lines, start=2):
        try:
            runs.append(_run(file, _joined(head["common"], line)))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            reason = schema.reason(error) if isinstance(error, ValidationError) else repr(error)
            raise RecordError(f"{file}: line {number} is damaged ({reason})") from error
    return runs


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


def _packed(run: Run) -> Row:
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
        "searches": _in_columns([row.row() for row in run.searches]),
        "importance": [row.row() for row in run.importance],
    }


def _without_paths(origin: Row) -> Row:
    """Return an origin without the paths of model and data."""
    found = {part: origin[part] for part in ("model", "data") if origin.get(part)}
    return {**origin, **{part: {**value, "path": None} for part, value in found.items()}}


def _run(file: Path, row: Row) -> Run:
    RunConfig.model_validate(row["config"])
    run = ArchivedRun(
        directory=file.parent / row["directory"],
        config=row["config"],
        result=RunRecord.model_validate(row["result"]),
        provenance=Provenance.model_validate(row["provenance"]),
        kept={
            "epochs": row["epochs"],
            "searches": _in_rows(row["searches"]),
            "importance": row["importance"],
        },
    )
    for kind in run.kept:  # check that they can be read
        getattr(run, kind)
    return run


def _in_columns(searches: Sequence[Row]) -> Row:
    """Store searches compactly: site names once, and values common to all searches once."""
    if not searches:
        return {}
    sites = list(searches[0]["scores"])
    rows = [
        {**row, **{key: [row[key][site] for site in sites] for key in ("scores", "ranks")}}
        for row in searches
    ]
    common = _common(rows)
    return {"sites": sites, "common": common, "rows": [_beside(row, common) for row in rows]}


def _in_rows(columns: Row) -> list[Row]:
    """Invert `_in_columns`."""
    if not columns:
        return []
    rows = [_joined(columns["common"], row) for row in columns["rows"]]
    named = ("scores", "ranks")
    return [
        {**row, **{key: dict(zip(columns["sites"], row[key], strict=True)) for key in named}}
        for row in rows
    ]


def _common(rows: Sequence[Row]) -> Row:
    """Return the values that all rows have and in which they agree, also within nested mappings."""
    first, *others = rows
    found: Row = {}
    for key, value in first.items():
        values: list[Any] = [row[key] for row in others if key in row]
        if len(values) < len(others):
            continue
        if isinstance(value, dict) and value and all(isinstance(one, dict) for one in values):
            found[key] = _common([value, *values])
        elif all(type(one) is type(value) and one == value for one in values):
            found[key] = value
    return found


def _beside(row: Row, common: Row) -> Row:
    """Return what a row has beyond the common part."""
    found: Row = {}
    for key, value in row.items():
        if isinstance(value, dict) and isinstance(common.get(key), dict) and value:
            if nested := _beside(value, common[key]):
                found[key] = nested
        elif key not in common:
            found[key] = value
    return found


def _joined(common: Row, row: Row) -> Row:
    """Invert `_beside`."""
    found = dict(common)
    for key, value in row.items():
        both = isinstance(value, dict) and isinstance(common.get(key), dict)
        found[key] = _joined(common[key], value) if both else value
    return found


def _text(rows: Iterable[schema.RecordModel]) -> str:
    return "".join(json.dumps(row.row()) + "\n" for row in rows)


def _lines(file: Path) -> list[Row]:
    try:
        lines = [json.loads(line) for line in file.read_bytes().splitlines()]
    except OSError as error:
        raise RecordError(f"{file}: cannot be read ({error.strerror})") from error
    except ValueError as error:
        raise RecordError(f"{file}: is damaged ({error})") from error
    if not lines or not all(isinstance(line, dict) for line in lines):
        raise RecordError(f"{file}: is not an archive of runs; name one that archive.py wrote")
    return lines
