"""The style of figures: one column of the paper, small text, colors that every eye tells apart."""

import re
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

WIDTH = 3.3
"""Width in inches: a column of the paper."""

STYLE: dict[Any, Any] = {
    "font.size": 7,
    "axes.titlesize": 7.5,
    "axes.labelsize": 7.5,
    "legend.fontsize": 7,
    "legend.frameon": False,
    "axes.linewidth": 0.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.major.width": 0.5,
    "ytick.major.width": 0.5,
    "xtick.major.size": 2,
    "ytick.major.size": 2,
    "hatch.linewidth": 0.4,
    "lines.linewidth": 1.2,
    "savefig.dpi": 300,
    # Reproducible files: IDs inside are derived from this rather than random.
    "svg.hashsalt": "heterolora",
}

ROLE_COLORS = {
    **{"q": "#0072B2", "k": "#332288", "v": "#009E73", "o": "#999933"},
    **{"gate": "#882255", "up": "#44AA99", "down": "#777777"},
    **{"res1": "#E69F00", "res2": "#D55E00", "in": "#000000", "cut": "#CC79A7"},
}

MIDDLE = 0.55
"""Luminance above which text on a color is black."""


def panel(title: str, height: float) -> tuple[Figure, Axes]:
    """Make a figure of one column's width with one pair of axes."""
    figure, (axes,) = panels(title, height, (1, 1))
    return figure, axes


def panels(title: str, height: float, shape: tuple[int, int]) -> tuple[Figure, list[Axes]]:
    """Make a figure of one column's width with a grid of axes, which share their scales."""
    figure = _figure(title, height)
    return figure, figure.subplots(*shape, sharex=True, sharey=True, squeeze=False).ravel().tolist()


def stack(title: str, heights: Sequence[float]) -> tuple[Figure, list[Axes]]:
    """Make a figure of one column's width with axes one below the other, each with its own scale.

    Args:
        title: the title of the figure.
        heights: the height of each in inches, with its labels.
    """
    figure = _figure(title, 0.3 + sum(heights))
    ratios = {"height_ratios": heights}
    return figure, figure.subplots(len(heights), squeeze=False, gridspec_kw=ratios).ravel().tolist()


def _figure(title: str, height: float) -> Figure:
    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    lines = [part for line in title.splitlines() for part in textwrap.wrap(line, 62)]
    figure.suptitle("\n".join(lines), fontsize=7.5)
    return figure


def legend_below(figure: Figure, rows: Sequence[Axes], columns: int) -> None:
    """Add one legend for all axes, where it hides no data."""
    named = {
        label: handle
        for axes in rows
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)
    }
    figure.legend(
        [*named.values()],
        [*named],
        loc="outside lower center",
        ncols=columns,
        handlelength=2.5,
        columnspacing=1,
    )


def slug(name: str) -> str:
    """Turn a name into a part of a file name.

    For example, `dynamic gradnorm, 5/epoch` becomes `dynamic-gradnorm-5-epoch`.
    """
    return re.sub(r"[^a-z0-9.+=_]+", "-", name.lower()).strip("-.")


def save(figure: Figure, stem: Path) -> list[Path]:
    """Write a figure as PNG and SVG; return the paths."""
    png, svg = (stem.with_name(f"{stem.name}.{suffix}") for suffix in ("png", "svg"))
    figure.savefig(png)
    figure.savefig(svg, metadata={"Date": None})
    return [png, svg]
