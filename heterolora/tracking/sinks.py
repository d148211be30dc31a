"""Where the events of a run go."""

from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any, Protocol

Row = dict[str, Any]


class Sink(Protocol):
    """Something that follows a run. Rows are plain JSON values."""

    def step(self, row: Row) -> None:
        """Some optimizer steps were made: `step`, `epoch`, the mean `loss` over them."""

    def epoch(self, row: Row) -> None:
        """An epoch was evaluated: `step`, `epoch`, losses and metrics."""

    def search(self, row: Row) -> None:
        """A search was made: a line of `allocations.jsonl`."""

    def close(self, run: Row) -> None:
        """The run ended, however it did: the content of `run.json`."""


class Sinks:
    """Many sinks as one."""

    def __init__(self, sinks: Sequence[Sink]) -> None:
        self._sinks = list(sinks)

    def add(self, sink: Sink) -> None:
        """Have `sink` told of what follows."""
        self._sinks.append(sink)

    def step(self, row: Row) -> None:
        """To each."""
        for sink in self._sinks:
            sink.step(row)

    def epoch(self, row: Row) -> None:
        """To each."""
        for sink in self._sinks:
            sink.epoch(row)

    def search(self, row: Row) -> None:
        """To each."""
        for sink in self._sinks:
            sink.search(row)

    def close(self, run: Row) -> None:
        """To each, the first one added first: the record does not wait for a dashboard."""
        with ExitStack() as stack:  # which goes on to the others when one raises
            for sink in reversed(self._sinks):
                stack.callback(sink.close, run)
