"""What every logger knows of its run, and many loggers as one."""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from heterolora.training.logging import Logger

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

    @property
    def primary_metric(self) -> str:
        """The metric that chooses the best epoch."""
        return self.metrics[0]


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

    def close(self, run: Row) -> None:
        """Close each in the order they were added: the record does not wait for a dashboard."""
        with ExitStack() as stack:  # which goes on to the others when one raises
            for logger in reversed(self._loggers):
                stack.callback(logger.close, run)
