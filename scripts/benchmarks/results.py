"""Tables of what was measured, printed, drawn and written."""

import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import matplotlib as mpl
from rich.console import Console
from rich.table import Table as RichTable


@dataclass
class Row:
    """What one competitor gave.

    Attributes:
        name: of the competitor.
        values: one for each round.
        ratios: by another competitor's name, this one's values over that one's, round by round.
        facts: what else there is to say of it, by its name and unit.
    """

    name: str
    values: list[float]
    ratios: dict[str, list[float]] = field(default_factory=dict)
    facts: dict[str, float | str] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """As plain values."""
        ratios = {name: spread(values) for name, values in self.ratios.items()}
        return {"name": self.name, **spread(self.values), "ratios": ratios, "facts": self.facts}


@dataclass
class Table:
    """Competitors that took turns.

    Attributes:
        title: what they did, on what.
        unit: of the values.
        rows: one for each competitor.
        notes: sentences for below the table.
        facts: what was measured beside the competitors.
    """

    title: str
    unit: str
    rows: list[Row]
    notes: list[str] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """As plain values."""
        rows = [row.to_dict() for row in self.rows]
        return {
            "title": self.title,
            "unit": self.unit,
            "rows": rows,
            "notes": self.notes,
            "facts": self.facts,
        }

    @property
    def references(self) -> list[str]:
        """The competitors that others are compared with, in order."""
        named = {name for row in self.rows for name in row.ratios}
        return [row.name for row in self.rows if row.name in named]

    @property
    def fact_names(self) -> list[str]:
        """The names of the rows' facts, in order."""
        return list(dict.fromkeys(name for row in self.rows for name in row.facts))


def spread(values: Sequence[float]) -> dict[str, Any]:
    """Median, minimum, maximum and all."""
    return {
        "median": statistics.median(values),
        "min": min(values),
        "max": max(values),
        "rounds": list(values),
    }


def said(values: Sequence[float]) -> str:
    """Median and range, such as `3.1 (2.9-3.4)`."""
    return f"{short(statistics.median(values))} ({short(min(values))}-{short(max(values))})"


def short(value: float | str) -> str:
    """A number with three digits that count."""
    if isinstance(value, str):
        return value
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"


def divided(values: Sequence[float], others: Sequence[float]) -> list[float]:
    """Ratios, round by round."""
    return [one / other for one, other in zip(values, others, strict=True)]


def rows_of(measured: Mapping[str, Sequence[float]], references: Sequence[str]) -> list[Row]:
    """A row for each competitor, with its ratios to every reference that took part."""
    rows = []
    for name, values in measured.items():
        ratios = {
            other: divided(values, measured[other])
            for other in references
            if other in measured and other != name
        }
        rows.append(Row(name, list(values), ratios))
    return rows


def show(table: Table, console: Console) -> None:
    """Print a table."""
    shown = RichTable(title=table.title, title_justify="left")
    shown.add_column("")
    shown.add_column(f"{table.unit} (min-max)", justify="right")
    for name in table.references:
        shown.add_column(f"over {name}", justify="right")
    for name in table.fact_names:
        shown.add_column(name, justify="right")
    for row in table.rows:
        ratios = [said(row.ratios[n]) if n in row.ratios else "" for n in table.references]
        facts = [short(row.facts[n]) if n in row.facts else "" for n in table.fact_names]
        shown.add_row(row.name, said(row.values), *ratios, *facts)
    console.print(shown)
    for note in table.notes:
        console.print(note, highlight=False)
    console.print()


def draw(tables: Sequence[Table], file: Path) -> None:
    """Bars from zero to the medians, with lines from minimum to maximum; a panel for each table."""
    mpl.use("Agg")
    from matplotlib import pyplot as plt

    heights = [1.0 + 0.4 * len(table.rows) for table in tables]
    figure, panels = plt.subplots(
        len(tables),
        1,
        figsize=(9, sum(heights)),
        height_ratios=heights,
        squeeze=False,
        layout="constrained",
    )
    for table, panel in zip(tables, panels[:, 0], strict=True):
        spreads = [spread(row.values) for row in table.rows]
        medians = [one["median"] for one in spreads]
        below = [one["median"] - one["min"] for one in spreads]
        above = [one["max"] - one["median"] for one in spreads]
        names = [row.name for row in table.rows]
        panel.barh(names, medians, xerr=[below, above], height=0.6, capsize=3)
        panel.invert_yaxis()
        panel.set_title(table.title, loc="left", fontsize=10)
        panel.set_xlabel(table.unit)
    figure.savefig(file, dpi=120)
    plt.close(figure)


@dataclass
class Report:
    """What was measured so far; written anew after every table.

    Attributes:
        machine: it was measured on.
        name: of the files.
        folder: for the files.
        commands: for each command its tables, its seconds, or why it was skipped.
        tables: of all commands.
    """

    machine: dict[str, Any]
    name: str
    folder: Path
    commands: dict[str, dict[str, Any]] = field(default_factory=dict)
    tables: list[Table] = field(default_factory=list)

    def begin(self, command: str) -> None:
        """What is added from now on is of this command."""
        self.commands[command] = {"seconds": 0.0, "skipped": None, "tables": []}

    def add(self, command: str, table: Table) -> None:
        """Take in a table, and write all there is."""
        self.tables.append(table)
        self.commands[command]["tables"].append(table.to_dict())
        self.write()

    def end(self, command: str, seconds: float, skipped: str | None) -> None:
        """Note how long a command took, or why it was skipped, and write all there is."""
        self.commands[command] |= {"seconds": seconds, "skipped": skipped}
        self.write()

    def write(self) -> None:
        """Both files; a figure only if there is something to draw."""
        self.folder.mkdir(parents=True, exist_ok=True)
        content = {"machine": self.machine, "commands": self.commands}
        (self.folder / f"{self.name}.json").write_text(json.dumps(content, indent=2) + "\n")
        if self.tables:
            draw(self.tables, self.folder / f"{self.name}.png")
