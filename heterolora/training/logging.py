"""What a training tells of itself, and to whom."""

from collections.abc import Iterable, Mapping
from typing import Any, Protocol, runtime_checkable


class Logger(Protocol):
    """Something that follows a run. Rows are plain JSON values."""

    def log_step(self, row: Mapping[str, Any]) -> None:
        """Some optimizer steps were made: `step`, `epoch`, the mean `loss` over them."""

    def log_epoch(self, row: Mapping[str, Any]) -> None:
        """An epoch was evaluated: `step`, `epoch`, `train_loss`, `validation_loss`, metrics."""

    def log_search(self, row: Mapping[str, Any]) -> None:
        """A search was made: `step`, `epoch`, `scores` and `ranks` by site, how it was decided."""

    def close(self, run: Mapping[str, Any]) -> None:
        """The run ended, however it did: its `status`, and what came out of it."""


@runtime_checkable
class Watcher(Protocol):
    """A logger that is also told what begins, to show it while it lasts."""

    def begin(self, activity: str, number: int, of: int) -> None:
        """`training`, `searching` or `evaluating` begins, for the `number`th time of `of`."""


def tell_watchers(loggers: Iterable[object], activity: str, number: int, of: int) -> None:
    """Those of the loggers that are watchers are told."""
    for logger in loggers:
        if isinstance(logger, Watcher):
            logger.begin(activity, number, of)
