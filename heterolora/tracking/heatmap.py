"""One search as a picture: layers down, roles across."""

from collections.abc import Mapping

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray

from heterolora.sites import ROLES


def heatmap(scores: Mapping[str, float], ranks: Mapping[str, int]) -> NDArray[np.uint8]:
    """Scores as colours, the sites that are on marked with their rank; RGBA, (height, width, 4).

    Args:
        scores: by site, as in `allocations.jsonl`.
        ranks: by site; 0 for a site that is off.
    """
    sites = [(int(site.split(".")[1]), site.split(".")[2], site) for site in scores]
    layers = sorted({layer for layer, _, _ in sites})
    roles = sorted({role for _, role, _ in sites}, key=ROLES.index)
    grid = np.full((len(layers), len(roles)), np.nan)
    figure = Figure(figsize=(1.5 + 0.6 * len(roles), 1 + 0.3 * len(layers)), layout="constrained")
    canvas = FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for layer, role, site in sites:
        row, column = layers.index(layer), roles.index(role)
        grid[row, column] = scores[site]
        if ranks[site]:
            axes.text(
                column,
                row,
                str(ranks[site]),
                ha="center",
                va="center",
                color="white",
                bbox={"boxstyle": "round,pad=0.2", "color": "black", "alpha": 0.6},
            )
    image = axes.imshow(grid, aspect="auto", cmap="viridis")
    axes.set_xticks(range(len(roles)), roles)
    axes.set_yticks(range(len(layers)), [str(layer) for layer in layers])
    axes.set(xlabel="role", ylabel="layer")
    figure.colorbar(image, ax=axes, label="score (number: rank of a site that is on)")
    canvas.draw()  # type: ignore[no-untyped-call]
    return np.asarray(canvas.buffer_rgba()).copy()  # type: ignore[no-untyped-call]
