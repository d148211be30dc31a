"""Live progress on the screen: a row for each run under way, and one for the sweep.

It needs only rich, so that it can be shown before torch and Transformers are imported.
"""

import functools
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

from rich.console import Console, RenderableType
from rich.progress import BarColumn, Progress, ProgressColumn, SpinnerColumn, Task
from rich.table import Column, Table
from rich.text import Text

PLAIN: dict[str, Any] = {"soft_wrap": True, "markup": False, "highlight": False}
"""Options to print text verbatim: paths, and text from elsewhere."""

ECHO = 4
"""Columns left empty on the right: a terminal prints `^C` there, and would otherwise wrap."""

Clock = Callable[[], float]


def duration(seconds: float | None) -> str:
    """Format a duration, such as `0:07`, `12:30` or `3:04:05`; `-:--` if it is unknown."""
    if seconds is None:
        return "-:--"
    minutes, rest = divmod(max(0, round(seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def counted(number: int, one: str, many: str | None = None) -> str:
    """Format a count with its noun, such as `1 run` or `4 runs`."""
    return f"{number:,} {one if number == 1 else many or f'{one}s'}"


class Pace:
    """Estimates the remaining time of a training from the time that each activity has taken so far.

    Args:
        totals: how often each activity is done in all; for `training`, the number of steps.
        done: how often each has been done before.
        clock: returns the time in seconds.
    """

    def __init__(
        self,
        totals: Mapping[str, int],
        done: Mapping[str, int],
        clock: Clock = time.monotonic,
    ) -> None:
        self._totals, self._clock = dict(totals), clock
        self._before = {name: done.get(name, 0) for name in totals}
        self._done = dict(self._before)
        self._seconds = dict.fromkeys(totals, 0.0)
        self._activity, self._since = "training", clock()

    def begin(self, activity: str) -> None:
        """Switch to another activity; unless it is training, the previous one is done once more."""
        self._book()
        if self._activity != "training":
            self._done[self._activity] += 1
        self._activity = activity

    def reach(self, step: int) -> None:
        """Note that so many training steps have been made."""
        self._book()
        self._done["training"] = step

    @property
    def left(self) -> float | None:
        """The remaining seconds; None before the first step here.

        Activities that have not been done here yet are not included.
        """
        if self._done["training"] == self._before["training"]:
            return None
        return sum(
            self._seconds[name] / made * (self._totals[name] - self._done[name])
            for name in self._totals
            if (made := self._done[name] - self._before[name])
        )

    def _book(self) -> None:
        now = self._clock()
        self._seconds[self._activity] += now - self._since
        self._since = now


class Display:
    """Live rows at the bottom of a terminal; printed lines appear above them.

    If the output is not a terminal, and outside `live`, there are no rows, only lines.
    """

    def __init__(self, console: Console) -> None:
        self.console = console
        self._progress: _Refreshed | None = None
        self._screens: list[Screen] = []

    @property
    def is_live(self) -> bool:
        """Whether rows are shown."""
        return self._progress is not None

    @contextmanager
    def live(self) -> Iterator[None]:
        """Show live rows inside the context, if the output is a terminal.

        Inside, this process has the terminal to itself.
        """
        # rich alone cannot be trusted: FORCE_COLOR makes it treat a log file as a terminal.
        seen = self.console.is_terminal and self.console.file.isatty()
        if self.is_live or not seen or self.console.is_dumb_terminal:
            yield
            return
        self._progress = _Refreshed(
            self.console,
            SpinnerColumn(table_column=_column()),
            _Doing(table_column=Column()),  # the one that is truncated on a narrow terminal
            BarColumn(max(8, min(40, self.console.width - 92)), table_column=_column()),
            _Counted(table_column=_column()),
            _Elapsed(table_column=_column()),
            _Left(table_column=_column()),
            redirect_stderr=sys.stderr.isatty(),
        )
        try:
            with self._progress:
                yield
        finally:
            self._progress = None

    @contextmanager
    def sweep(self, total: int, ended: Callable[[], int]) -> Iterator[None]:
        """Like `live`, with a row for a sweep.

        Args:
            total: the number of runs.
            ended: returns how many of them have ended, including those that had ended before.
        """
        with self.live():
            if self._progress is not None:
                before, begun = ended(), time.monotonic()

                def left() -> float | None:
                    rest = total - ended() - sum(screen.share for screen in self._screens)
                    made = total - before - rest
                    return (time.monotonic() - begun) / made * rest if made > 0 else None

                row = self.row(f"sweep of {total} runs", left, total=total, unit="runs")
                self._progress.before = lambda: row.change(completed=ended())
            yield

    def row(self, text: str, left: Callable[[], float | None], **more: Any) -> "Row":
        """Add a row; it has a bar if there is a `total`, counted in `unit`."""
        return Row(self._progress, text, {"left": left, "total": None, "unit": "", **more})

    def add(self, screen: "Screen") -> None:
        """Register a run that is under way."""
        self._screens.append(screen)

    def remove(self, screen: "Screen") -> None:
        """Unregister a run that has ended."""
        with suppress(ValueError):
            self._screens.remove(screen)


class Row:
    """A row of a display; does nothing if the display is not live."""

    def __init__(self, progress: Progress | None, text: str, fields: Mapping[str, Any]) -> None:
        self._progress = progress
        if progress is not None:
            self._task = progress.add_task(text, **fields)

    def change(self, **changes: Any) -> None:
        """Update the row, as `rich.progress.Progress.update` does."""
        if self._progress is not None:
            self._progress.update(self._task, **changes)

    def close(self) -> None:
        """Remove the row."""
        if self._progress is not None:
            self._progress.remove_task(self._task)
            self._progress = None


class Screen:
    """What a person sees of a run: lines and, on a live display, a row.

    Args:
        display: where to show it.
        label: distinguishes this run from others on the display, such as `run 2 of 4`.
    """

    def __init__(self, display: Display, label: str = "") -> None:
        self.display = display
        self.label = label
        self._prefix = f"{label}: " if label else ""
        self._row: Row | None = None
        self._pace: Pace | None = None
        self._begun = time.monotonic()

    @property
    def console(self) -> Console:
        """The console on which lines are printed."""
        return self.display.console

    @property
    def elapsed(self) -> float:
        """Seconds since the screen was created."""
        return time.monotonic() - self._begun

    @property
    def left(self) -> float | None:
        """Estimated seconds until the training ends; None if there is no estimate."""
        return None if self._pace is None else self._pace.left

    @property
    def share(self) -> float:
        """The fraction of the run's time that has passed, from 0 to 1."""
        left = self.left
        return 0.0 if left is None else self.elapsed / max(self.elapsed + left, 1e-9)

    def say(self, text: str, style: str | None = None) -> None:
        """Print a line."""
        self.console.print(f"{self._prefix}{text}", style=style, **PLAIN)

    def doing(self, text: str) -> None:
        """Show in the row what is being done."""
        if self._row is None:
            self.display.add(self)
            self._row = self.display.row(f"{self._prefix}{text}", lambda: self.left)
        self._row.change(description=f"{self._prefix}{text}")

    def train(self, total: int, done: int, pace: Pace) -> None:
        """Begin a training of `total` steps; the row gets a bar."""
        self._pace = pace
        self.doing("training")
        assert self._row is not None
        self._row.change(total=total, completed=done, unit="steps")

    def begin(self, activity: str, text: str) -> None:
        """Switch to another activity of the training, shown as `text`."""
        assert self._pace is not None
        self._pace.begin(activity)
        self.doing(text)

    def reach(self, step: int, text: str) -> None:
        """Show that so many steps have been made."""
        assert self._pace is not None
        assert self._row is not None
        self._pace.reach(step)
        self._row.change(completed=step, description=f"{self._prefix}{text}")

    def close(self) -> None:
        """Remove the row."""
        self.display.remove(self)
        if self._row is not None:
            self._row.close()
            self._row = None


@functools.cache
def own_display() -> Display:
    """Return the display of this process, which has one standard output."""
    return Display(Console())


def _column() -> Column:
    return Column(no_wrap=True, overflow="ellipsis")


class _Refreshed(Progress):
    """Progress rows, some of which are updated each time they are drawn."""

    def __init__(self, console: Console, *columns: ProgressColumn, redirect_stderr: bool) -> None:
        self.before: Callable[[], object] | None = None
        self._on = console
        super().__init__(*columns, console=console, transient=True, redirect_stderr=redirect_stderr)

    def make_tasks_table(self, tasks: Iterable[Task]) -> Table:
        """Keep the table away from the edge of the terminal."""
        table, most = super().make_tasks_table(tasks), self._on.width - ECHO
        if self._on.measure(table).maximum > most:
            table.width = most
        return table

    def get_renderables(self) -> Iterable[RenderableType]:
        """Return the table, updated."""
        if self.before is not None:
            self.before()
        yield from super().get_renderables()


class _Doing(ProgressColumn):
    """A column with what is being done."""

    def render(self, task: Task) -> Text:
        """Render on one line."""
        return Text(task.description, no_wrap=True, overflow="ellipsis")


class _Counted(ProgressColumn):
    """A column such as `120/250 steps`."""

    def render(self, task: Task) -> Text:
        """Render for a task with a total."""
        if task.total is None:
            return Text("")
        return Text(f"{task.completed:.0f}/{task.total:.0f} {task.fields['unit']}")


class _Elapsed(ProgressColumn):
    def render(self, task: Task) -> Text:
        """Render with a label, because the next column is a time as well."""
        return Text(f"elapsed {duration(task.elapsed or 0)}", style="progress.elapsed")


class _Left(ProgressColumn):
    def render(self, task: Task) -> Text:
        """Render with a label; empty if the task has no total."""
        if task.total is None:
            return Text("")
        return Text(f"left {duration(task.fields['left']())}", style="progress.remaining")
