"""What a report is made of, before it is given a format."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

NOTHING = "-"


@dataclass(frozen=True, eq=False)
class Section:
    """A part of a report: a title, how to read it, and its content as text."""

    title: str
    explanation: str
    frame: pd.DataFrame

    @property
    def in_words(self) -> list[bool]:
        """Which columns hold words, which stand to the left, and not numbers."""
        named = ("task", "against", "row", "model")
        return [not index or name in named for index, name in enumerate(self.frame.columns)]


@dataclass(frozen=True, eq=False)
class Report:
    """Everything that is shown of a table.

    Attributes:
        title: its heading.
        caption: what it is about.
        sections: in the order of reading.
        notes: what must be known to believe it.
        numbers: the same as numbers, a row for each cell; None or NaN for what is not known.
    """

    title: str
    caption: str
    sections: Sequence[Section]
    notes: Sequence[str]
    numbers: pd.DataFrame


def section(title: str, explanation: str, rows: Sequence[Mapping[str, Any]]) -> Section:
    """A section of `rows`, which all have the same keys."""
    return Section(title, explanation, pd.DataFrame(rows).astype(str))


def text(value: float | None, style: str) -> str:
    """A number in a format such as `.1f`; a dash where there is none."""
    return NOTHING if pd.isna(value) else format(value, style)


def mean_std(mean: float | None, std: float | None) -> str:
    """`84.3 ± 1.0`, as the paper prints it."""
    return text(mean, ".1f") + ("" if pd.isna(std) else f" ± {std:.1f}")
