"""The paper's figures and more, drawn from the records of runs."""

import math
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from heterolora.drawing.grid import Grid, on_frequency
from heterolora.drawing.heatmap import draw_cells, draw_grid
from heterolora.harness.records.read import Run
from heterolora.harness.records.schema import CONTROL
from heterolora.harness.reporting.arms import Arm, arms, labels
from heterolora.harness.reporting.comparisons import Comparison
from heterolora.harness.reporting.figures import style
from heterolora.harness.reporting.figures.curves import (
    GRAY,
    Curve,
    by_subject,
    panels,
    proxy_colors,
)
from heterolora.harness.reporting.figures.forest import forest_plot
from heterolora.harness.reporting.figures.style import MIDDLE, ROLE_COLORS, STYLE
from heterolora.harness.reporting.frame import finished, matching
from heterolora.harness.reporting.layout import Frequency
from heterolora.harness.reporting.sites import agreement
from heterolora.harness.reporting.sites.standing import mean_standings, places
from heterolora.sites import LORA_ROLES, ROLES, Site

SHORT = 24
"""Maximum number of characters in a label if two labels are to stand side by side."""

FEW = 3
"""Maximum number of panels in one column; more panels stand in two columns."""


def draw(
    runs: pd.DataFrame,
    folder: Path,
    paper: Sequence[Frequency] = (),
    compared: Sequence[Comparison] = (),
) -> list[Path]:
    """Draw everything that the finished runs allow, as PNG and SVG.

    Args:
        runs: the frame of runs.
        folder: where the files are written.
        paper: the paper's frequencies by role, drawn beside those with the same settings.
        compared: the comparisons of a table of these runs.

    Returns:
        The paths of the files.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with rc_context(STYLE):
        return [
            path
            for name, figure in (
                *_forests(compared),
                *_figures(arms(runs), paper),
                *_standings(finished(runs)),
            )
            for path in style.save(figure, folder / style.slug(name))
        ]


def _forests(compared: Sequence[Comparison]) -> Iterator[tuple[str, Figure]]:
    shared = [one for one in compared if one.paired.n]
    if shared:
        yield "differences", forest_plot(shared, "Differences: mean, 95% interval and every seed")


def _figures(found: Sequence[Arm], paper: Sequence[Frequency]) -> Iterator[tuple[str, Figure]]:
    """Yield the figures, each with the name of its file."""
    colors = proxy_colors(arm.setting("proxy.name") for arm in found)
    for subject, arms_of_it in by_subject(found).items():
        yield f"validation {subject}", validation_curves(arms_of_it, subject, colors)
    for shared, group in agreement.by_proxy(found).items():
        yield f"agreement of proxies {shared}", proxy_matrix(group, shared)
    for arm in found:
        name, runs = arm.label, arm.searched
        for run in runs:
            of_run = f"{name}, seed {run.seed}"
            yield f"frequency {of_run}", frequency_map([run], of_run)
            decided = not all(search.degenerate for search in run.searches)
            if len(run.searches) > 1 and decided and arm.setting("proxy.name") != CONTROL:
                yield f"scores {of_run}", score_trajectories(run, of_run)
        if runs:
            color = colors.get(arm.setting("proxy.name"), GRAY)
            yield f"roles {name}", role_bars(runs, name, paper_frequency(arm, paper), color)
        if len(runs) > 1:
            yield f"frequency {name}", frequency_map(runs, f"{name}, mean of {len(runs)} seeds")
            yield f"agreement of seeds {name}", seed_matrix(arm, name)


# ---- what changes during training


def validation_curves(arms: Sequence[Arm], title: str, colors: Mapping[str, str]) -> Figure:
    """Draw the metric after each epoch: the mean over an arm's seeds, and their range.

    Each proxy has a color; arms without a proxy are gray references; see `curves.panels`. The
    points of an epoch stand side by side, so that ranges do not cover one another. The arms belong
    to one task and model.
    """
    parts = panels(arms, colors)
    curves = {curve.label: curve for part in parts for curve in part.curves}
    counts = sorted({curve.seeds for part in parts for curve in part.curves})
    over = " to ".join(str(count) for count in sorted({counts[0], counts[-1]}))
    across = 1 if len(parts) <= FEW else 2
    columns = 1 if max(map(len, curves)) > SHORT else 2
    down, lines = math.ceil(len(parts) / across), math.ceil(len(curves) / columns)
    figure, axes_of = style.panels(
        f"{title}\nmean over {over} seeds, lowest to highest",
        0.7 + (1.9 - 0.4 * across) * down + 0.14 * lines,
        (down, across),
    )
    for axes, part in zip(axes_of, parts, strict=False):
        for curve, shift in zip(part.curves, part.shifts, strict=True):
            _draw_curve(axes, curve, shift)
        axes.set_title(textwrap.fill(part.title, 52 // across), loc="left", fontsize=7)
    for axes in axes_of[len(parts) :]:
        axes.remove()
    for axes in axes_of[max(len(parts) - across, 0) : len(parts)]:
        axes.tick_params(labelbottom=True)
        axes.set_xlabel("epoch")
    axes_of[0].xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    figure.supylabel(f"validation {arms[0].runs[0].metric_in_words}", fontsize=7.5)
    style.legend_below(figure, axes_of[: len(parts)], columns)
    return figure


def _draw_curve(axes: Axes, curve: Curve, shift: float) -> None:
    places = np.add(curve.epochs, shift)
    look: dict[str, Any] = {"color": curve.color, "linewidth": curve.width}
    dashes = (0, tuple(curve.dashes)) if curve.dashes else "-"
    axes.plot(places, curve.mean, linestyle=dashes, label=curve.label, **look)
    axes.plot(places, curve.mean, ".", markersize=3, color=curve.color)
    if curve.reference:
        axes.fill_between(places, curve.low, curve.high, color=curve.color, alpha=0.15, lw=0)
    else:
        axes.vlines(places, curve.low, curve.high, color=curve.color, alpha=0.6, lw=0.6)


def score_trajectories(run: Run, title: str) -> Figure:
    """Draw each site's score at each search, faint, and the median over each role's sites, bold.

    The median lies amid its sites on a logarithmic axis too, which is used if all scores are
    positive.
    """
    steps = [search.step for search in run.searches]
    scores = pd.DataFrame([search.scores for search in run.searches])
    roles = scores.columns.map(lambda site: Site.parse(site).role)
    figure, axes = style.panel(title, 2.6)
    for role in sorted(set(roles), key=ROLES.index):
        of_role, color = scores.loc[:, roles == role], ROLE_COLORS[role]
        dashes = "-" if role in LORA_ROLES else "--"
        axes.plot(steps, of_role, color=color, alpha=0.2, linewidth=0.4)
        axes.plot(steps, of_role.median(axis=1), dashes, color=color, label=role, zorder=3)
    if (scores > 0).all(axis=None):
        axes.set_yscale("log")
    axes.set(xlabel="optimizer step of the search", ylabel=f"score ({run.setting('proxy.name')})")
    axes.set_title("thin: a site; thick: the median of a role's sites", fontsize=7)
    style.legend_below(figure, [axes], columns=4)
    return figure


# ---- how often each site is on (Figures 4 to 7)


def frequency_map(runs: Sequence[Run], title: str) -> Figure:
    """Draw how often each site is on, in percent of the searches, averaged over an arm's runs."""
    grid = Grid.of((100 * pd.DataFrame(map(_frequency, runs)).mean()).to_dict())
    figure, axes = style.panel(title, 1 + 0.115 * max(len(grid.layers), 8))
    image = draw_grid(axes, grid, cmap="viridis", vmin=0, vmax=100)
    figure.colorbar(image, ax=axes, label="on (% of searches)", pad=0.02)
    return figure


def role_bars(
    runs: Sequence[Run], title: str, paper: Mapping[str, float] | None, color: str
) -> Figure:
    """Draw the same by role: the mean over layers, then over seeds, with its standard deviation.

    The `paper`'s percentages are drawn beside them, if given.
    """
    percent = 100 * pd.DataFrame([Grid.of(_frequency(run)).role_means() for run in runs])
    several = len(runs) > 1
    width = 0.8 if paper is None else 0.4
    places = np.arange(len(percent.columns))
    figure, axes = style.panel(title, 2.0)
    axes.bar(
        places if paper is None else places - width / 2,
        percent.mean(),
        width,
        yerr=percent.std() if several else None,
        color=color,
        label=f"here, mean ± std of {len(runs)} seeds" if several else "here, one seed",
        error_kw={"elinewidth": 0.8, "capsize": 2},
    )
    if paper is not None:
        theirs = [paper[role] for role in percent.columns]
        axes.bar(places + width / 2, theirs, width, color=GRAY, label="paper (OPT-350M)")
    axes.set_xticks(places, percent.columns)
    axes.set(xlabel="role", ylabel="on (% of searches)", ylim=(0, 100))
    style.legend_below(figure, [axes], columns=2)
    return figure


def _frequency(run: Run) -> dict[str, float]:
    return on_frequency([search.ranks for search in run.searches])


def paper_frequency(arm: Arm, paper: Sequence[Frequency]) -> Mapping[str, float] | None:
    """Return the paper's frequencies by role if its Figure 4 shows the arm's search."""
    same = (panel.roles for panel in paper if matching(arm.frame, panel.where).all())
    return next(same, None)


# ---- the importance of each site, and its scores


def _standings(runs: pd.DataFrame) -> Iterator[tuple[str, Figure]]:
    for place, measured, costs in places(runs):
        yield f"importance {place}", standing_maps(measured, costs, f"Where sites rank: {place}")


def standing_maps(runs: Sequence[Run], costs: Mapping[str, float], title: str) -> Figure:
    """Draw how each site ranks by importance, and by the scores of each proxy; see `standing`."""
    means = mean_standings(runs, costs)
    across = min(FEW, len(means.columns))
    down = math.ceil(len(means.columns) / across)
    layers = len(Grid.of(means.iloc[:, 0].to_dict()).layers)
    over = f"mean over {len(runs)} seeds" if len(runs) > 1 else "one seed"
    figure, axes_of = style.panels(
        f"{title}\n{over}", 0.6 + (0.45 + 0.115 * max(layers, 8)) * down, (down, across)
    )
    for axes, (name, values) in zip(axes_of, means.items(), strict=False):
        image = draw_grid(axes, Grid.of(values.to_dict()), cmap="viridis", vmin=0, vmax=1)
        axes.set_title(str(name), fontsize=7)
        axes.label_outer()
    for axes in axes_of[len(means.columns) :]:
        axes.remove()
    figure.colorbar(image, ax=axes_of[: len(means.columns)], label="0 lowest, 1 highest", pad=0.02)
    return figure


# ---- agreement between seeds, and between proxies


def seed_matrix(arm: Arm, title: str) -> Figure:
    """Draw the Jaccard index of the sites on after the last search, for pairs of an arm's seeds."""
    seeds = [run.seed for run in arm.searched]
    last = arm.searched[0].searches[-1]
    on = sum(rank > 0 for rank in last.ranks.values())
    chance = agreement.jaccard_by_chance(len(last.ranks), on)
    values = _symmetric(seeds, agreement.jaccard_between(arm.runs))
    names = [f"seed {seed}" for seed in seeds]
    label = f"Jaccard of the sites on\n(by chance: {chance:.2f})"
    return _matrix(values, names, title, label, cmap="viridis", vmin=0)


def proxy_matrix(arms: Sequence[Arm], title: str) -> Figure:
    """Draw Spearman's correlation of first-search scores for pairs of proxies, mean over seeds."""
    pairs = {pair: values for pair, values in agreement.spearman_between(arms).items() if values}
    means = {pair: float(np.mean(values)) for pair, values in pairs.items()}
    values = _symmetric([arm.label for arm in arms], means)
    proxies = [
        {key: value for key, value in arm.settings.items() if key.startswith("proxy.")}
        for arm in arms
    ]
    names = [name.replace(", ", "\n") for name in labels(proxies)]
    counts = {len(values) for values in pairs.values()} or {0}
    seeds = " to ".join(str(count) for count in sorted({min(counts), max(counts)}))
    label = f"Spearman, first search\n(mean over {seeds} seeds)"
    return _matrix(values, names, title, label, cmap="PuOr", vmin=-1)


def _symmetric(keys: Sequence[Any], pairs: Mapping[tuple[Any, Any], float]) -> NDArray[np.float64]:
    """Return a symmetric matrix with 1 on the diagonal, and NaN for pairs without a number."""
    values = np.eye(len(keys))
    for (row, first), (column, second) in combinations(enumerate(keys), 2):
        values[row, column] = values[column, row] = pairs.get((first, second), np.nan)
    return values


def _matrix(
    values: NDArray[np.float64], names: Sequence[str], title: str, label: str, **colors: Any
) -> Figure:
    figure, axes = style.panel(title, 1 + 0.4 * max(len(names), 3))
    image = draw_cells(axes, values, names, names, vmax=1, **colors)
    axes.tick_params(axis="x", rotation=35)
    for tick in axes.get_xticklabels():
        tick.set(ha="right", rotation_mode="anchor")
    for (row, column), value in np.ndenumerate(values):
        if not np.isnan(value):
            red, green, blue, _ = image.to_rgba(np.array([value]))[0]
            light = 0.299 * red + 0.587 * green + 0.114 * blue > MIDDLE
            color = "black" if light else "white"
            axes.text(column, row, f"{value:.2f}", ha="center", va="center", color=color)
    figure.colorbar(image, ax=axes, label=label, pad=0.02)
    return figure
