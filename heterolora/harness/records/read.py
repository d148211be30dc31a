"""Reading the records of runs, from their directories and from archives."""

import gzip
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

from omegaconf.errors import OmegaConfBaseException
from pydantic import TypeAdapter, ValidationError
from yaml import YAMLError

from heterolora.errors import RecordError, one_line
from heterolora.harness.records import schema
from heterolora.harness.records.schema import (
    ArchivedRow,
    EpochRow,
    ImportanceRow,
    Provenance,
    RunConfig,
    RunRecord,
    SearchRow,
    StepRow,
)
from heterolora.harness.records.yaml_values import plain_values

Row = TypeVar("Row")


@dataclass(frozen=True)
class Run:
    """One run directory.

    Its rows are read when first accessed; `read` has already checked that they can be read.

    Attributes:
        directory: the run directory.
        config: the resolved configuration, nested as in `config.yaml`.
        result: the content of `run.json`.
        provenance: where its numbers come from; empty if that was not recorded.
    """

    directory: Path
    config: dict[str, Any]
    result: RunRecord
    provenance: Provenance

    def setting(self, key: str) -> Any:
        """Return the value of a dotted key such as `strategy.enable_rate`; None if missing."""
        value: Any = self.config
        for part in key.split("."):
            value = value.get(part) if isinstance(value, dict) else None
        return value

    @property
    def tracking(self) -> dict[str, Any]:
        """The settings of each tracker, by its name."""
        settings = dict(self.config.get("tracking") or {})
        # Before several could be chosen, the single tracker's settings stood beside its name.
        name = settings.pop("name", None)
        return settings if name is None else {name: settings}

    @property
    def seed(self) -> int:
        """The run's seed."""
        return int(self.config["seed"])

    @property
    def finished(self) -> bool:
        """Whether its numbers are final."""
        return self.result.status == "finished"

    @property
    def metric(self) -> str:
        """The key of the metric that tables show, among an epoch's metrics.

        It is the task's first metric: over the whole validation split, or, with
        `evaluation.split=halves`, over the half that did not choose the best epoch.
        """
        primary = str(self.config["task"]["metrics"][0])
        return f"report_{primary}" if self.setting("evaluation.split") == "halves" else primary

    @property
    def best(self) -> float:
        """`metric` of a finished run at the best epoch, the paper's statistic, in its unit."""
        assert self.result.best is not None
        return self.scale * self.result.best.metrics[self.metric]

    @property
    def last(self) -> float:
        """`metric` of a finished run at the last epoch, in its unit."""
        assert self.result.last is not None
        return self.scale * self.result.last.metrics[self.metric]

    @property
    def selection(self) -> float:
        """The metric that chose the best epoch of a finished run, at that epoch, in its unit."""
        assert self.result.best is not None
        return self.scale * self.result.best.metrics[self.config["task"]["metrics"][0]]

    @property
    def test(self) -> float | None:
        """The first metric of a finished run on its test split, in its unit; None without one."""
        row, primary = self.result.test, str(self.config["task"]["metrics"][0])
        return None if row is None else self.scale * row.metrics[primary]

    @property
    def unit(self) -> str:
        """The unit in which `metric` is shown; percent in records that do not state it."""
        return "%" if self.result.unit is None else self.result.unit

    @property
    def metric_in_words(self) -> str:
        """`metric` with its unit: `report accuracy (%)`."""
        words = self.metric.replace("_", " ")
        return f"{words} ({self.unit})" if self.unit else words

    @property
    def scale(self) -> float:
        """The factor by which a metric is multiplied to be shown: 100 if the unit is percent."""
        return 100 if self.unit == "%" else 1

    @property
    def higher_is_better(self) -> bool:
        """Whether a higher `metric` is better; true in records that do not state it."""
        return self.result.higher_is_better is not False

    @cached_property
    def epochs(self) -> Sequence[EpochRow]:
        """The row of each epoch."""
        return [row for row in self._metrics if isinstance(row, EpochRow)]

    @cached_property
    def steps(self) -> Sequence[StepRow]:
        """The row of each logged step."""
        return [row for row in self._metrics if isinstance(row, StepRow)]

    @cached_property
    def searches(self) -> Sequence[SearchRow]:
        """The row of each search."""
        return read_lines(
            self.directory / schema.ALLOCATIONS, schema.SEARCH_ROW, growing=not self.finished
        )

    @cached_property
    def importance(self) -> Sequence[ImportanceRow]:
        """The row of each site that was left out after training; empty if not asked for."""
        file = self.directory / schema.IMPORTANCE
        return read_lines(file, schema.IMPORTANCE_ROW) if file.exists() else []

    @property
    def _metrics(self) -> Sequence[StepRow | EpochRow]:
        return read_lines(
            self.directory / schema.METRICS, schema.METRICS_ROW, growing=not self.finished
        )


@dataclass(frozen=True)
class ArchivedRun(Run):
    """A run whose rows come from an archive; it has no losses of steps.

    Attributes:
        kept: its line of the archive.
    """

    kept: ArchivedRow

    @cached_property
    def epochs(self) -> Sequence[EpochRow]:
        """The row of each epoch."""
        return self.kept.epochs

    @cached_property
    def steps(self) -> Sequence[StepRow]:
        """Empty: an archive keeps no steps."""
        return []

    @cached_property
    def searches(self) -> Sequence[SearchRow]:
        """The row of each search."""
        return self.kept.searches

    @cached_property
    def importance(self) -> Sequence[ImportanceRow]:
        """The row of each site that was left out after training."""
        return self.kept.importance


def read(directory: Path) -> Run:
    """Read the run in a directory, checking each of its files.

    Raises:
        RecordError: if a file is damaged or of another schema, or a finished run lacks one.
    """
    run = Run(
        directory,
        config=_config(directory / schema.CONFIG),
        result=read_result(directory),
        provenance=_provenance(directory / schema.PROVENANCE),
    )
    _check(directory / schema.RUN, run)
    checked = replace(run)  # a copy, so that the rows are not cached before they are needed
    for lines in ("epochs", "searches", "importance"):
        getattr(checked, lines)
    return run


def read_archive(file: Path) -> list[Run]:
    """Read the runs of an archive, checking every line.

    Raises:
        RecordError: if the archive is damaged or of another schema.
    """
    if not (rows := read_lines(file, schema.ARCHIVED_ROW)):
        raise RecordError(f"{file}: has no run; name a file that archive.py wrote")
    runs: list[Run] = []
    for row in rows:
        directory = file.parent / row.directory
        runs.append(ArchivedRun(directory, row.config, row.result, row.provenance, row))
        _check(file, runs[-1])
    return runs


def _check(file: Path, run: Run) -> None:
    """Check that the results of a run are of this schema, and have the metric of its tables.

    Raises:
        RecordError: if not; it names `file`, from which they were read.
    """
    if run.result.schema_version != schema.SCHEMA_VERSION:
        raise _of_another_schema(file, run.result.schema_version)
    for row in (run.result.best, run.result.last):
        if run.finished and row is not None and run.metric not in row.metrics:
            raise RecordError(f"{file}: best and last must have {run.metric}")


def read_result(directory: Path) -> RunRecord:
    """Read the content of `run.json`.

    Raises:
        RecordError: if it cannot be read, or is of another schema.
    """
    file = directory / schema.RUN
    try:
        record = RunRecord.model_validate_json(_content(file))
    except ValidationError as error:
        version = _schema_version(file)
        if version is not None and version != schema.SCHEMA_VERSION:
            raise _of_another_schema(file, version) from error
        raise RecordError(f"{file}: is damaged ({schema.reason(error)})") from error
    if record.schema_version != schema.SCHEMA_VERSION:
        raise _of_another_schema(file, record.schema_version)
    return record


def read_lines(file: Path, row: TypeAdapter[Row], growing: bool = False) -> list[Row]:
    """Read the rows of a JSON-lines file.

    Args:
        file: a file of a record.
        row: the model of a row.
        growing: whether the run may still be writing: the file may be missing, and its last line
            incomplete.

    Raises:
        RecordError: if the file or a line cannot be read.
    """
    if growing and not file.exists():
        return []
    *lines, rest = _content(file).split(b"\n")
    if rest and not growing:
        lines.append(rest)
    rows = []
    for number, line in enumerate(lines, start=1):
        try:
            rows.append(row.validate_json(line))
        except ValidationError as error:
            what = f"line {number} is damaged ({schema.reason(error)})"
            raise RecordError(f"{file}: {what}") from error
    return rows


def _config(file: Path) -> dict[str, Any]:
    """Read the resolved configuration."""
    try:
        config = plain_values(_content(file).decode())
        RunConfig.model_validate(config)
    except ValidationError as error:
        raise RecordError(f"{file}: is damaged ({schema.reason(error)})") from error
    except (ValueError, YAMLError, OmegaConfBaseException, RecursionError) as error:
        raise RecordError(f"{file}: is damaged ({one_line(error)})") from error
    return {str(key): value for key, value in config.items()}


def _provenance(file: Path) -> Provenance:
    if not file.exists():
        return Provenance()
    try:
        return Provenance.model_validate_json(_content(file))
    except ValidationError as error:
        raise RecordError(f"{file}: is damaged ({schema.reason(error)})") from error


def _content(file: Path) -> bytes:
    """Return the content of a file, unpacked if its name ends in .gz."""
    try:
        content = file.read_bytes()
        return gzip.decompress(content) if file.suffix == ".gz" else content
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise RecordError(f"{file}: is damaged ({one_line(error)})") from error
    except OSError as error:
        raise RecordError(f"{file}: cannot be read ({error.strerror})") from error


def _schema_version(file: Path) -> int | None:
    """Return the schema version that an invalid `run.json` states, or None."""
    try:
        return _SchemaVersion.model_validate_json(_content(file)).schema_version
    except ValidationError:
        return None


class _SchemaVersion(schema.RecordModel):
    schema_version: int


def _of_another_schema(file: Path, version: int) -> RecordError:
    return RecordError(
        f"{file}: schema_version={version}, but this version reads {schema.SCHEMA_VERSION}; report "
        "it with the version that wrote it"
    )


def flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested values by dotted key, with lists as tuples."""
    # pandas.json_normalize takes 5 ms a run, and turns 5 into 5.0 if another run lacks the key.
    found: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            found |= flat(value, f"{prefix}{key}.")
        else:
            found[f"{prefix}{key}"] = tuple(value) if isinstance(value, list) else value
    return found
