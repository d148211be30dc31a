"""How figures look: one column of the paper, small text, colours that every eye tells apart."""

import re
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from heterolora.sites import LORA_ROLES, ROLES

WIDTH = 3.3
"""Inches: a column of the paper."""

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
    # The same picture is the same file: names inside it are drawn from this and not by chance.
    "svg.hashsalt": "heterolora",
}

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#000000", "#56B4E9", "#E69F00")
"""Okabe and Ito's, but for the yellow, which a thin line on white hides."""

DASHES = ("-", "--", ":", "-.")

MIDDLE = 0.55
"""Luminance above which text on a colour is black."""


def panel(title: str, height: float) -> tuple[Figure, Axes]:
    """A figure of one column's width with one pair of axes."""
    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    figure.suptitle("\n".join(textwrap.wrap(title, 62)), fontsize=7.5)
    return figure, figure.add_subplot()


def line_style(index: int) -> dict[str, Any]:
    """The look of the line number `index` of many: colours first, then dashes."""
    return {
        "color": COLOURS[index % len(COLOURS)],
        "linestyle": DASHES[index // len(COLOURS) % len(DASHES)],
    }


def role_style(role: str) -> dict[str, Any]:
    """The look of a role, the same in every figure: LoRA in full lines, shortcuts dashed."""
    kind = LORA_ROLES if role in LORA_ROLES else [r for r in ROLES if r not in LORA_ROLES]
    return {
        "color": COLOURS[kind.index(role)],
        "linestyle": "-" if role in LORA_ROLES else "--",
    }


def legend_below(figure: Figure, axes: Axes, columns: int) -> None:
    """The legend, where it hides no data."""
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=columns)


def text_colour(colour: Sequence[float]) -> str:
    """Black or white, whichever is read on `colour` (red, green, blue from 0 to 1)."""
    red, green, blue = colour[:3]
    return "black" if 0.299 * red + 0.587 * green + 0.114 * blue > MIDDLE else "white"


def slug(name: str) -> str:
    """A name as part of a file's: `dynamic gradnorm, 5/epoch` is `dynamic-gradnorm-5-epoch`."""
    return re.sub(r"[^a-z0-9.+=_]+", "-", name.lower()).strip("-.")


def save(figure: Figure, stem: Path) -> list[Path]:
    """Write a figure as PNG and SVG; returns the paths."""
    paths = [stem.with_name(f"{stem.name}.{suffix}") for suffix in ("png", "svg")]
    for path in paths:
        undated = {"Date": None} if path.suffix == ".svg" else {}
        figure.savefig(path, metadata=undated)
    return paths
