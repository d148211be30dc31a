"""A forest plot of a table's comparisons: what each row gains, seed by seed and on average."""

import textwrap
from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from heterolora.reporting import style
from heterolora.reporting.cells import Comparison
from heterolora.reporting.curves import GRAY

LINE = 0.13
"""Height in inches of a line of text, and of a comparison below its name."""

LETTERS = 64
"""Maximum number of characters in a line of a name."""


def forest_plot(found: Sequence[Comparison], title: str) -> Figure:
    """Draw comparisons: a faint point per seed, the mean, and its 95 % t interval.

    Those of one task and model stand together, under its name if there are several.

    Args:
        found: the comparisons, each with one seed or more.
        title: the title of the figure.
    """
    places = list(dict.fromkeys(one.cell.place for one in found))
    lines: list[str | Comparison] = []
    for place in places:
        lines += [place] if len(places) > 1 else []
        for one in found:
            if one.cell.place == place:
                name = f"{one.cell.label} vs. {one.other.label}"
                lines += [*textwrap.wrap(name, LETTERS), one]
    figure, axes = style.panel(title, 0.75 + LINE * len(lines))
    axes.axvline(0, color=GRAY, linewidth=0.6)
    axes.set(ylim=(len(lines), -0.8), yticks=[])
    axes.spines["left"].set_visible(False)
    for height, line in enumerate(lines):
        if isinstance(line, Comparison):
            _draw(axes, height, line)
        else:
            _write(axes, height, line, "bold" if line in places else "normal")
    better = "right" if found[0].cell.runs[0].higher_is_better else "left"
    axes.set_xlabel(f"difference in points ({better} is better)")
    return figure


def _write(axes: Axes, height: int, line: str, weight: str) -> None:
    across = axes.get_yaxis_transform()
    around = {"facecolor": "white", "linewidth": 0, "pad": 1}  # over the line at 0
    axes.text(0, height + 0.1, line, transform=across, va="center", weight=weight, bbox=around)


def _draw(axes: Axes, height: int, one: Comparison) -> None:
    differences = one.paired.differences
    axes.plot(differences, [height] * len(differences), ".", color=GRAY, alpha=0.5, markersize=4)
    if one.paired.interval is not None:
        axes.hlines(height, *one.paired.interval, color="black", linewidth=1)
    if (mean := one.paired.difference) is not None:
        axes.plot(mean, height, "D", color="black", markersize=3)
