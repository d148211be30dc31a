"""What changes during training: the validation metric, and the scores."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from heterolora.records.read import Run
from heterolora.reporting.arms import Arm
from heterolora.reporting.figures.style import COLOURS, legend_below, panel, panels, role_style
from heterolora.sites import ROLES, Site


def validation_curves(arms: Sequence[Arm], title: str) -> Figure:
    """The metric after each epoch: the mean over an arm's seeds, and the range that they span.

    Args:
        arms: of one task and model; a few share a pair of axes.
        title: above the picture.
    """
    parts = [arms[start : start + len(COLOURS)] for start in range(0, len(arms), len(COLOURS))]
    height = 0.6 + 1.4 * len(parts) + 0.14 * len(arms)
    figure, rows = panels(f"{title}\nmean over n seeds, lowest to highest", height, len(parts))
    for axes, part in zip(rows, parts, strict=True):
        for arm, colour in zip(part, COLOURS, strict=False):
            _draw_curve(axes, arm, colour)
        axes.legend(loc="lower left", bbox_to_anchor=(0, 1), borderaxespad=0)
    metric = arms[0].runs[0].metric.replace("_", " ")
    figure.supylabel(f"validation {metric} (%)", fontsize=7.5)
    rows[-1].set_xlabel("epoch")
    rows[-1].xaxis.set_major_locator(MaxNLocator(integer=True))
    return figure


def _draw_curve(axes: Axes, arm: Arm, colour: str) -> None:
    epochs = [row.epoch for row in arm.runs[0].epochs]
    values = 100 * np.array([[row.metrics[run.metric] for row in run.epochs] for run in arm.runs])
    label = f"{arm.label} (n = {len(arm.runs)})"
    axes.plot(epochs, values.mean(axis=0), color=colour, marker=".", markersize=3, label=label)
    low, high = values.min(axis=0), values.max(axis=0)
    axes.fill_between(epochs, low, high, color=colour, alpha=0.15, linewidth=0)


def score_trajectories(run: Run, title: str) -> Figure:
    """Each site's score at each search, faint, and the median of each role's sites, bold.

    The median lies amid its sites on a logarithmic axis too, which there is where all scores are
    positive.
    """
    steps = [search.step for search in run.searches]
    by_role: dict[str, list[list[float]]] = {}
    for site in run.searches[0].scores:
        trajectory = [search.scores[site] for search in run.searches]
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
    legend_below(figure, axes, columns=4)
    return figure
