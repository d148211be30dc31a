"""A table for spreadsheets: `metrics.csv` in the run directory."""

import csv
from dataclasses import dataclass
from typing import ClassVar

from rich.console import Console

from heterolora.files import writing
from heterolora.harness.loggers.base import Row, RunInfo, Tracker, retell

FILE = "metrics.csv"
OF_SEARCH = ("parameters", "tied", "degenerate", "seconds")


@dataclass(frozen=True)
class Csv(Tracker):
    """One row per logged step, epoch and search; values that an event lacks are empty."""

    title: ClassVar[str] = "metrics.csv"
    leaves: ClassVar[str] = FILE

    def open(self, info: RunInfo, console: Console) -> "CsvLogger":
        """Begin the table; for a resumed run, with everything in its record.

        Raises:
            RecordError: if it cannot be written.
        """
        with writing(info.directory / FILE):
            logger = CsvLogger(info)
            if info.resumed is not None:
                retell(info.directory, logger)
        return logger


class CsvLogger:
    """The table of one run; each row is written as it arrives.

    Args:
        info: facts about the run.
    """

    def __init__(self, info: RunInfo) -> None:
        prefixes = ("", "report_") if info.config["evaluation"]["split"] == "halves" else ("",)
        measured = [f"{prefix}{name}" for prefix in prefixes for name in ("loss", *info.metrics)]
        measured[0] = "validation_loss"
        columns = ["event", "step", "epoch", "loss", "train_loss", *measured, *OF_SEARCH]
        # Line buffered, so that a killed process leaves no partial line.
        self._stream = (info.directory / FILE).open("w", newline="", buffering=1)
        self._rows = csv.DictWriter(self._stream, columns, lineterminator="\n")
        self._rows.writeheader()

    def log_step(self, row: Row) -> None:
        """Write the training loss."""
        self._rows.writerow({"event": "step", **row})

    def log_epoch(self, row: Row) -> None:
        """Write every validation metric."""
        self._rows.writerow({"event": "epoch", **row})

    def log_search(self, row: Row) -> None:
        """Write how it was decided; scores and ranks of the sites are in `allocations.jsonl`."""
        kept = {key: row[key] for key in ("step", "epoch", *OF_SEARCH)}
        self._rows.writerow({"event": "search", **kept})

    def close(self, run: Row) -> None:
        """Close the table."""
        self._stream.close()
