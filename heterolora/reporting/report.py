"""What a report is made of, before it is given a format."""

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd


@dataclass(frozen=True)
class Section:
    """A part of a report.

    Attributes:
        title: its heading.
        explanation: how to read it.
        frame: its content as text, a column for each column.
    """

    title: str
    explanation: str
    frame: pd.DataFrame


@dataclass(frozen=True)
class Report:
    """Everything that is shown of a table.

    Attributes:
        title: its heading.
        caption: what it is about.
        sections: in the order of reading.
        notes: what must be known to believe it.
        numbers: the same as numbers, a row for each cell.
    """

    title: str
    caption: str
    sections: Sequence[Section]
    notes: Sequence[str]
    numbers: pd.DataFrame


def section(title: str, explanation: str, rows: Sequence[dict[str, str]]) -> Section:
    """A section of `rows`, which all have the same keys."""
    return Section(title, explanation, pd.DataFrame(rows))
