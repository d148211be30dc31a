"""The cells of a table, and what each is compared with."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import pandas as pd

from heterolora.reporting.arms import CONTROL, Arm
from heterolora.reporting.frame import finished, matching, mixed, traits
from heterolora.reporting.layout import Entry, Number, Table, Where
from heterolora.reporting.report import NOTHING
from heterolora.reporting.statistics import Paired, holm, paired, seeds_needed

OF_ROWS = (
    *("strategy.", "proxy.", "selection.", "rank_budget."),
    *("search_space.projections", "search_space.shortcuts", "search_space.pool"),
)
"""Settings in which rows differ on purpose: what their keys begin with."""


@dataclass(frozen=True, eq=False)
class Cell(Arm):
    """The finished runs of one entry of a table, on one model and task.

    Attributes:
        entry: its place in the table.
        model: their model.
        task: their task.
        published: the paper's number, where it has one for this model and task.
        missing: the seeds that other cells have and this one has not.
    """

    entry: Entry
    model: str
    task: str
    published: Number | None
    missing: tuple[int, ...]

    @property
    def scored(self) -> bool:
        """Whether a proxy chose its sites."""
        return self.entry.where.get("proxy.name") not in (None, CONTROL)

    @cached_property
    def searches(self) -> pd.DataFrame:
        """A row for each search of its runs: `degenerate`, and `tied` by some scores alone."""
        rows = [
            (search.degenerate, bool(search.tied) and not search.degenerate)
            for run in self.runs
            for search in run.searches
        ]
        return pd.DataFrame(rows, columns=["degenerate", "tied"], dtype=bool)

    def of_searches(self, kind: str) -> str:
        """`3 of 25`."""
        return (
            f"{self.searches[kind].sum()} of {len(self.searches)}"
            if len(self.searches)
            else NOTHING
        )

    @cached_property
    def flags(self) -> list[str]:
        """What makes its runs unequal, in words; nothing where they are alike."""
        said = []
        for key, values in mixed(self.frame).items():
            parts = [f"{value} (seed {listed(seeds)})" for value, seeds in values.items()]
            said.append(f"mixed {key}: {'; '.join(parts)}")
        counts = self.frame["seed"].value_counts().sort_index()
        for seed, count in counts[counts > 1].items():
            said.append(f"seed {seed} has {count} runs; their mean is counted once")
        return said


@dataclass(frozen=True, eq=False)
class Comparison:
    """One cell against another of the same model and task, over the seeds that both have.

    Attributes:
        cell: the one.
        other: the other.
        role: `baseline`, of equal budget, or what the table calls a control.
        paired: the statistics.
        size: the difference that the paper's numbers show, in points.
        seeds_needed: how many would see a difference of that size; None where that is not known.
        p_holm: p corrected over the whole table.
    """

    cell: Cell
    other: Cell
    role: str
    paired: Paired
    size: float
    seeds_needed: int | None
    p_holm: float | None = None


def runs_of(table: Table, runs: pd.DataFrame) -> pd.DataFrame:
    """The runs that `table` is made of.

    They are those of its own experiment, or of all where there are none of it, as after a sweep
    that was written by hand; and borrowed ones for the entries that these do not fill.
    """
    if table.report != "rows" or runs.empty:
        return runs
    names = runs["name"].astype(str).str.partition("/")[0]
    own = runs[names == table.name]
    own = runs if own.empty else own
    others = runs[names.isin(table.borrows) & ~runs.index.isin(own.index)]
    unfilled = [
        entry.where for entry in table.entries.values() if not matching(own, entry.where).any()
    ]
    return pd.concat([own, others[_matching_any(others, unfilled)]])


def known(table: Table, runs: pd.DataFrame) -> pd.Series:
    """Which runs belong to an entry of the table."""
    return _matching_any(runs, [entry.where for entry in table.entries.values()])


def _matching_any(runs: pd.DataFrame, conditions: Sequence[Where]) -> pd.Series:
    found = pd.Series(False, index=runs.index)
    for where in conditions:
        found |= matching(runs, where)
    return found


def cells_of(table: Table, runs: pd.DataFrame) -> list[Cell]:
    """A cell for each entry of `table` that is shown, on every model and task that has runs.

    Args:
        table: the table.
        runs: its runs, finished or not.
    """
    runs = runs[known(table, runs)]
    entries = entries_shown(table, runs)
    seeds = sorted(set(runs["seed"]))
    places = set(zip(runs["model.name"], runs["task.name"], strict=True))
    cells = []
    for model, task in sorted(places, key=lambda at: (at[0], [*table.tasks, at[1]].index(at[1]))):
        here = finished(runs[matching(runs, {"model.name": model, "task.name": task})])
        for entry in entries:
            own = here[matching(here, entry.where)].sort_values("seed", kind="stable")
            missing = tuple(seed for seed in seeds if seed not in set(own["seed"]))
            number = table.number(entry.label, model, task)
            cells.append(Cell(entry.label, own, entry, model, task, number, missing))
    return cells


def entries_shown(table: Table, runs: pd.DataFrame) -> list[Entry]:
    """The entries of `table`, less the optional ones whose row or column has no runs at all."""
    found = [entry for entry in table.entries.values() if matching(runs, entry.where).any()]
    rows, columns = {entry.row for entry in found}, {entry.column for entry in found}
    return [
        entry
        for entry in table.entries.values()
        if not entry.optional or (entry.row in rows and entry.column in columns)
    ]


def compare(table: Table, cells: Sequence[Cell]) -> list[Comparison]:
    """Every comparison of `table`, its p values corrected together."""
    by_label = {(cell.model, cell.task, cell.label): cell for cell in cells}
    found = [
        _comparison(table, cell, other, role)
        for cell in cells
        if cell.runs
        for role, label in cell.entry.against.items()
        if (other := by_label.get((cell.model, cell.task, label)))
    ]
    tested = [index for index, one in enumerate(found) if one.paired.p is not None]
    corrected = holm([one.paired.p for one in found if one.paired.p is not None])
    for index, p in zip(tested, corrected, strict=True):
        found[index] = replace(found[index], p_holm=p)
    return found


def _comparison(table: Table, cell: Cell, other: Cell, role: str) -> Comparison:
    """The size is the difference of the two printed means; without these, `table.effect`."""
    result, size = paired(cell.by_seed(), other.by_seed()), table.effect
    one, two = cell.published, other.published
    if one and two and one.printed is not None and two.printed is not None:
        size = round(abs(one.printed - two.printed), 1) or table.effect
    return Comparison(cell, other, role, result, size, seeds_needed(size, result.std))


def unequal_rows(cells: Sequence[Cell], tuned: str | None) -> Iterator[str]:
    """What differs between rows of one model and task, beside what makes them rows.

    Args:
        cells: those of one model and task.
        tuned: a key that may differ because it was chosen for each row.
    """
    parts = []
    for cell in cells:
        if cell.runs:
            own = traits(cell.frame).drop(columns=[*mixed(cell.frame), tuned], errors="ignore")
            parts.append(own.assign(row=cell.label))
    values = pd.concat(parts) if parts else pd.DataFrame({"row": []})
    for key in values.columns.drop("row"):
        rows = values.dropna(subset=key).groupby(key, sort=False)["row"].unique()
        if len(rows) > 1 and not key.startswith(OF_ROWS):
            *few, most = rows.map(len).sort_values(kind="stable").index
            said = [f"{value} in {'; '.join(rows[value])}" for value in few]
            yield f"rows differ in {key}: {', '.join(said)}, {most} in the others"


def place(cell: Cell, cells: Sequence[Cell]) -> str:
    """The cell's task; with its model where `cells` have several."""
    many = len({other.model for other in cells}) > 1
    return f"{cell.task}, {cell.model.split('/')[-1]}" if many else cell.task


def placed(cell: Cell, cells: Sequence[Cell]) -> dict[str, str]:
    """A column for the cell's place, where `cells` have several."""
    places = {place(other, cells) for other in cells}
    return {"task": place(cell, cells)} if len(places) > 1 else {}


def listed(numbers: Sequence[int]) -> str:
    """`0, 13, 42`."""
    return ", ".join(map(str, numbers))
