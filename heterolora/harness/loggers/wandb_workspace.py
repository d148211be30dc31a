"""A W&B workspace that shows the accuracy of each arm, its allocations, and its cost.

It needs the optional extra `dashboard`, which installs wandb-workspaces.
"""

import wandb
import wandb_workspaces.reports.v2 as wr
import wandb_workspaces.workspaces as ws

from heterolora.errors import TrackingError, one_line
from heterolora.harness.loggers.wandb import has_key

ARM = wr.Metric("JobType")
"""`WandbLogger` sets the arm as the job type, and the experiment as the group."""


def workspace(entity: str, project: str, metric: str) -> ws.Workspace:
    """Define the workspace, without contacting W&B.

    Args:
        entity: the user or team that owns the project.
        project: as in `tracking.wandb.project`.
        metric: the validation metric of its tasks, such as `accuracy`.
    """
    return ws.Workspace(
        entity=entity,
        project=project,
        name=f"HeteroLoRA: {metric} by arm, allocations, cost",
        sections=[accuracy(metric), allocations(), cost()],
        settings=ws.WorkspaceSettings(x_axis="step"),
        runset_settings=ws.RunsetSettings(groupby=[ws.Metric("Group"), ws.Metric("JobType")]),
    )


def accuracy(metric: str) -> ws.Section:
    """Show the metric and the losses over training, and the best epoch, averaged over seeds."""
    best = _bars(f"best {metric}", f"best.{metric}")
    curves = [_lines(key) for key in (f"validation/{metric}", "validation/loss", "train/loss")]
    return ws.Section("Accuracy by arm", [best, *curves], is_open=True)


def allocations() -> ws.Section:
    """Show scores and ranks by layer and role at each search, and whether the scores decided it."""
    heatmaps = wr.MediaBrowser(
        title="scores, and ranks of the sites that are on",
        media_keys=["search/heatmap"],
        num_columns=3,
        gallery_axis="step",
    )
    decided = [_lines(key) for key in ("search/degenerate", "search/tied", "search/parameters")]
    return ws.Section("Allocations", [heatmaps, *decided], is_open=True)


def cost() -> ws.Section:
    """Show how a run spends its time, the time per search, and the memory."""
    spent = [
        _bars(f"seconds of {activity}", f"seconds.{activity}")
        for activity in ("training", "searching", "evaluating")
    ]
    memory = _bars("peak memory, bytes", "peak_memory_bytes")
    return ws.Section("Cost", [*spent, _lines("search/seconds"), memory], is_open=True)


def save(entity: str, project: str, metric: str) -> str:
    """Add the workspace to those of the project; return its URL.

    Raises:
        TrackingError: without an API key, or if W&B rejects it.
    """
    if not has_key():
        raise TrackingError(
            f"{entity}/{project}: W&B has no API key here, and a dashboard cannot be created "
            "offline; run `wandb login`"
        )
    try:
        return str(workspace(entity, project, metric).save().url)
    except wandb.errors.Error as error:
        raise TrackingError(
            f"{entity}/{project}: {one_line(error)}; check --entity and --project, and the key "
            "with `wandb login --relogin`"
        ) from error


def _lines(key: str) -> wr.LinePlot:
    """A line plot with one line per arm: its mean over seeds, and their range."""
    return wr.LinePlot(
        title=key,
        x="step",
        y=[key],
        groupby=ARM,
        groupby_aggfunc="mean",
        groupby_rangefunc="minmax",
    )


def _bars(title: str, key: str) -> wr.BarPlot:
    """A bar plot with one bar per arm: the mean over seeds of a number in `run.json`."""
    return wr.BarPlot(
        title=title,
        metrics=[wr.SummaryMetric(key)],
        groupby=ARM,
        groupby_aggfunc="mean",
        groupby_rangefunc="minmax",
    )
