"""The record of a sweep: its plan, and how each of its runs ended."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from pydantic import ValidationError

from heterolora.errors import RecordError, one_line
from heterolora.files import write_atomically
from heterolora.harness.records import schema
from heterolora.harness.records.record import read_json
from heterolora.harness.records.schema import OutcomeRow, Plan, RecordModel

Model = TypeVar("Model", bound=RecordModel)


@dataclass(frozen=True)
class SweepRecord:
    """The files of one sweep, shared by the process that plans it and its jobs.

    Attributes:
        folder: the folder of the sweep.
    """

    folder: Path

    @property
    def is_planned(self) -> bool:
        """Whether there is a plan."""
        return self._plan.exists()

    @property
    def planned_at(self) -> float:
        """When the plan was written, in seconds since the epoch."""
        return self._plan.stat().st_mtime

    def write_plan(self, plan: Plan) -> None:
        """Write the plan.

        Raises:
            OSError: if it cannot be written.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        write_atomically(self._plan, json.dumps(plan.model_dump()))

    def read_plan(self) -> Plan:
        """Return the plan.

        Raises:
            RecordError: if it cannot be read.
        """
        return _read(self._plan, Plan)

    def outcomes(self) -> dict[int, OutcomeRow]:
        """Return the outcome of each run that has one, by index.

        Raises:
            RecordError: if one cannot be read.
        """
        files = sorted(self._outcomes.glob("*.json"), key=lambda file: int(file.stem))
        return {int(file.stem): _read(file, OutcomeRow) for file in files}

    def write_outcome(self, index: int, outcome: OutcomeRow) -> None:
        """Write the outcome of a run, unless it has already finished.

        A job that is requeued skips the runs that it had finished, and these stay finished.
        """
        self._outcomes.mkdir(parents=True, exist_ok=True)
        file = self._outcomes / f"{index}.json"
        before = read_json(file)
        if before is None or before["status"] != "finished":
            write_atomically(file, json.dumps(outcome.model_dump()))

    def had_begun(self, index: int, directory: str | None) -> bool:
        """Return whether a job began this run before it was requeued, and mark it as begun.

        The mark is older than the record that the run then began, so that a run whose job was
        killed in between still counts as not begun.
        """
        mark = self._outcomes / f"{index}.begun"
        record = Path(directory or "") / schema.RUN
        if mark.exists():
            return record.is_file() and record.stat().st_mtime_ns > mark.stat().st_mtime_ns
        mark.parent.mkdir(parents=True, exist_ok=True)
        mark.touch()
        return False

    @property
    def _plan(self) -> Path:
        return self.folder / schema.PLAN

    @property
    def _outcomes(self) -> Path:
        return self.folder / schema.OUTCOMES


def _read(file: Path, model: type[Model]) -> Model:
    try:
        return model.model_validate(json.loads(file.read_text()))
    except ValidationError as error:
        raise RecordError(f"{file}: is damaged ({schema.reason(error)})") from error
    except (OSError, ValueError) as error:
        raise RecordError(f"{file}: cannot be read ({one_line(error)})") from error
