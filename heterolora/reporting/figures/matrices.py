"""Agreement as matrices: between seeds, and between proxies."""

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from heterolora.loggers.heatmap import draw_cells
from heterolora.reporting.agreement import (
    jaccard_between,
    jaccard_by_chance,
    on_sites,
    spearman_between,
)
from heterolora.reporting.arms import Arm, labels
from heterolora.reporting.figures.style import panel, text_colour


def seed_matrix(arm: Arm, title: str) -> Figure:
    """Jaccard of what is on after the last search, for each two seeds of an arm."""
    seeds = [run.seed for run in arm.searched]
    last = arm.searched[0].searches[-1]
    chance = jaccard_by_chance(len(last.ranks), len(on_sites(last)))
    values = _symmetric(seeds, jaccard_between(arm.runs))
    names = [f"seed {seed}" for seed in seeds]
    label = f"Jaccard of the sites on\n(by chance: {chance:.2f})"
    return _matrix(values, names, title, label, cmap="viridis", vmin=0)


def proxy_matrix(arms: Sequence[Arm], title: str) -> Figure:
    """Spearman's correlation of the first search's scores, for each two proxies; seeds averaged.

    Args:
        arms: that differ in nothing but the proxy.
        title: above the picture.
    """
    pairs = spearman_between(arms)
    means = {pair: float(np.mean(values)) for pair, values in pairs.items() if values}
    values = _symmetric([arm.label for arm in arms], means)
    proxies = [
        {key: value for key, value in arm.settings.items() if key.startswith("proxy.")}
        for arm in arms
    ]
    names = [name.replace(", ", "\n") for name in labels(proxies)]
    counts = sorted({len(values) for values in pairs.values() if values})
    label = f"Spearman, first search\n(mean over {_range(counts)} seeds)"
    return _matrix(values, names, title, label, cmap="PuOr", vmin=-1)


def _symmetric(keys: Sequence[Any], pairs: Mapping[tuple[Any, Any], float]) -> NDArray[np.float64]:
    """1 on the diagonal, and NaN where a pair has no number."""
    values = np.eye(len(keys))
    for (row, first), (column, second) in combinations(enumerate(keys), 2):
        values[row, column] = values[column, row] = pairs.get((first, second), np.nan)
    return values


def _range(counts: Sequence[int]) -> str:
    return " to ".join(str(count) for count in dict.fromkeys([*counts[:1], *counts[-1:]])) or "0"


def _matrix(
    values: NDArray[np.float64],
    names: Sequence[str],
    title: str,
    label: str,
    cmap: str,
    vmin: float,
) -> Figure:
    figure, axes = panel(title, 1 + 0.4 * max(len(names), 3))
    image = draw_cells(axes, values, names, names, cmap=cmap, vmin=vmin, vmax=1)
    axes.tick_params(axis="x", rotation=35)
    for tick in axes.get_xticklabels():
        tick.set(ha="right", rotation_mode="anchor")
    for (row, column), value in np.ndenumerate(values):
        if not np.isnan(value):
            colour = text_colour(image.to_rgba(np.array([value]))[0])
            axes.text(column, row, f"{value:.2f}", ha="center", va="center", color=colour)
    figure.colorbar(image, ax=axes, label=label, pad=0.02)
    return figure
