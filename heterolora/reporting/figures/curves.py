"""What changes during training: the validation metric, and the scores."""

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from heterolora.reporting.arms import Arm
from heterolora.reporting.figures.style import legend_below, line_style, panel, role_style
from heterolora.reporting.load import Run
from heterolora.sites import ROLES, Site


def validation_curves(arms: Sequence[Arm], title: str) -> Figure:
    """The metric after each epoch: the mean over an arm's seeds, and the range that they span.

    Args:
        arms: of one task and model.
        title: above the picture.
    """
    figure, axes = panel(title, 2.2 + 0.13 * len(arms))
    for index, arm in enumerate(arms):
        epochs = [row["epoch"] for row in arm.runs[0].epochs]
        values = 100 * np.array([[row[run.metric] for row in run.epochs] for run in arm.runs])
        style, label = line_style(index), f"{arm.label} (n = {len(arm.runs)})"
        marker = "." if len(epochs) == 1 else None
        axes.plot(epochs, values.mean(axis=0), **style, label=label, marker=marker)
        if len(arm.runs) > 1:
            low, high = values.min(axis=0), values.max(axis=0)
            axes.fill_between(epochs, low, high, color=style["color"], alpha=0.15, linewidth=0)
    several = any(len(arm.runs) > 1 for arm in arms)
    metric = arms[0].runs[0].metric.replace("_", " ")
    axes.set(xlabel="epoch", ylabel=f"validation {metric} (%)")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    legend_below(figure, axes, columns=1)
    if several:
        axes.set_title("line: mean over n seeds; band: lowest to highest", fontsize=7)
    return figure


def score_trajectories(run: Run, title: str) -> Figure:
    """Each site's score at each search, faint, and the median of each role's sites, bold.

    The median lies amid its sites on a logarithmic axis too, which there is where all scores are
    positive.
    """
    steps = [search["step"] for search in run.searches]
    by_role: dict[str, list[list[float]]] = {}
    for site in run.searches[0]["scores"]:
        trajectory = [search["scores"][site] for search in run.searches]
        by_role.setdefault(Site.parse(site).role, []).append(trajectory)
    figure, axes = panel(title, 2.6)
    for role in sorted(by_role, key=ROLES.index):
        values, style = np.array(by_role[role]), role_style(role)
        axes.plot(steps, values.T, color=style["color"], alpha=0.2, linewidth=0.4)
        axes.plot(steps, np.median(values, axis=0), **style, label=role, zorder=3)
    if all(value > 0 for sites in by_role.values() for site in sites for value in site):
        axes.set_yscale("log")
    axes.set(xlabel="optimizer step of the search", ylabel=f"score ({run.setting('proxy.name')})")
    axes.set_title("thin: a site; thick: the median of a role's sites", fontsize=7)
    legend_below(figure, axes, columns=min(len(by_role), 6))
    return figure
