"""What loggers have in common: facts about the run, trackers, and a logger that combines others."""

import importlib.util
import shutil
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from rich.console import Console

from heterolora.errors import Problem, one_line
from heterolora.files import writing
from heterolora.harness.config import plugins
from heterolora.harness.records import schema
from heterolora.harness.records.read import read_lines
from heterolora.settings import Settings, Situation, class_in
from heterolora.training.logging import Logger, tell_watchers

Row = Mapping[str, Any]


@dataclass(frozen=True)
class RunInfo:
    """What loggers know of a run, in plain values.

    Attributes:
        directory: the run directory.
        name: the name of the experiment.
        task: the name of the task.
        model: the checkpoint's path or its name on the Hub.
        strategy: the name of the strategy.
        proxy: the name of the proxy; None for a strategy that does not search.
        seed: the seed of the run.
        epochs: the number of training epochs.
        metrics: the metrics of the task; the first one chooses the best epoch.
        pool: whether all kinds of sites share the budget (`combined`) or not (`separated`).
        config: the resolved configuration.
        max_steps: maximum number of steps; None if only `epochs` ends the training.
        resumed: the step at which the run resumes; None if it starts from the beginning.
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

    The library that it logs to is imported when a run is opened.

    Attributes:
        title: the name shown to users.
        needs: the package that the extra of the tracker's name installs; None if it needs no extra.
        leaves: the file or folder in the run directory that allows a resumed run to continue.
    """

    title: ClassVar[str]
    needs: ClassVar[str | None] = None
    leaves: ClassVar[str]

    def problems(self, situation: Situation) -> Iterator[Problem]:
        """Yield a problem if the package that the tracker needs is not installed."""
        if self.needs is not None and importlib.util.find_spec(self.needs) is None:
            rule = f"needs the package {self.needs}"
            remedy = f"pip install 'heterolora[{self.name}]', or choose `tracking=local`"
            yield Problem("tracking", self.name, rule, remedy)

    @abstractmethod
    def open(self, info: RunInfo, console: Console) -> Logger:
        """Return a logger for a run, which continues at `info.resumed` if the run resumes.

        Raises:
            UserError: if it cannot be opened.
        """

    def abandon(self) -> None:
        """Clean up after a logger that failed."""

    def follow(self, info: RunInfo, console: Console) -> Logger:
        """Like `open`, but a logger that fails later is switched off: the record is what counts."""
        return Tolerant(self, self.open(info, console), console)


class Tolerant:
    """Wraps a logger: if it fails, warns once and is silent from then on.

    Args:
        tracker: the tracker that opened the logger.
        logger: the logger that may fail.
        console: where to print the warning.
    """

    def __init__(self, tracker: Tracker, logger: Logger, console: Console) -> None:
        self._tracker = tracker
        self._logger: Logger | None = logger
        self._console = console

    def log_step(self, row: Row) -> None:
        """Pass on a logged step."""
        self._pass_on("log_step", row)

    def log_epoch(self, row: Row) -> None:
        """Pass on an epoch."""
        self._pass_on("log_epoch", row)

    def log_search(self, row: Row) -> None:
        """Pass on a search."""
        self._pass_on("log_search", row)

    def close(self, run: Row) -> None:
        """Pass on the end of the run."""
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
    """Print one line about a tracker that the run continues without."""
    console.print(
        f"warning: {what} ({one_line(error)}); the run continues, and its local files are complete",
        style="yellow",
        soft_wrap=True,
        highlight=False,
        markup=False,
    )


class Loggers:
    """Several loggers as one."""

    def __init__(self, loggers: Sequence[Logger] = ()) -> None:
        self._loggers = list(loggers)

    def add(self, logger: Logger) -> None:
        """Have `logger` follow the run from here on."""
        self._loggers.append(logger)

    def log_step(self, row: Row) -> None:
        """Pass on a logged step."""
        for logger in self._loggers:
            logger.log_step(row)

    def log_epoch(self, row: Row) -> None:
        """Pass on an epoch."""
        for logger in self._loggers:
            logger.log_epoch(row)

    def log_search(self, row: Row) -> None:
        """Pass on a search."""
        for logger in self._loggers:
            logger.log_search(row)

    def begin(self, activity: str, number: int, of: int) -> None:
        """Tell those that are watchers that an activity begins."""
        tell_watchers(self._loggers, activity, number, of)

    def close(self, run: Row) -> None:
        """Close each in the order of their addition: the record does not wait for a dashboard."""
        with ExitStack() as stack:  # which still closes the others when one raises
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
    """Replay the record of a resumed run to `logger`, in chronological order.

    Args:
        directory: the run directory, whose record has been truncated to the checkpoint from which
            the run resumes.
        logger: the logger that lacks these rows.
        since: the first step to replay.
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
    """Return the numbers of a logged step, under the names that all dashboards share."""
    return {"train/loss": row["loss"]}


def epoch_scalars(row: Row) -> dict[str, float]:
    """Return every validation metric of an epoch, under the names that all dashboards share."""
    metrics = {k: v for k, v in row.items() if k not in ("step", "epoch", "train_loss")}
    return {f"validation/{key.removeprefix('validation_')}": v for key, v in metrics.items()}


def search_scalars(row: Row) -> dict[str, float]:
    """Return how a search was decided and its cost, under the names that all dashboards share."""
    return {
        "search/parameters": row["parameters"],
        "search/degenerate": int(row["degenerate"]),
        "search/tied": row["tied"],
        "search/seconds": row["seconds"],
    }
