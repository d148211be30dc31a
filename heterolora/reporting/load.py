"""The records of runs, read back."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from heterolora.errors import RecordError
from heterolora.tracking.record import SCHEMA_VERSION, read_json, read_rows, read_run
from heterolora.tracking.sinks import Row


@dataclass(frozen=True)
class Run:
    """One run directory.

    Attributes:
        directory: where it lies.
        config: the resolved configuration, nested as in `config.yaml`.
        result: the content of `run.json`; its `status` says whether the run is finished.
    """

    directory: Path
    config: Row
    result: Row

    def setting(self, key: str) -> Any:
        """The value of a dotted key such as `strategy.enable_rate`; None where there is none."""
        value: Any = self.config
        for part in key.split("."):
            value = value.get(part) if isinstance(value, dict) else None
        return value

    @property
    def seed(self) -> int:
        """The run's seed."""
        return int(self.config["seed"])

    @property
    def finished(self) -> bool:
        """Whether its numbers are final."""
        return bool(self.result["status"] == "finished")

    @property
    def metric(self) -> str:
        """The key of the number that tables show, in an epoch's row.

        It is the task's first metric: of the whole validation split, or under
        `evaluation.split=halves` of the half that chose nothing.
        """
        primary = str(self.config["task"]["metrics"][0])
        return f"report_{primary}" if self.setting("evaluation.split") == "halves" else primary

    @property
    def best(self) -> float:
        """`metric` at the best epoch, the paper's statistic, in percent."""
        return 100 * float(self.result["best"][self.metric])

    @property
    def last(self) -> float:
        """`metric` at the last epoch, in percent."""
        return 100 * float(self.result["last"][self.metric])

    @cached_property
    def provenance(self) -> Row:
        """Where its numbers come from; empty where it was not kept."""
        return read_json(self.directory / "provenance.json") or {}

    @cached_property
    def epochs(self) -> Sequence[Row]:
        """The row of each epoch: `step`, `epoch`, losses and metrics."""
        return [row for row in self._metrics if row["event"] == "epoch"]

    @cached_property
    def steps(self) -> Sequence[Row]:
        """The row of each logged step: `step`, `epoch`, `loss`."""
        return [row for row in self._metrics if row["event"] == "step"]

    @cached_property
    def searches(self) -> Sequence[Row]:
        """The row of each search: `step`, `scores` and `ranks` by site, `tied`, ..."""
        return read_rows(self.directory / "allocations.jsonl")

    @cached_property
    def importance(self) -> Sequence[Row]:
        """The row of each site that was left out after training; none where it was not asked."""
        return read_rows(self.directory / "importance.jsonl")

    @cached_property
    def _metrics(self) -> Sequence[Row]:
        return read_rows(self.directory / "metrics.jsonl")


def load(folder: Path) -> list[Run]:
    """Every run below `folder`, finished or not, in the order of their paths.

    Raises:
        RecordError: if there is no such folder, or a record was written in another schema.
    """
    if not folder.is_dir():
        raise RecordError(f"{folder}: there is no such folder; name one that holds runs")
    runs = []
    for file in sorted(folder.rglob("run.json")):
        result = read_run(file.parent)
        settings = file.with_name("config.yaml")
        if result is None or not settings.is_file():
            continue
        if result["schema_version"] != SCHEMA_VERSION:
            raise RecordError(
                f"{file}: schema_version={result['schema_version']}, but this version reads "
                f"{SCHEMA_VERSION}; report it with the version that wrote it"
            )
        config = OmegaConf.to_container(OmegaConf.load(settings))
        assert isinstance(config, dict)
        runs.append(Run(file.parent, {str(key): value for key, value in config.items()}, result))
    return runs
