"""The figures of one run: its curves, and how its budget was allocated."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from heterolora.drawing.grid import Grid, on_frequency
from heterolora.drawing.heatmap import SCORE_LABEL, draw_grid, mark_ranks

Row = Mapping[str, Any]


def run_figures(
    title: str, steps: Sequence[Row], epochs: Sequence[Row], searches: Sequence[Row]
) -> Iterator[tuple[str, Figure]]:
    """Yield the figures that the rows of a record allow, each with the name of its file.

    Args:
        title: a description of the run.
        steps: the logged steps.
        epochs: the epochs, with their validation metrics.
        searches: the searches, with the score and the rank of every site.
    """
    if epochs:
        yield "curves", curves(title, steps, epochs)
    if searches:
        yield "allocation", allocation(title, searches)


def curves(title: str, steps: Sequence[Row], epochs: Sequence[Row]) -> Figure:
    """Draw the training loss, the validation loss and each validation metric, by optimizer step."""
    apart = ("step", "epoch", "train_loss", "validation_loss", "event")
    metrics = [name for name in epochs[0] if name not in apart]
    figure = Figure(figsize=(8, 3.2), layout="constrained")
    figure.suptitle(title, fontsize=9)
    losses, measured = figure.subplots(1, 2)
    if steps:
        at = [row["step"] for row in steps]
        losses.plot(at, [row["loss"] for row in steps], color="0.6", label="training")
    at = [row["step"] for row in epochs]
    losses.plot(at, [row["validation_loss"] for row in epochs], "o-", label="validation")
    losses.set(xlabel="optimizer step", ylabel="loss")
    for name in metrics:
        measured.plot(at, [row[name] for row in epochs], "o-", label=name.replace("_", " "))
    measured.set(xlabel="optimizer step", ylabel="validation metric")
    for axes in (losses, measured):
        axes.legend(frameon=False)
        axes.spines[["top", "right"]].set_visible(False)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6, min_n_ticks=1))
    _widen(measured, 0.02)
    return figure


def _widen(axes: Axes, least: float) -> None:
    """Make the y axis cover at least `least`, so that nearly equal values look equal."""
    low, high = axes.get_ylim()
    missing = max(0.0, least - (high - low))
    axes.set_ylim(low - missing / 2, high + missing / 2)


def allocation(title: str, searches: Sequence[Row]) -> Figure:
    """Draw scores and ranks of the first and the last search and, between, how often sites are on.

    A single search has one panel.
    """
    first, last = searches[0], searches[-1]
    several = len(searches) > 1
    grid = Grid.of(first["scores"])
    panels = 3 if several else 1
    width, height = panels * (1.6 + 0.5 * len(grid.roles)), 1.5 + 0.28 * len(grid.layers)
    figure = Figure(figsize=(max(4.0, width), height), layout="constrained")
    figure.suptitle(title, fontsize=9)
    axes = figure.subplots(1, panels, squeeze=False).ravel().tolist()
    for here, search in ((axes[0], first), (axes[-1], last))[: 2 if several else 1]:
        image = draw_grid(here, Grid.of(search["scores"]))
        mark_ranks(here, Grid.of(search["ranks"]))
        here.set_title(f"scores at step {search['step']}", fontsize=8)
        figure.colorbar(image, ax=here, label=SCORE_LABEL)
    if several:
        shares = on_frequency([search["ranks"] for search in searches])
        image = draw_grid(axes[1], Grid.of(shares), cmap="viridis", vmin=0, vmax=1)
        axes[1].set_title(f"share of {len(searches)} searches", fontsize=8)
        figure.colorbar(image, ax=axes[1], label="on")
    return figure
