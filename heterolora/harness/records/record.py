"""The record of a run: one directory, whose files are the source of truth."""

import json
import logging
import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from io import FileIO
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import ValidationError
from yaml import YAMLError

from heterolora.errors import RecordError, one_line
from heterolora.files import write_atomically, writing
from heterolora.harness.records import code_version, schema
from heterolora.harness.records.read import read_result
from heterolora.harness.records.schema import (
    EpochRow,
    ImportanceRow,
    Provenance,
    RecordModel,
    RunRecord,
    SearchRow,
    StepRow,
)

logger = logging.getLogger(__name__)

Row = dict[str, Any]
LINES = (schema.METRICS, schema.ALLOCATIONS)
RESULTS = (*LINES, *(f"{schema.CHECKPOINT}/{name}" for name in schema.WEIGHTS))
"""What a finished run leaves besides `run.json`, `config.yaml` and `provenance.json`."""


def run_directory(
    output: str | Path,
    name: str,
    task: str,
    strategy: str,
    proxy: str | None,
    identity: str,
    seed: int,
) -> Path:
    """Return the directory of a run, named by what is run.

    It is `<output>/<name>/<task>/<strategy>-<proxy>-<identity>-s<seed>`.
    """
    leaf = "-".join([strategy, *([proxy] if proxy else []), identity, f"s{seed}"])
    return Path(output) / name / task / leaf


def finished(directory: Path) -> RunRecord | None:
    """Return the result of a finished run; None if the run has yet to start or to resume.

    Raises:
        RecordError: if that cannot be determined, or files of a finished run are missing: running
            it would erase what is left.
    """
    again = "or run it again with rerun=true, which erases what is left"
    if not (directory / schema.RUN).exists():
        if left := [name for name in RESULTS if _size(directory / name)]:
            raise RecordError(
                f"{directory}: has {_listed(left)} but no {schema.RUN}; restore it, {again}"
            )
        return None
    try:
        result = read_result(directory)
    except RecordError as error:
        raise RecordError(f"{error}; restore it, {again}") from error
    if result.status != "finished":
        return None
    kept = LINES if (directory / schema.RESTORED).exists() else RESULTS
    names = (schema.CONFIG, schema.PROVENANCE, *kept)
    if missing := [name for name in names if not (directory / name).is_file()]:
        raise RecordError(
            f"{directory}: the run is finished but lacks {_listed(missing)}; restore the missing "
            f"files, {again}"
        )
    return result


def read_run(directory: Path) -> Row | None:
    """Return the content of `run.json`, or None if it is missing or not a JSON object."""
    return read_json(directory / schema.RUN)


def read_json(file: Path) -> Row | None:
    """Return the object in a JSON file, or None if it is missing or not a JSON object."""
    try:
        content = json.loads(file.read_text())
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return None
    return content if isinstance(content, dict) else None


def read_rows(file: Path) -> list[Row]:
    """Return the rows of a JSON-lines file; none if there is no such file."""
    if not file.is_file():
        return []
    return [json.loads(line) for line in file.read_text().splitlines()]


def check_writable(directory: Path) -> None:
    """Check that `directory` is writable, before anything expensive is done.

    Raises:
        RecordError: if it cannot be created or written.
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


class Record:
    """The files of one run, opened before anything is loaded that may fail.

    A record is a logger: `metrics.jsonl` and `allocations.jsonl` grow by a line for each event. It
    also has state, namely the length of these files, so that a resumed run continues its record
    from where the checkpoint was saved.
    """

    def __init__(self, directory: Path, config: Mapping[str, Any], now: Row, first: Row) -> None:
        """Use `Record.open`."""
        self.directory = directory
        self._config = dict(config)
        self._now = now
        self._first = first
        self._lines: dict[str, FileIO] = {}

    @classmethod
    def open(
        cls,
        directory: Path,
        config: Mapping[str, Any],
        provenance: Mapping[str, Any],
        resume: bool = False,
    ) -> "Record":
        """Write `run.json` (status `running`), `config.yaml` and `provenance.json`.

        Args:
            directory: the run directory; created if needed.
            config: the resolved configuration.
            provenance: the provenance known so far; see `add_provenance`.
            resume: whether to keep what an unfinished run left, rather than clear it;
                `load_state_dict` and `log_resumption` have to follow.

        Raises:
            RecordError: if the directory cannot be written.
        """
        now = dict(provenance)
        try:
            directory.mkdir(parents=True, exist_ok=True)
            record = cls(directory, config, now, _first(directory) or now if resume else now)
            # Before all else: a directory without this file has nothing to lose.
            record._write_run({"status": "running"})
            if not resume:
                record._begin()
            elif not _is_whole(directory / schema.CONFIG, config):
                record._write_config()
            record._open_lines()
        except OSError as error:
            raise RecordError(
                f"{directory}: the record cannot be written ({one_line(error)}); choose another "
                "place with output=DIR"
            ) from error
        return record

    def add_provenance(self, **sections: Any) -> None:
        """Add what is known by now, such as `model` and `data`, to `provenance.json`."""
        self._now |= sections
        self._first = {**self._now, **self._first}
        with writing(self.directory / schema.PROVENANCE):
            self._write_provenance()

    def log_resumption(self, step: int) -> None:
        """Add to `provenance.json` where the run resumes, and whatever has changed since."""
        first = self._first
        changed = {key: value for key, value in self._now.items() if value != first.get(key)}
        for key in sorted({"code", "packages"} & changed.keys()):
            logger.warning(
                "%s: %s changed since the run began; see provenance.json", self.directory, key
            )
        entry = {"step": step, "code": self._now.get("code"), **changed}
        self._first = {**first, "resumed": [*first.get("resumed", []), entry]}
        with writing(self.directory / schema.PROVENANCE):
            self._write_provenance()

    def log_step(self, row: Mapping[str, Any]) -> None:
        """Append a `StepRow` to `metrics.jsonl`."""
        self._append(schema.METRICS, StepRow, {"event": "step", **row})

    def log_epoch(self, row: Mapping[str, Any]) -> None:
        """Append an `EpochRow` to `metrics.jsonl`."""
        self._append(schema.METRICS, EpochRow, {"event": "epoch", **row})

    def log_search(self, row: Mapping[str, Any]) -> None:
        """Append a `SearchRow` to `allocations.jsonl`."""
        self._append(schema.ALLOCATIONS, SearchRow, dict(row))

    def log_importance(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Write `ImportanceRow`s as the whole of `importance.jsonl`."""
        file = self.directory / schema.IMPORTANCE
        with writing(file):
            write_atomically(file, "".join(_line(ImportanceRow, dict(row)) for row in rows))

    def close(self, run: Mapping[str, Any]) -> None:
        """Write a `RunRecord` as the final `run.json`."""
        for stream in self._lines.values():
            stream.close()
        with writing(self.directory / schema.RUN):
            self._write_run(dict(run))

    def state_dict(self) -> dict[str, int]:
        """Return the size in bytes of each JSON-lines file, after syncing them to disk."""
        for stream in self._lines.values():
            os.fsync(stream.fileno())
        return {name: os.fstat(stream.fileno()).st_size for name, stream in self._lines.items()}

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        """Truncate the JSON-lines files to the saved sizes.

        Raises:
            ValueError: if one is already shorter; then nothing is changed.
        """
        if any(_size(self.directory / name) < state[name] for name in LINES):
            raise ValueError("the record lacks lines that were written before")
        with writing(self.directory):
            for name, stream in self._lines.items():
                stream.truncate(state[name])

    def _begin(self) -> None:
        """Clear what an earlier run left, and write what is known before the first step."""
        # Checkpoints go first: they are useless without the lines that they rely on.
        shutil.rmtree(self.directory / schema.CHECKPOINT / "resume", ignore_errors=True)
        for stale in (schema.IMPORTANCE, schema.CODE_DIFF, schema.RESTORED, *LINES):
            (self.directory / stale).unlink(missing_ok=True)
        for weights in self.directory.glob(f"{schema.CHECKPOINT}/*.safetensors"):
            weights.unlink()
        for later in (schema.PREDICTIONS, schema.EVALUATIONS):
            shutil.rmtree(self.directory / later, ignore_errors=True)
        self._write_config()
        self._write_provenance()
        if diff := code_version.diff():
            write_atomically(self.directory / schema.CODE_DIFF, diff)

    def _open_lines(self) -> None:
        """Open the JSON-lines files for appending, unbuffered."""
        for stream in self._lines.values():
            stream.close()
        self._lines = {name: FileIO(self.directory / name, "a") for name in LINES}

    def _write_config(self) -> None:
        write_atomically(self.directory / schema.CONFIG, OmegaConf.to_yaml(self._config))

    def _write_provenance(self) -> None:
        write_atomically(self.directory / schema.PROVENANCE, _json(Provenance, self._first))

    def _append(self, name: str, model: type[RecordModel], row: Row) -> None:
        """Append a whole line, or nothing at all if the disk is full."""
        line = _line(model, row).encode()
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
        content = {"schema_version": schema.SCHEMA_VERSION, **run}
        write_atomically(self.directory / schema.RUN, _json(RunRecord, content))


def _first(directory: Path) -> Row | None:
    """Return the provenance of the run when it began; None if that is lost."""
    file = directory / schema.PROVENANCE
    try:
        return Provenance.model_validate_json(file.read_bytes()).row()
    except FileNotFoundError:
        return None
    except ValidationError as error:
        logger.warning("%s: is damaged (%s) and is started over", file, schema.reason(error))
        return None


def _is_whole(file: Path, config: Mapping[str, Any]) -> bool:
    """Whether a resumed run's configuration exists, with every section that it has now."""
    if not file.exists():
        return False
    try:
        found: Any = OmegaConf.to_container(OmegaConf.load(file))
    except (OSError, ValueError, YAMLError, OmegaConfBaseException):
        found = None
    whole = isinstance(found, dict) and config.keys() <= found.keys()
    if not whole:
        logger.warning("%s: is damaged and is rewritten", file)
    return whole


def _line(model: type[RecordModel], row: Row) -> str:
    _check(model, row)
    return json.dumps(row, allow_nan=False) + "\n"


def _json(model: type[RecordModel], content: Row) -> str:
    _check(model, content)
    return json.dumps(content, indent=2, allow_nan=False) + "\n"


def _check(model: type[RecordModel], row: Row) -> None:
    """Check a row against the model with which readers will read it.

    Raises:
        ValueError: if a key is missing or unknown, or a value is of the wrong type.
    """
    checked = model.model_validate(row)
    if checked.model_extra and model is not EpochRow:
        raise ValueError(f"{model.__name__} has no {_listed(sorted(checked.model_extra))}")


def _size(file: Path) -> int:
    """Return the size in bytes; 0 if there is no such file."""
    return file.stat().st_size if file.is_file() else 0


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:-1]) + " and " * (len(names) > 1) + names[-1]
