"""The content of a report, independent of its format."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from heterolora.harness.reporting.comparisons import Comparison

NOTHING = "-"


@dataclass(frozen=True, eq=False)
class Section:
    """A part of a report: a title, how to read it, and its content as text."""

    title: str
    explanation: str
    frame: pd.DataFrame

    @property
    def in_words(self) -> list[bool]:
        """For each column, whether it holds words, which are left-aligned, rather than numbers."""
        named = ("task", "against", "row", "model")
        return [not index or name in named for index, name in enumerate(self.frame.columns)]


@dataclass(frozen=True, eq=False)
class Report:
    """Everything that is shown for a table.

    Attributes:
        title: the heading.
        caption: what it is about.
        sections: the sections, in reading order.
        notes: what a reader must know to interpret it.
        numbers: the same content as numbers, a row per entry; None or NaN for what is not known.
        comparisons: the comparisons between its rows; none if it has no rows.
    """

    title: str
    caption: str
    sections: Sequence[Section]
    notes: Sequence[str]
    numbers: pd.DataFrame
    comparisons: Sequence[Comparison] = ()


def section(title: str, explanation: str, rows: Sequence[Mapping[str, Any]]) -> Section:
    """Make a section from `rows`, which all have the same keys."""
    return Section(title, explanation, pd.DataFrame(rows).astype(str))


def text(value: float | None, style: str) -> str:
    """Format a number, for example with `.1f`; a dash if there is none."""
    return NOTHING if pd.isna(value) else format(value, style)


def mean_std(mean: float | None, std: float | None) -> str:
    """Format as `84.3 ± 1.0`, as the paper prints it."""
    return text(mean, ".1f") + ("" if pd.isna(std) else f" ± {std:.1f}")
