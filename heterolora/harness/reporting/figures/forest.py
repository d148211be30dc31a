"""A forest plot of a table's comparisons: what each row gains, seed by seed and on average."""

import textwrap
from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from heterolora.harness.reporting.comparisons import Comparison
from heterolora.harness.reporting.figures import style
from heterolora.harness.reporting.figures.curves import GRAY

LINE = 0.13
"""Height in inches of a line of text, and of a comparison below its name."""

AROUND = 0.5
"""Height in inches of what is above and below the comparisons of a task."""

LETTERS = 64
"""Maximum number of characters in a line of a name."""


def forest_plot(found: Sequence[Comparison], title: str) -> Figure:
    """Draw comparisons: a faint point per seed, the mean, and its 95 % t interval.

    Those of one task and model stand together, on a scale of their own, under its name if there
    are several.

    Args:
        found: the comparisons, each with one seed or more.
        title: the title of the figure.
    """
    lines_of: dict[str, list[str | Comparison]] = {}
    for one in found:
        name = f"{one.entry.label} vs. {one.other.label}"
        lines_of.setdefault(one.entry.place, []).extend([*textwrap.wrap(name, LETTERS), one])
    heights = [AROUND + LINE * len(lines) for lines in lines_of.values()]
    figure, stacked = style.stack(title, heights)
    for axes, (place, lines) in zip(stacked, lines_of.items(), strict=True):
        if len(lines_of) > 1:
            axes.set_title(place, loc="left", weight="bold")
        _fill(axes, lines)
    return figure


def _fill(axes: Axes, lines: Sequence[str | Comparison]) -> None:
    axes.axvline(0, color=GRAY, linewidth=0.6)
    axes.set(ylim=(len(lines), -0.8), yticks=[])
    axes.spines["left"].set_visible(False)
    for height, line in enumerate(lines):
        if isinstance(line, Comparison):
            _draw(axes, height, line)
            better = "right" if line.entry.runs[0].higher_is_better else "left"
            axes.set_xlabel(f"difference in points ({better} is better)")
        else:
            _write(axes, height, line)


def _write(axes: Axes, height: int, line: str) -> None:
    across = axes.get_yaxis_transform()
    around = {"facecolor": "white", "linewidth": 0, "pad": 1}  # over the line at 0
    axes.text(0, height + 0.1, line, transform=across, va="center", bbox=around)


def _draw(axes: Axes, height: int, one: Comparison) -> None:
    differences = one.paired.differences
    axes.plot(differences, [height] * len(differences), ".", color=GRAY, alpha=0.5, markersize=4)
    if one.paired.interval is not None:
        axes.hlines(height, *one.paired.interval, color="black", linewidth=1)
    if (mean := one.paired.difference) is not None:
        axes.plot(mean, height, "D", color="black", markersize=3)
