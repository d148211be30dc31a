"""What every logger knows of its run, what a configuration can choose, and many loggers as one."""

import shutil
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from rich.console import Console

from heterolora.config import plugins
from heterolora.errors import one_line
from heterolora.files import writing
from heterolora.records import schema
from heterolora.records.read import read_lines
from heterolora.settings import Settings, class_in
from heterolora.training.logging import Logger, tell_watchers

Row = Mapping[str, Any]


@dataclass(frozen=True)
class RunInfo:
    """What a run is, in plain values.

    Attributes:
        directory: its record's.
        name: the experiment's.
        task: its name.
        model: the checkpoint's path or hub name.
        strategy: its name.
        proxy: its name; None for a strategy that does not search.
        seed: of all its generators.
        epochs: of training.
        metrics: of the task; the first one chooses the best epoch.
        pool: whether all kinds of sites share the budget (`combined`) or not (`separated`).
        config: the resolved configuration.
        max_steps: the end of training even within an epoch; None where only epochs end it.
        resumed: the step at which the run goes on; None where it begins.
    """

    directory: Path
    name: str
    task: str
    model: str
    strategy: str
    proxy: str | None
    seed: int
    epochs: int
    metrics: tuple[str, ...]
    pool: str
    config: Mapping[str, Any]
    max_steps: int | None = None
    resumed: int | None = None

    @property
    def primary_metric(self) -> str:
        """The metric that chooses the best epoch."""
        return self.metrics[0]

    @property
    def arm(self) -> str:
        """What the run has in common with its other seeds: strategy, proxy and identity."""
        return self.directory.name.removesuffix(f"-s{self.seed}")


@dataclass(frozen=True)
class Tracker(Settings, ABC):
    """Where metrics go besides the record: a choice under `tracking`, by the name of its file.

    The library that it writes for is imported when a run is opened.

    Attributes:
        title: its name for readers.
        needs: a package that an extra of the tracker's name installs; None without one.
        leaves: the file or folder in the run directory by which a resumed run goes on.
    """

    title: ClassVar[str]
    needs: ClassVar[str | None] = None
    leaves: ClassVar[str]

    @abstractmethod
    def open(self, info: RunInfo, console: Console) -> Logger:
        """A logger that follows a run, or goes on where `info.resumed` says.

        Raises:
            UserError: if it cannot.
        """

    def abandon(self) -> None:
        """Clean up behind a logger that failed."""

    def follow(self, info: RunInfo, console: Console) -> Logger:
        """As `open`, but a logger that fails later is left alone: the record is what counts."""
        return Tolerant(self, self.open(info, console), console)


class Tolerant:
    """A logger in whose place a warning stands, once, when it fails, and nothing after that.

    Args:
        tracker: that opened it.
        logger: what may fail.
        console: where to warn.
    """

    def __init__(self, tracker: Tracker, logger: Logger, console: Console) -> None:
        self._tracker = tracker
        self._logger: Logger | None = logger
        self._console = console

    def log_step(self, row: Row) -> None:
        """Pass a logged step on."""
        self._pass_on("log_step", row)

    def log_epoch(self, row: Row) -> None:
        """Pass an epoch on."""
        self._pass_on("log_epoch", row)

    def log_search(self, row: Row) -> None:
        """Pass a search on."""
        self._pass_on("log_search", row)

    def close(self, run: Row) -> None:
        """Pass the end on."""
        self._pass_on("close", run)

    def _pass_on(self, event: str, row: Row) -> None:
        if self._logger is None:
            return
        try:
            getattr(self._logger, event)(row)
        except Exception as error:
            self._logger = None
            with suppress(Exception):
                self._tracker.abandon()
            warn(
                self._console,
                f"{self._tracker.title} failed and is switched off for the rest of the run",
                error,
            )


def warn(console: Console, what: str, error: Exception) -> None:
    """One line on a tracker that the run does without."""
    console.print(
        f"warning: {what} ({one_line(error)}); the run continues, and its local files are complete",
        style="yellow",
        soft_wrap=True,
        highlight=False,
        markup=False,
    )


class Loggers:
    """Many loggers as one."""

    def __init__(self, loggers: Sequence[Logger] = ()) -> None:
        self._loggers = list(loggers)

    def add(self, logger: Logger) -> None:
        """Have `logger` follow the run from here on."""
        self._loggers.append(logger)

    def log_step(self, row: Row) -> None:
        """Pass a logged step on."""
        for logger in self._loggers:
            logger.log_step(row)

    def log_epoch(self, row: Row) -> None:
        """Pass an epoch on."""
        for logger in self._loggers:
            logger.log_epoch(row)

    def log_search(self, row: Row) -> None:
        """Pass a search on."""
        for logger in self._loggers:
            logger.log_search(row)

    def begin(self, activity: str, number: int, of: int) -> None:
        """Pass on what begins, to those that want to know."""
        tell_watchers(self._loggers, activity, number, of)

    def close(self, run: Row) -> None:
        """Close each in the order they were added: the record does not wait for a dashboard."""
        with ExitStack() as stack:  # which goes on to the others when one raises
            for logger in reversed(self._loggers):
                stack.callback(logger.close, run)


def clear(directory: Path) -> None:
    """Remove what any tracker left in the directory of a run that starts over."""
    for name in plugins.trackers():
        tracker = class_in(__package__, name, Tracker)
        left = directory / tracker.leaves
        with writing(left):
            if left.is_dir():
                shutil.rmtree(left)
            else:
                left.unlink(missing_ok=True)


def retell(directory: Path, logger: Logger, since: int = 0) -> None:
    """Tell `logger` what the record of a resumed run holds, in the order in which it happened.

    Args:
        directory: of the record, which has been cut back to the state that the run goes on from.
        logger: that lacks it.
        since: the first step to tell of.
    """
    rows = [
        *read_lines(directory / schema.METRICS, schema.METRICS_ROW),
        *read_lines(directory / schema.ALLOCATIONS, schema.SEARCH_ROW),
    ]
    for row in sorted(rows, key=lambda row: row.step):  # stable: a search follows the step before
        if row.step < since:
            continue
        said = row.row()
        match said.pop("event", "search"):
            case "step":
                logger.log_step(said)
            case "epoch":
                logger.log_epoch(said)
            case _:
                logger.log_search(said)


def step_scalars(row: Row) -> dict[str, float]:
    """The numbers of a logged step, by the names that dashboards have in common."""
    return {"train/loss": row["loss"]}


def epoch_scalars(row: Row) -> dict[str, float]:
    """Every validation metric of an epoch, likewise."""
    metrics = {k: v for k, v in row.items() if k not in ("step", "epoch", "train_loss")}
    return {f"validation/{key.removeprefix('validation_')}": v for key, v in metrics.items()}


def search_scalars(row: Row) -> dict[str, float]:
    """How a search was decided and what it cost, likewise."""
    return {
        "search/parameters": row["parameters"],
        "search/degenerate": int(row["degenerate"]),
        "search/tied": row["tied"],
        "search/seconds": row["seconds"],
    }
