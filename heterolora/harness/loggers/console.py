"""What a person sees: progress during a run, and a summary at its end."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from heterolora.harness.loggers.base import Row, RunInfo
from heterolora.harness.loggers.progress import Pace, Screen, duration
from heterolora.harness.records.schema import CONTROL, EpochRow, RunRecord, SearchRow, TestRow

if TYPE_CHECKING:
    from heterolora.drawing.grid import Grid

QUIET = 60
"""Seconds of silence after which a log file gets a line."""

DOING = {"training": "epoch", "searching": "searching", "evaluating": "evaluating epoch"}
"""The words before the number of an activity."""


class ConsoleLogger:
    """Prints a line per epoch and warnings, and on a terminal a live progress row below them.

    Without a live row, a line now and then says how far the training is: after a minute of silence,
    and less often the longer the training takes.

    Args:
        screen: where to write.
        info: facts about the run.
        steps_per_epoch: optimizer steps per epoch.
        searches: the total number of searches.
    """

    def __init__(
        self, screen: Screen, info: RunInfo, steps_per_epoch: int, searches: int = 0
    ) -> None:
        self._screen = screen
        steps = info.epochs * steps_per_epoch
        self._total = steps if info.max_steps is None else min(steps, info.max_steps)
        self._epochs = math.ceil(self._total / steps_per_epoch)
        self._primary = info.primary_metric
        self._among = {"combined": "", "separated": " within a pool"}[info.pool]
        self._warned = False
        self._said = screen.elapsed
        done = info.resumed or 0
        evaluated = done // steps_per_epoch
        totals = {"training": self._total, "searching": searches, "evaluating": self._epochs}
        # The number of searches before resuming is not known; assume they were evenly spread.
        searched = round(searches * done / self._total)
        before = {"training": done, "searching": searched, "evaluating": evaluated}
        screen.train(self._total, done, Pace(totals, before))
        if info.resumed is not None:
            epoch = min(evaluated + 1, self._epochs)
            screen.say(f"resumed at step {info.resumed} (epoch {epoch})")

    def begin(self, activity: str, number: int, of: int) -> None:
        """Show the activity in the live row, such as `searching 3 of 5`."""
        self._screen.begin(activity, f"{DOING[activity]} {number} of {of}")

    def log_step(self, row: Row) -> None:
        """Advance the progress bar; without one, print a line if there was none for long."""
        screen = self._screen
        screen.reach(row["step"], f"epoch {row['epoch']} of {self._epochs}, loss {row['loss']:.3f}")
        quiet = max(QUIET, 0.1 * screen.elapsed)
        if not screen.display.is_live and screen.elapsed - self._said > quiet:
            self._line(
                f"epoch {row['epoch']:>2}/{self._epochs}  step {row['step']:>6}/{self._total}  "
                f"train loss {row['loss']:.4f}"
            )

    def log_epoch(self, row: Row) -> None:
        """Print one line."""
        self._line(
            f"epoch {row['epoch']:>2}/{self._epochs}  step {row['step']:>6}  "
            f"train loss {row['train_loss']:.4f}  validation loss {row['validation_loss']:.4f}  "
            f"{self._primary} {row[self._primary]:.4f}"
        )

    def _line(self, text: str) -> None:
        """Print a line with the elapsed and the remaining time."""
        screen = self._screen
        self._said = screen.elapsed
        screen.say(f"{text}  elapsed {duration(screen.elapsed)}  left {duration(screen.left)}")

    def log_search(self, row: Row) -> None:
        """Warn once of a search that its scores did not decide, except in the random control."""
        decided = not (row["degenerate"] or row["tied"])
        if self._warned or decided or row["proxy"]["name"] == CONTROL:
            return
        self._warned = True
        what = (
            f"all scores of {row['proxy']['name']} are equal{self._among}, "
            "so the allocation is random"
            if row["degenerate"]
            else f"{row['tied']} sites tie at the cutoff, so the choice among them was random"
        )
        self._screen.say(
            f"warning: step {row['step']}: {what} (recorded in allocations.jsonl; shown once)",
            style="yellow",
        )

    def close(self, run: Row) -> None:
        """Remove the live row."""
        self._screen.close()


def stopped_at(
    step: int, total: int, epoch: str, saved: int | None, states: Path
) -> tuple[str, str]:
    """Return where a run was interrupted and what of it is saved, and how to continue.

    Args:
        step: optimizer steps made.
        total: the total number of optimizer steps.
        epoch: the current epoch, such as `epoch 2 of 5`.
        saved: the step of the newest checkpoint on disk; None if there is none.
        states: the folder of the checkpoints.
    """
    again = "run the same command again to"
    if saved is None and step == 0:
        return "before the first step", f"{again} start it"
    if saved is not None and saved > step:
        return f"while loading; its state of step {saved} is still in {states}", f"{again} resume"
    where = f"at step {step} of {total} ({epoch})"
    if saved is None:
        return f"{where}; no state was saved yet", f"{again} start over"
    if saved == step:
        return f"{where}; its state is saved in {states}", f"{again} resume"
    last = f"the last saved state, of step {saved}, is in {states}"
    return f"{where}; {last}", f"{again} resume there"


def headline(result: RunRecord) -> str:
    """Return the result of a finished run in a few words."""
    assert result.best is not None
    assert result.seconds is not None
    metric = str(result.primary_metric)
    total = sum(result.seconds.row().values())
    return f"{metric} {result.best.metrics[metric]:.4f} in {total:.0f} s"


def print_summary(
    console: Console, info: RunInfo, result: RunRecord, searches: Sequence[SearchRow]
) -> None:
    """Print the summary of a finished run: its settings, results, cost, and where its record is."""
    parameters, seconds, memory = result.parameters, result.seconds, result.peak_memory_bytes
    assert parameters is not None
    assert seconds is not None
    assert memory is not None
    proxy = f", proxy {info.proxy}" if info.proxy else ""
    spent = ", ".join(f"{activity} {value:.1f}" for activity, value in seconds.row().items())
    searched = f"{len(searches)} search{'es' * (len(searches) != 1)}"
    allocation = (
        f"{info.strategy}{proxy}, {searched}, "
        f"{parameters.sites_enabled} of {parameters.sites} sites on"
        if parameters.sites
        else info.strategy
    )
    lines = {
        "task": f"{info.task}, model {info.model}, seed {info.seed}",
        "allocation" if parameters.sites else "method": allocation,
        "parameters": f"{parameters.enabled:,} adapter parameters on, budget "
        f"{parameters.budget:,}; head {parameters.head:,}",
        "best epoch": _metrics(result.best, info.metrics),
        "last epoch": _metrics(result.last, info.metrics),
        **({"test": _tested(result.test, info.metrics)} if result.test else {}),
        "seconds": f"{spent}; peak memory {memory / 2**20:,.0f} MiB",
        "record": str(info.directory),
    }
    for label, text in lines.items():
        console.print(f"[bold]{label:<12}[/bold]{escape(text)}", highlight=False, soft_wrap=True)
    if searches:
        console.print("[bold]sites on[/bold]    % of the searches", highlight=False)
        from heterolora.drawing.grid import Grid, on_frequency  # and NumPy

        frequency = Grid.of(on_frequency([search.ranks for search in searches]))
        console.print(_frequency_table(frequency), highlight=False)


def _metrics(row: EpochRow | None, names: Sequence[str]) -> str:
    assert row is not None
    values = ", ".join(f"{name} {row.metrics[name]:.4f}" for name in names)
    return f"{values} (epoch {row.epoch}, validation loss {row.validation_loss:.4f})"


def _tested(row: TestRow, names: Sequence[str]) -> str:
    values = ", ".join(f"{name} {row.metrics[name]:.4f}" for name in names)
    return f"{values} (best epoch on {row.split}, loss {row.loss:.4f})"


def _frequency_table(frequency: Grid) -> Table:
    """A table with layers as rows, roles as columns, and the mean over layers last."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("layer", justify="right")
    for role in frequency.roles:
        table.add_column(role, justify="right")
    for layer, shares in zip(frequency.layers, frequency.values, strict=True):
        cells = ("" if math.isnan(share) else f"{100 * share:.0f}" for share in shares)
        table.add_row(str(layer), *cells)
    means = (f"{100 * mean:.0f}" for mean in frequency.role_means().values())
    table.add_row("mean", *means, style="bold")
    return table
