"""Weights & Biases: configuration, metrics, allocations and summary of a run."""

import os
import secrets
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Literal

import wandb
from rich.console import Console

from heterolora.drawing.heatmap import heatmap
from heterolora.errors import TrackingError, one_line
from heterolora.files import write_atomically
from heterolora.loggers.base import Row, RunInfo
from heterolora.records.record import WANDB_ID
from heterolora.sites import Site


class WandbLogger:
    """One W&B run, named and identified by the run directory, so that it can be resumed.

    With `offline`, without an API key, or where the server cannot be reached, it is kept offline in
    the run directory, and its end says how to send it. A W&B that fails later is left alone from
    then on: the local files are the record.

    Args:
        info: on the run.
        console: where to warn.
        project: the W&B project.
        entity: the user or team that owns it; None for the default.
        group: of runs; None for `<name>/<task>`.
        tags: beside those that say what is run.
    """

    def __init__(
        self,
        info: RunInfo,
        console: Console,
        project: str,
        entity: str | None = None,
        group: str | None = None,
        tags: Sequence[str] = (),
    ) -> None:
        self._console = console
        self._alive = True
        where = {"project": project, "entity": entity, "group": group or f"{info.name}/{info.task}"}
        try:
            try:
                self._run = _begin(info, where, tags, mode())
            except wandb.errors.CommError as error:
                self._warn("cannot be reached, so this run is logged offline", error)
                wandb.teardown()  # its service still holds the run's name
                self._run = _begin(info, where, tags, "offline")
        except wandb.errors.Error as error:
            raise TrackingError(
                f"tracking=wandb: {one_line(error)}; run `wandb login`, set WANDB_MODE=offline, or "
                "choose tracking=local"
            ) from error
        self._run.define_metric("*", step_metric="step")

    def _warn(self, what: str, error: Exception) -> None:
        self._console.print(
            f"warning: W&B {what} ({one_line(error)}); the run goes on, and its local files are "
            "complete",
            style="yellow",
            soft_wrap=True,
            highlight=False,
            markup=False,
        )

    @contextmanager
    def _tolerant(self) -> Iterator[None]:
        """Warn once of whatever W&B raises inside, and leave W&B alone from then on."""
        try:
            yield
        except Exception as error:
            self._alive = False
            with suppress(Exception):
                wandb.teardown()  # or its end of the process fails aloud, and a sweep's next run
            self._warn("failed and is switched off for the rest of the run", error)

    def log_step(self, row: Row) -> None:
        """The training loss."""
        self._log({"step": row["step"], "epoch": row["epoch"], "train/loss": row["loss"]})

    def log_epoch(self, row: Row) -> None:
        """Every validation metric."""
        metrics = {k: v for k, v in row.items() if k not in ("step", "epoch", "train_loss")}
        named = {f"validation/{key.removeprefix('validation_')}": v for key, v in metrics.items()}
        self._log({"step": row["step"], "epoch": row["epoch"], **named})

    def log_search(self, row: Row) -> None:
        """The allocation, as a table and as a heatmap of layers and roles."""
        if self._alive:
            with self._tolerant():
                self._run.log(_allocation(row))

    def close(self, run: Row) -> None:
        """The content of `run.json` as the summary, and the exit status."""
        if not self._alive:
            return
        with self._tolerant():
            self._run.summary.update(dict(run))
            self._run.finish(exit_code=0 if run["status"] == "finished" else 1)
        if self._alive:
            say_how_to_send(self._run, self._console)

    def _log(self, row: Row) -> None:
        if self._alive:
            with self._tolerant():
                self._run.log(dict(row))


def _begin(info: RunInfo, where: Row, tags: Sequence[str], mode: Literal["offline"] | None) -> Any:
    """Open the W&B run; None is its own choice of a mode."""
    what = (info.name, info.task, info.strategy, info.proxy or "none", f"seed-{info.seed}")
    return wandb.init(
        **where,
        dir=str(info.directory),
        id=_identifier(info.directory),
        name=info.directory.name,
        resume="allow",
        reinit="create_new",  # runs of a pack are open side by side
        mode=mode,
        job_type=info.directory.name.removesuffix(f"-s{info.seed}"),  # the arm
        tags=[*what, *tags],
        config=dict(info.config),
        settings=wandb.Settings(silent=True, console="off", disable_git=True, x_disable_stats=True),
    )


def _identifier(directory: Path) -> str:
    """The id by which W&B knows the run: of this record alone, and the same when it is resumed."""
    file = directory / WANDB_ID
    if not file.is_file():
        write_atomically(file, secrets.token_hex(4))
    return file.read_text()


def _allocation(row: Row) -> Row:
    table = wandb.Table(columns=["layer", "role", "score", "rank"])
    for name, score in row["scores"].items():
        site = Site.parse(name)
        table.add_data(site.layer, site.role, score, row["ranks"][name])
    return {
        "step": row["step"],
        "search/parameters": row["parameters"],
        "search/degenerate": int(row["degenerate"]),
        "search/tied": row["tied"],
        "search/seconds": row["seconds"],
        "search/allocation": table,
        "search/heatmap": wandb.Image(heatmap(row["scores"], row["ranks"])),
    }


def has_key() -> bool:
    """Whether W&B would let this machine upload."""
    return wandb.login(prompt=False, verify=False)


def mode() -> Literal["offline"] | None:
    """Offline where there is no API key; what WANDB_MODE says where it is set."""
    keyed = "WANDB_MODE" in os.environ or has_key()
    return None if keyed else "offline"


def say_how_to_send(run: wandb.Run, console: Console) -> None:
    """The command that sends a run which was kept offline."""
    if run.offline:
        console.print(
            f"W&B: kept offline; upload it with: wandb sync {run.settings.sync_dir}",
            soft_wrap=True,
            highlight=False,
            markup=False,
        )
