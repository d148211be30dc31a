"""What a trainer reports, and to whom."""

from collections.abc import Iterable, Mapping
from typing import Any, Protocol, runtime_checkable


class Logger(Protocol):
    """Follows a run. Rows are plain JSON values."""

    def log_step(self, row: Mapping[str, Any]) -> None:
        """Log some optimizer steps: `step`, `epoch`, and the mean `loss` over them."""

    def log_epoch(self, row: Mapping[str, Any]) -> None:
        """Log an evaluated epoch: `step`, `epoch`, `train_loss`, `validation_loss`, metrics."""

    def log_search(self, row: Mapping[str, Any]) -> None:
        """Log a search: `step`, `epoch`, `scores` and `ranks` by site, and how it was decided."""

    def close(self, run: Mapping[str, Any]) -> None:
        """Finish after the run has ended in any way: its `status`, and its results."""


@runtime_checkable
class Watcher(Protocol):
    """A logger that is also told when an activity begins, so that it can show it in progress."""

    def begin(self, activity: str, number: int, of: int) -> None:
        """Show that an activity begins, for the `number`th time of `of`.

        It is `training`, `searching` or `evaluating`.
        """


def tell_watchers(loggers: Iterable[object], activity: str, number: int, of: int) -> None:
    """Tell those of the loggers that are watchers that an activity begins."""
    for logger in loggers:
        if isinstance(logger, Watcher):
            logger.begin(activity, number, of)
