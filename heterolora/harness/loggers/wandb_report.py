"""Weights & Biases: a finished report, with its tables and figures, as one run."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import wandb
from rich.console import Console

from heterolora.errors import TrackingError, one_line
from heterolora.harness.loggers.base import Row
from heterolora.harness.loggers.wandb import mode, say_how_to_send


def log_report(
    title: str,
    tables: Mapping[str, Sequence[Row]],
    figures: Sequence[Path],
    folder: Path,
    tracking: Row,
    console: Console,
) -> None:
    """Log a report as a run of job type `report`; without an API key it is saved in `folder`.

    Args:
        title: the name of the run.
        tables: the tables by name; the rows of one table all have the same keys.
        figures: the figure files; those other than PNG are left out.
        folder: the folder of the reported runs.
        tracking: `project`, `entity` and `group`, as in `tracking.wandb` of the reported runs.
        console: where to say how to upload a report that was saved offline.

    Raises:
        TrackingError: if W&B rejects it.
    """
    try:
        run = wandb.init(
            project=tracking["project"],
            entity=tracking["entity"],
            group=tracking["group"],
            dir=str(folder),
            name=title,
            job_type="report",
            mode=mode(),
            settings=wandb.Settings(
                silent=True, console="off", disable_git=True, x_disable_stats=True
            ),
        )
        for name, rows in tables.items():
            columns = list(rows[0])
            data = [[row[column] for column in columns] for row in rows]
            key = re.sub(r"\W+", "-", name)
            run.log({f"tables/{key}": wandb.Table(columns, data, allow_mixed_types=True)})
        for figure in figures:
            if figure.suffix == ".png":
                run.log({f"figures/{figure.stem}": wandb.Image(str(figure))})
        run.finish()
    except wandb.errors.Error as error:
        raise TrackingError(
            f"--wandb: {one_line(error)}; run `wandb login`, or set WANDB_MODE=offline"
        ) from error
    say_how_to_send(run, console)
