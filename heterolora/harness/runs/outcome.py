"""The names of a run, and how it ended."""

from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from heterolora.harness.config import Config
from heterolora.harness.loggers.base import RunInfo
from heterolora.harness.loggers.console import headline, print_summary
from heterolora.harness.records import schema
from heterolora.harness.records.read import read_lines
from heterolora.harness.records.record import run_directory
from heterolora.harness.records.schema import RunRecord


@dataclass(frozen=True)
class Outcome:
    """The outcome of a configuration that was to be run.

    Attributes:
        config: the configuration, validated.
        directory: the run directory.
        result: the content of `run.json`.
        skipped: whether the run had already been finished before.
    """

    config: Config
    directory: Path
    result: RunRecord
    skipped: bool

    @property
    def metric(self) -> float:
        """The task's first metric at the best epoch."""
        assert self.result.best is not None
        return self.result.best.metrics[self.config.task.metrics[0]]

    def headline(self) -> str:
        """Return the result in a few words."""
        return headline(self.result)

    def show(self, console: Console) -> None:
        """Print the whole summary of the run."""
        if self.skipped:
            again = "already finished; use rerun=true to run it again"
            console.print(
                f"{again}: {self.directory}", soft_wrap=True, markup=False, highlight=False
            )
        searches = read_lines(self.directory / schema.ALLOCATIONS, schema.SEARCH_ROW)
        print_summary(console, run_info(self.config, self.directory), self.result, searches)


def directory_of(config: Config, identity: str) -> Path:
    """Return the directory of the record of a run with this identity."""
    return run_directory(
        output=config.output,
        name=config.name,
        task=config.task.name,
        strategy=arm_name(config),
        proxy=config.proxy.name if config.proxy else None,
        identity=identity,
        seed=config.seed,
    )


def arm_name(config: Config) -> str:
    """Return the name of a run's arm: its strategy, or its method if that does not allocate."""
    return config.strategy.name if config.method.build().allocates else config.method.name


def run_info(config: Config, directory: Path) -> RunInfo:
    """Return what loggers know of a run."""
    return RunInfo(
        directory=directory,
        name=config.name,
        task=config.task.name,
        model=config.model.path or config.model.name,
        strategy=arm_name(config),
        proxy=config.proxy.name if config.proxy else None,
        seed=config.seed,
        epochs=config.training.epochs,
        max_steps=config.training.max_steps,
        metrics=config.task.metrics,
        pool=config.search_space.pool,
        config=config.resolved(),
    )
