"""What a person sees: progress while a run goes on, and a summary at its end."""

import time
from collections.abc import Sequence
from pathlib import Path
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

from heterolora.config import Config
from heterolora.tracking.grid import Grid, on_frequency
from heterolora.tracking.sinks import Row

PLAIN: dict[str, Any] = {"soft_wrap": True, "markup": False, "highlight": False}
"""Print as it stands: paths, and what others wrote."""


class ConsoleSink:
    """A line per epoch, warnings, and on a terminal a progress bar below them.

    Args:
        console: where to write.
        config: the run's.
        steps_per_epoch: optimizer steps.
        label: begins each line of a run that may share the console with others, which then has
            no bar; empty for a run that has it alone.
        resumed: the step at which the run goes on; None where it begins.
    """

    def __init__(
        self,
        console: Console,
        config: Config,
        steps_per_epoch: int,
        label: str = "",
        resumed: int | None = None,
    ) -> None:
        self._console = console
        self._label = f"{label} " if label else ""
        self._epochs = config.training.epochs
        self._primary = config.task.metrics[0]
        self._among = {"combined": "", "separated": " within a pool"}[config.search_space.pool]
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
        self._task = self._bar.add_task(
            "training", total=self._epochs * steps_per_epoch, completed=resumed or 0
        )
        self._bar.start()
        if resumed is not None:
            epoch = min(resumed // steps_per_epoch + 1, self._epochs)
            self._console.print(
                f"{self._label}resumed at step {resumed} (epoch {epoch})", highlight=False
            )

    def step(self, row: Row) -> None:
        """Move the bar."""
        self._bar.update(
            self._task,
            completed=row["step"],
            description=f"epoch {row['epoch']}/{self._epochs}  loss {row['loss']:.3f}",
        )

    def epoch(self, row: Row) -> None:
        """One line."""
        elapsed = time.perf_counter() - self._started
        self._console.print(
            f"{self._label}epoch {row['epoch']:>2}/{self._epochs}  step {row['step']:>6}  "
            f"train loss {row['train_loss']:.4f}  validation loss {row['validation_loss']:.4f}  "
            f"{self._primary} {row[self._primary]:.4f}  {elapsed:.0f} s",
            highlight=False,
            soft_wrap=True,
        )

    def search(self, row: Row) -> None:
        """Warn once of a search that the scores did not decide."""
        if self._warned or not (row["degenerate"] or row["tied"]):
            return
        self._warned = True
        what = (
            f"all scores of {row['proxy']['name']} are equal{self._among}, "
            "so the allocation is random"
            if row["degenerate"]
            else f"{row['tied']} sites tie at the cut and were chosen among at random"
        )
        self._console.print(
            f"{self._label}warning: step {row['step']}: {what} "
            "(recorded in allocations.jsonl; said once)",
            style="yellow",
            highlight=False,
            soft_wrap=True,
        )

    def close(self, run: Row) -> None:
        """Take the bar away."""
        self._bar.stop()


def headline(run: Row) -> str:
    """The result of a finished run in a few words."""
    metric, seconds = run["primary_metric"], sum(run["seconds"].values())
    return f"{metric} {run['best'][metric]:.4f} in {seconds:.0f} s"


def print_summary(
    console: Console, config: Config, run: Row, searches: Sequence[Row], directory: Path
) -> None:
    """The end of a run: what was asked, what came out, what it cost, where it lies."""
    parameters, seconds, task = run["parameters"], run["seconds"], config.task
    proxy = f" by {config.proxy.name}" if config.proxy else ""
    spent = ", ".join(f"{activity} {value:.1f}" for activity, value in seconds.items())
    lines = {
        "task": f"{task.name} with {config.model.path or config.model.name}, seed {config.seed}",
        "allocation": f"{config.strategy.name}{proxy}, {len(searches)} searches, "
        f"{parameters['sites_enabled']} of {parameters['sites']} sites on",
        "parameters": f"{parameters['enabled']:,} adapter parameters on, of a budget of "
        f"{parameters['budget']:,}; {parameters['head']:,} in the head",
        "best epoch": _metrics(run["best"], task.metrics),
        "last epoch": _metrics(run["last"], task.metrics),
        "seconds": f"{spent}; peak memory {run['peak_memory_bytes'] / 2**20:,.0f} MiB",
        "record": str(directory),
    }
    for label, text in lines.items():
        console.print(f"[bold]{label:<12}[/bold]{escape(text)}", highlight=False, soft_wrap=True)
    if searches:
        console.print("[bold]sites on[/bold]    in % of the searches", highlight=False)
        console.print(_frequency_table(Grid.of(on_frequency(searches))), highlight=False)


def _metrics(row: Row, names: Sequence[str]) -> str:
    values = ", ".join(f"{name} {row[name]:.4f}" for name in names)
    return f"{values} (epoch {row['epoch']}, validation loss {row['validation_loss']:.4f})"


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
