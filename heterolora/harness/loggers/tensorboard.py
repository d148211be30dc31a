"""TensorBoard: metrics, allocations, configuration and result, in the run directory."""

import json
from dataclasses import dataclass
from typing import Any, ClassVar

from omegaconf import OmegaConf
from rich.console import Console

from heterolora.files import writing
from heterolora.harness.loggers.base import (
    Row,
    RunInfo,
    Tracker,
    epoch_scalars,
    retell,
    search_scalars,
    step_scalars,
)

FOLDER = "tensorboard"


@dataclass(frozen=True)
class TensorBoard(Tracker):
    """Event files, whose x axis is the optimizer step."""

    title: ClassVar[str] = "TensorBoard"
    needs: ClassVar[str | None] = "tensorboard"
    leaves: ClassVar[str] = FOLDER

    def open(self, info: RunInfo, console: Console) -> "TensorBoardLogger":
        """Return a writer of event files; for a resumed run, it continues from the checkpoint.

        Raises:
            RecordError: if the files cannot be written.
        """
        with writing(info.directory / FOLDER):
            return TensorBoardLogger(info)


class TensorBoardLogger:
    """The event files of one run.

    Args:
        info: facts about the run.
    """

    def __init__(self, info: RunInfo) -> None:
        from torch.utils.tensorboard import SummaryWriter

        folder = info.directory / FOLDER
        # Readers discard what earlier files have from this step on: events after the checkpoint,
        # which will be logged again, and events at its step, which the record still has.
        since = info.resumed if folder.exists() else None
        self._writer: Any = SummaryWriter(str(folder), purge_step=since)
        self._text("config", OmegaConf.to_yaml(dict(info.config)), info.resumed or 0)
        if info.resumed is not None:
            retell(info.directory, self, since or 0)

    def log_step(self, row: Row) -> None:
        """Log the training loss."""
        self._scalars(step_scalars(row), row["step"])

    def log_epoch(self, row: Row) -> None:
        """Log every validation metric."""
        self._scalars(epoch_scalars(row), row["step"])

    def log_search(self, row: Row) -> None:
        """Log how it was decided, and the allocation as a heatmap of layers and roles."""
        from heterolora.drawing.heatmap import heatmap

        image = heatmap(row["scores"], row["ranks"])
        self._writer.add_image("search/heatmap", image, row["step"], dataformats="HWC")
        self._scalars(search_scalars(row), row["step"])

    def close(self, run: Row) -> None:
        """Log the content of `run.json`."""
        self._text("summary", json.dumps(dict(run), indent=2), run.get("steps", 0))
        self._writer.close()

    def _scalars(self, scalars: Row, step: int) -> None:
        for key, value in scalars.items():
            self._writer.add_scalar(key, value, step)
        self._writer.flush()  # events before a checkpoint must survive if the process is killed

    def _text(self, key: str, text: str, step: int) -> None:
        self._writer.add_text(key, f"```\n{text}\n```", step)
