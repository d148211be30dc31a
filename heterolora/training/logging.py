"""What a training tells of itself, and to whom."""

from collections.abc import Mapping
from typing import Any, Protocol


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
