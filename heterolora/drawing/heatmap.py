"""A search as a picture, with layers as rows and roles as columns."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from numpy.typing import NDArray

from heterolora.drawing.grid import Grid

SCORE_LABEL = "score (numbers: ranks)"
"""The label of the color bar, where colors are scores and numbers are ranks."""


def heatmap(scores: Mapping[str, float], ranks: Mapping[str, int]) -> NDArray[np.uint8]:
    """Draw scores as colors, marking sites that are on with their rank; RGBA, (height, width, 4).

    Args:
        scores: the score of each site, as in `allocations.jsonl`.
        ranks: the rank of each site; 0 for a site that is off.
    """
    grid = Grid.of(scores)
    size = (1.5 + 0.6 * len(grid.roles), 1 + 0.3 * len(grid.layers))
    figure = Figure(figsize=size, layout="constrained")
    canvas = FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    image = draw_grid(axes, grid)
    mark_ranks(axes, Grid.of(ranks))
    figure.colorbar(image, ax=axes, label=SCORE_LABEL)
    canvas.draw()  # type: ignore[no-untyped-call]
    return np.asarray(canvas.buffer_rgba()).copy()  # type: ignore[no-untyped-call]


def mark_ranks(axes: Axes, ranks: Grid) -> None:
    """Write the rank of every site that is on into its cell."""
    for (row, column), rank in np.ndenumerate(ranks.values):
        if rank > 0:
            axes.text(
                column,
                row,
                f"{rank:.0f}",
                ha="center",
                va="center",
                color="white",
                bbox={"boxstyle": "round,pad=0.2", "color": "black", "alpha": 0.6},
            )


def draw_grid(axes: Axes, grid: Grid, **colors: Any) -> AxesImage:
    """Draw layers as rows and roles as columns; `colors` are arguments of `Axes.imshow`."""
    image = draw_cells(
        axes, grid.values, [str(layer) for layer in grid.layers], grid.roles, **colors
    )
    axes.set(xlabel="role", ylabel="layer")
    return image


def draw_cells(
    axes: Axes,
    values: NDArray[np.float64],
    rows: Sequence[str],
    columns: Sequence[str],
    **colors: Any,
) -> AxesImage:
    """Draw numbers as colored cells, hatched where there is none (NaN)."""
    axes.patch.set(facecolor="white", edgecolor="0.75", hatch="//////")
    # Without interpolation, a vector file contains the cells themselves, with sharp edges.
    image = axes.imshow(values, aspect="auto", interpolation="none", **colors)
    axes.set_xticks(range(len(columns)), columns)
    axes.set_yticks(range(len(rows)), rows)
    return image
