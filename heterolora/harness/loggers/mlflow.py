"""MLflow: parameters, metrics and the result of a run, on a server or in a local database."""

import logging
import os
import time
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from filelock import FileLock
from rich.console import Console

from heterolora.errors import TrackingError, UserError, one_line
from heterolora.files import write_atomically
from heterolora.harness.loggers.base import (
    Row,
    RunInfo,
    Tracker,
    epoch_scalars,
    retell,
    search_scalars,
    step_scalars,
)
from heterolora.harness.records.read import flat
from heterolora.settings import setting

ID = "mlflow-id"
"""The file with the MLflow run's ID: a resumed run continues the same MLflow run."""
URI = "MLFLOW_TRACKING_URI"
STATUS = {"finished": "FINISHED", "failed": "FAILED", "interrupted": "KILLED"}
AT_ONCE = 100
"""Maximum number of parameters that a server accepts in one request."""


@dataclass(frozen=True)
class Mlflow(Tracker):
    """One MLflow run, named by the run directory, in the experiment `<project>/<name>`.

    It goes to the server of MLFLOW_TRACKING_URI; without one, or with `offline`, to
    `<output>/mlflow.db`.
    """

    title: ClassVar[str] = "MLflow"
    needs: ClassVar[str | None] = "mlflow"
    leaves: ClassVar[str] = ID

    project: str = setting("heterolora", help="first part of the MLflow experiment's name")

    def open(self, info: RunInfo, console: Console) -> "MlflowLogger":
        """Start the MLflow run, or continue it.

        Raises:
            TrackingError: if MLflow rejects it.
        """
        # Training waits while requests are retried, by default for minutes.
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "3")
        # The import below reads this. It also sets the log level, at which each table is reported.
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        import mlflow  # noqa: F401

        logging.getLogger("mlflow").setLevel(logging.WARNING)
        try:
            return MlflowLogger(info, f"{self.project}/{info.name}")
        except UserError:  # about the record
            raise
        except Exception as error:  # each kind of store has its own errors
            raise TrackingError(
                f"tracking=mlflow: {one_line(error)}; check {URI}, or choose tracking=local"
            ) from error


class MlflowLogger:
    """One MLflow run.

    Args:
        info: facts about the run.
        experiment: the name of the experiment.
    """

    def __init__(self, info: RunInfo, experiment: str) -> None:
        self._told: dict[str, int] = {}
        local = local_store(info)
        # Otherwise several processes of a sweep could all create the tables of a new database.
        with FileLock(local.with_name(".mlflow.lock")) if local else nullcontext():
            self._client = _client(local)
            found = _experiment(self._client, experiment, local)
        self._run: str = _run(self._client, found, info)
        if info.resumed is not None:
            retell(info.directory, self)

    def log_step(self, row: Row) -> None:
        """Log the training loss."""
        self._log(step_scalars(row), row["step"])

    def log_epoch(self, row: Row) -> None:
        """Log every validation metric."""
        self._log(epoch_scalars(row), row["step"])

    def log_search(self, row: Row) -> None:
        """Log how it was decided."""
        self._log(search_scalars(row), row["step"])

    def close(self, run: Row) -> None:
        """Log the numbers of `run.json` if they are final, and how the run ended."""
        if run["status"] == "finished":
            numbers = {k: v for k, v in flat(run).items() if type(v) in (int, float)}
            self._log(numbers, run["steps"])
        self._client.set_terminated(self._run, STATUS[run["status"]])

    def _log(self, scalars: Row, step: int) -> None:
        """Log scalars that belong together, unless they are already logged: MLflow cannot undo."""
        from mlflow.entities import Metric

        first = next(iter(scalars))
        if first not in self._told:
            history = self._client.get_metric_history(self._run, first)
            self._told[first] = max((metric.step for metric in history), default=-1)
        if step > self._told[first]:
            now = int(1000 * time.time())
            metrics = [Metric(key, value, now, step) for key, value in scalars.items()]
            self._client.log_batch(self._run, metrics=metrics)
            self._told[first] = step


def local_store(info: RunInfo) -> Path | None:
    """Return the path of the local database, or None if another store is configured."""
    given = os.environ.get(URI, "")
    here = given.startswith(("sqlite:", "file:", "/"))
    if given and (here or not info.config["offline"]):
        return None
    return Path(info.config["output"]).absolute() / "mlflow.db"


def _client(local: Path | None) -> Any:
    from mlflow import MlflowClient

    return MlflowClient(None if local is None else f"sqlite:///{local}")


def _experiment(client: Any, name: str, local: Path | None) -> str:
    """Return the ID of an experiment, creating it if there is none of that name."""
    from mlflow.exceptions import MlflowException

    found = client.get_experiment_by_name(name)
    if found is None:
        artifacts = None if local is None else local.with_name("mlartifacts").as_uri()
        try:
            return str(client.create_experiment(name, artifact_location=artifacts))
        except MlflowException:
            found = client.get_experiment_by_name(name)  # another run may have created it meanwhile
            if found is None:
                raise
    return str(found.experiment_id)


def _run(client: Any, experiment: str, info: RunInfo) -> str:
    """Return the ID of the record's MLflow run, or create a new one with its parameters."""
    from mlflow.entities import Param
    from mlflow.exceptions import MlflowException

    file = info.directory / ID
    if file.is_file():
        try:
            client.update_run(file.read_text(), status="RUNNING")
            return file.read_text()
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
    tags = {"task": info.task, "arm": info.arm, "seed": str(info.seed)}
    made = client.create_run(experiment, run_name=info.directory.name, tags=tags)
    run = str(made.info.run_id)
    params = [Param(key, str(value)) for key, value in flat(info.config).items()]
    for start in range(0, len(params), AT_ONCE):
        client.log_batch(run, params=params[start : start + AT_ONCE])
    write_atomically(file, run)
    return run
