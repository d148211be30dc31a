"""What a person sees: progress while a run goes on, and a summary at its end."""

import math
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table

from heterolora.drawing.grid import Grid, on_frequency
from heterolora.loggers.base import Row, RunInfo
from heterolora.records.schema import EpochRow, RunRecord, SearchRow, TestRow

PLAIN: dict[str, Any] = {"soft_wrap": True, "markup": False, "highlight": False}
"""Print as it stands: paths, and what others wrote."""


class ConsoleLogger:
    """A line per epoch, warnings, and on a terminal a progress bar below them.

    Args:
        console: where to write.
        info: on the run.
        steps_per_epoch: optimizer steps.
        label: begins each line of a run that may share the console with others, which then has
            no bar; empty for a run that has it alone.
    """

    def __init__(
        self,
        console: Console,
        info: RunInfo,
        steps_per_epoch: int,
        label: str = "",
    ) -> None:
        self._console = console
        self._label = f"{label} " if label else ""
        steps = info.epochs * steps_per_epoch
        total = steps if info.max_steps is None else min(steps, info.max_steps)
        self._epochs = math.ceil(total / steps_per_epoch)
        self._primary = info.primary_metric
        self._among = {"combined": "", "separated": " within a pool"}[info.pool]
        self._warned = False
        self._started = time.perf_counter()
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TaskProgressColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=console,
            disable=not console.is_terminal or bool(label),
            transient=True,
        )
        self._task = self._bar.add_task("training", total=total, completed=info.resumed or 0)
        self._bar.start()
        if info.resumed is not None:
            epoch = min(info.resumed // steps_per_epoch + 1, self._epochs)
            self._console.print(
                f"{self._label}resumed at step {info.resumed} (epoch {epoch})", highlight=False
            )

    def log_step(self, row: Row) -> None:
        """Move the bar."""
        self._bar.update(
            self._task,
            completed=row["step"],
            description=f"epoch {row['epoch']}/{self._epochs}  loss {row['loss']:.3f}",
        )

    def log_epoch(self, row: Row) -> None:
        """One line."""
        elapsed = time.perf_counter() - self._started
        self._console.print(
            f"{self._label}epoch {row['epoch']:>2}/{self._epochs}  step {row['step']:>6}  "
            f"train loss {row['train_loss']:.4f}  validation loss {row['validation_loss']:.4f}  "
            f"{self._primary} {row[self._primary]:.4f}  {elapsed:.0f} s",
            highlight=False,
            soft_wrap=True,
        )

    def log_search(self, row: Row) -> None:
        """Warn once of a search that the scores did not decide."""
        if self._warned or not (row["degenerate"] or row["tied"]):
            return
        self._warned = True
        what = (
            f"all scores of {row['proxy']['name']} are equal{self._among}, "
            "so the allocation is random"
            if row["degenerate"]
            else f"{row['tied']} sites tie at the cutoff, and the choice among them was random"
        )
        self._console.print(
            f"{self._label}warning: step {row['step']}: {what} "
            "(recorded in allocations.jsonl; shown once)",
            style="yellow",
            highlight=False,
            soft_wrap=True,
        )

    def close(self, run: Row) -> None:
        """Take the bar away."""
        self._bar.stop()


def headline(result: RunRecord) -> str:
    """The result of a finished run in a few words."""
    assert result.best is not None
    assert result.seconds is not None
    metric = str(result.primary_metric)
    total = sum(result.seconds.row().values())
    return f"{metric} {result.best.metrics[metric]:.4f} in {total:.0f} s"


def print_summary(
    console: Console, info: RunInfo, result: RunRecord, searches: Sequence[SearchRow]
) -> None:
    """The end of a finished run: what was asked, what came out, what it cost, where it lies."""
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
        "parameters": f"adapters {parameters.enabled:,} on (budget {parameters.budget:,}), "
        f"head {parameters.head:,}",
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
    """Layers down, roles across, the mean over layers last."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("layer", justify="right")
    for role in frequency.roles:
        table.add_column(role, justify="right")
    for layer, shares in zip(frequency.layers, frequency.values, strict=True):
        cells = ("" if np.isnan(share) else f"{100 * share:.0f}" for share in shares)
        table.add_row(str(layer), *cells)
    means = (f"{100 * mean:.0f}" for mean in frequency.role_means().values())
    table.add_row("mean", *means, style="bold")
    return table
