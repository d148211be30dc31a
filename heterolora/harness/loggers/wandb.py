"""Weights & Biases: configuration, metrics, allocations and summary of a run."""

import os
import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import ValidationError
from rich.console import Console

from heterolora.errors import TrackingError, one_line, printable
from heterolora.files import write_atomically
from heterolora.harness.loggers.base import (
    Row,
    RunInfo,
    Tracker,
    epoch_scalars,
    search_scalars,
    step_scalars,
    warn,
)
from heterolora.settings import setting
from heterolora.sites import Site

if TYPE_CHECKING:
    import wandb

PATIENCE = 15
"""Seconds to wait for an answer from the server."""
ID = "wandb-id"
"""The file with the W&B run's ID: a resumed run continues it; one that starts over gets another."""


@dataclass(frozen=True)
class Wandb(Tracker):
    """One W&B run, named and identified by the run directory, so that it can be resumed.

    With `offline`, without an API key, or if the server cannot be reached, it is saved offline in
    the run directory, and the end of the run says how to upload it.
    """

    title: ClassVar[str] = "W&B"
    leaves: ClassVar[str] = ID

    project: str = setting("heterolora", help="W&B project")
    entity: str | None = setting(None, help="W&B user or team; null: the default for the API key")
    group: str | None = setting(None, help="W&B group of the runs; null: <name>/<task>")
    tags: tuple[str, ...] = setting((), help="W&B tags to add to the automatic ones", example="[a]")

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.project:
            raise ValueError(
                "project='': must not be empty; for example tracking.wandb.project=heterolora"
            )

    def open(self, info: RunInfo, console: Console) -> "WandbLogger":
        """Start the W&B run, or resume it.

        Raises:
            TrackingError: if W&B rejects it.
        """
        import wandb

        try:
            try:
                run = self._begin(info, mode())
            except wandb.errors.CommError as error:
                warn(console, "W&B cannot be reached, so this run is logged offline", error)
                wandb.teardown()  # its service still holds the run's name
                run = self._begin(info, "offline")
        except (wandb.errors.Error, ValueError) as error:
            reason = refusal(error) if isinstance(error, ValidationError) else one_line(error)
            raise TrackingError(
                f"tracking=wandb: W&B rejected this run ({reason}); correct that setting in "
                "tracking.wandb or the environment, run `wandb login`, or choose tracking=local"
            ) from error
        return WandbLogger(run, console)

    def abandon(self) -> None:
        """Stop W&B's service, which would otherwise fail loudly in the next run or at exit."""
        import wandb

        wandb.teardown()

    def _begin(self, info: RunInfo, mode: Literal["offline"] | None) -> "wandb.Run":
        """Open the W&B run; with mode None, W&B chooses the mode itself."""
        import wandb

        what = (info.name, info.task, info.strategy, info.proxy or "none", f"seed-{info.seed}")
        return wandb.init(
            project=self.project,
            entity=self.entity,
            group=self.group or f"{info.name}/{info.task}",
            dir=str(info.directory),
            id=_identifier(info.directory),
            name=info.directory.name,
            resume="allow",
            reinit="create_new",  # runs of a pack are open side by side
            mode=mode,
            job_type=info.arm,
            tags=[*what, *self.tags],
            config=dict(info.config),
            settings=wandb.Settings(
                silent=True,
                console="off",
                disable_git=True,
                x_disable_stats=True,
                init_timeout=float(os.environ.get("WANDB_INIT_TIMEOUT", PATIENCE)),
            ),
        )


class WandbLogger:
    """One W&B run that has been opened.

    Args:
        run: the run of W&B.
        console: where to say how to upload a run that was saved offline.
    """

    def __init__(self, run: "wandb.Run", console: Console) -> None:
        self._run = run
        self._console = console
        self._run.define_metric("*", step_metric="step")

    def log_step(self, row: Row) -> None:
        """Log the training loss."""
        self._run.log({"step": row["step"], "epoch": row["epoch"], **step_scalars(row)})

    def log_epoch(self, row: Row) -> None:
        """Log every validation metric."""
        self._run.log({"step": row["step"], "epoch": row["epoch"], **epoch_scalars(row)})

    def log_search(self, row: Row) -> None:
        """Log the allocation, as a table and as a heatmap of layers and roles."""
        self._run.log({"step": row["step"], **search_scalars(row), **_allocation(row)})

    def close(self, run: Row) -> None:
        """Log the content of `run.json` as the summary, and finish with the exit status."""
        self._run.summary.update(dict(run))
        self._run.finish(exit_code=0 if run["status"] == "finished" else 1)
        say_how_to_send(self._run, self._console)


def refusal(error: ValidationError) -> str:
    """Return W&B's message about the first of its settings that is wrong."""
    first = error.errors()[0]
    name = str(first["loc"][0]).removeprefix("run_")
    return f"{name}: {printable(one_line(ValueError(first['msg'].removeprefix('Value error, '))))}"


def _identifier(directory: Path) -> str:
    """Return the W&B run ID: unique to this record, and the same when the run is resumed."""
    file = directory / ID
    if not file.is_file():
        write_atomically(file, secrets.token_hex(4))
    return file.read_text()


def _allocation(row: Row) -> dict[str, Any]:
    import wandb

    from heterolora.drawing.heatmap import heatmap

    table = wandb.Table(columns=["layer", "role", "score", "rank"])
    for name, score in row["scores"].items():
        site = Site.parse(name)
        table.add_data(site.layer, site.role, score, row["ranks"][name])
    image = wandb.Image(heatmap(row["scores"], row["ranks"]))
    return {"search/allocation": table, "search/heatmap": image}


def has_key() -> bool:
    """Whether W&B would let this machine upload."""
    import wandb

    return wandb.login(prompt=False, verify=False)


def mode() -> Literal["offline"] | None:
    """Return `offline` if there is no API key; leave it to WANDB_MODE if that is set."""
    keyed = "WANDB_MODE" in os.environ or has_key()
    return None if keyed else "offline"


def say_how_to_send(run: "wandb.Run", console: Console) -> None:
    """Print the command that uploads a run saved offline."""
    if run.offline:
        console.print(
            f"W&B: saved offline; upload with: wandb sync {run.settings.sync_dir}",
            soft_wrap=True,
            highlight=False,
            markup=False,
        )
