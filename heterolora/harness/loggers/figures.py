"""Figures of a run as PNG: `figures/` in the run directory."""

from dataclasses import dataclass
from typing import ClassVar

from rich.console import Console

from heterolora.files import writing
from heterolora.harness.loggers.base import Row, RunInfo, Tracker, retell

FOLDER = "figures"


@dataclass(frozen=True)
class Figures(Tracker):
    """Curves and allocations, drawn when the run ends."""

    title: ClassVar[str] = "figures/"
    leaves: ClassVar[str] = FOLDER

    def open(self, info: RunInfo, console: Console) -> "FiguresLogger":
        """Return a logger that will draw them; for a resumed run, with everything in its record."""
        logger = FiguresLogger(info)
        if info.resumed is not None:
            retell(info.directory, logger)
        return logger


class FiguresLogger:
    """Collects what is to be drawn for one run.

    Args:
        info: facts about the run.
    """

    def __init__(self, info: RunInfo) -> None:
        self._folder = info.directory / FOLDER
        arm = " ".join(filter(None, (info.strategy, info.proxy)))
        model = info.model.rstrip("/").rpartition("/")[2]
        self._title = f"{info.task}, {model}, {arm}, seed {info.seed}"
        self._steps: list[Row] = []
        self._epochs: list[Row] = []
        self._searches: list[Row] = []

    def log_step(self, row: Row) -> None:
        """Collect a training loss."""
        self._steps.append(row)

    def log_epoch(self, row: Row) -> None:
        """Collect a validation loss and every metric."""
        self._epochs.append(row)

    def log_search(self, row: Row) -> None:
        """Collect scores and ranks."""
        self._searches.append(row)

    def close(self, run: Row) -> None:
        """Draw the figures.

        Raises:
            RecordError: if the files cannot be written.
        """
        from heterolora.drawing.run import run_figures

        with writing(self._folder):
            self._folder.mkdir(exist_ok=True)
            for name, figure in run_figures(self._title, self._steps, self._epochs, self._searches):
                figure.savefig(self._folder / f"{name}.png", dpi=150)
