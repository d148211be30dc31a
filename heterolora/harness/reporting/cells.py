"""The cells of a table, and the comparisons between them."""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import pandas as pd

from heterolora.harness.reporting.arms import Arm
from heterolora.harness.reporting.frame import finished, matching, mixed, traits
from heterolora.harness.reporting.layout import Entry, Number, Table
from heterolora.harness.reporting.report import NOTHING
from heterolora.harness.reporting.statistics import Paired, holm, paired, seeds_needed

OF_ROWS = (
    *("strategy.", "proxy.", "selection.", "rank_budget."),
    *("search_space.projections", "search_space.shortcuts", "search_space.pool"),
)
"""Prefixes of the settings in which rows differ on purpose."""

EFFECT = 0.6
"""In points: the largest gain of a searched row in the paper's Table 4 (MRPC, r = 2)."""


@dataclass(frozen=True, eq=False)
class Cell(Arm):
    """The finished runs of one entry of a table, for one model and task.

    Attributes:
        entry: the entry of the table.
        model: the model of the runs.
        task: the task of the runs.
        place: the task; with the model if the table has several models of it.
        names: the first columns of its line in a section: the row, and the place if there are
            several.
        published: the paper's number, if there is one for this model and task.
        missing: the seeds that other cells have and this one lacks; of the table's own seeds, if it
            names any.
    """

    entry: Entry
    model: str
    task: str
    place: str
    names: Mapping[str, str]
    published: Number | None
    missing: tuple[int, ...]

    @cached_property
    def searches(self) -> pd.DataFrame:
        """A row for each search of its runs: `degenerate`, and `tied` by some scores only."""
        rows = [
            (search.degenerate, bool(search.tied) and not search.degenerate)
            for run in self.runs
            for search in run.searches
        ]
        return pd.DataFrame(rows, columns=["degenerate", "tied"], dtype=bool)

    def of_searches(self, kind: str) -> str:
        """Return a count such as `3 of 25`."""
        searches = self.searches[kind]
        return f"{searches.sum()} of {len(searches)}" if len(searches) else NOTHING

    @cached_property
    def flags(self) -> list[str]:
        """Differences between its runs, in words; empty if they are alike."""
        said = []
        for key, values in mixed(self.frame).items():
            parts = [f"{value} (seed {listed(seeds)})" for value, seeds in values.items()]
            said.append(f"runs differ in {key}: {'; '.join(parts)}")
        counts = self.frame["seed"].value_counts().sort_index()
        for seed, count in counts[counts > 1].items():
            said.append(f"seed {seed} has {count} runs; their mean is counted once")
        return said


@dataclass(frozen=True, eq=False)
class Comparison:
    """A comparison of two cells with the same model and task, over the seeds that both have.

    Attributes:
        cell: the cell that is compared.
        other: the cell that it is compared with.
        role: `baseline`, with an equal budget, or the table's name for a control.
        paired: the statistics.
        size: the difference between the paper's numbers, in points; `EFFECT` if there are none.
        seeds_needed: the number of seeds needed to detect a difference of that size; None if
            unknown.
        p_holm: p, corrected over the table's family of comparisons; None outside it.
    """

    cell: Cell
    other: Cell
    role: str
    paired: Paired
    size: float
    seeds_needed: int | None
    p_holm: float | None = None

    @property
    def gain(self) -> float | None:
        """The difference in the direction that is better; None if they share no seed."""
        return None if self.paired.difference is None else self._sign * self.paired.difference

    @property
    def ruled_out(self) -> float | None:
        """Gains above this are ruled out: the upper end of the gain's 95 % interval.

        0 if that is below 0, so that any gain is ruled out; None if there is no interval.
        """
        if self.paired.interval is None:
            return None
        return max(0.0, *(self._sign * end for end in self.paired.interval))

    @cached_property
    def seconds(self) -> tuple[float, float]:
        """Training and searching time of a run in each cell: medians over common seeds."""
        one, other = (_seconds(cell.frame, self.paired.seeds) for cell in (self.cell, self.other))
        return one, other

    @property
    def _sign(self) -> int:
        return 1 if self.cell.runs[0].higher_is_better else -1


def _seconds(runs: pd.DataFrame, seeds: Sequence[int]) -> float:
    parts = runs.loc[runs["seed"].isin(seeds), ["seconds.training", "seconds.searching"]]
    return float(parts.astype(float).sum(axis=1).median())


def runs_of(table: Table, runs: pd.DataFrame) -> pd.DataFrame:
    """Return the runs that `table` is made of.

    They are those of its own experiment, or all runs if there are none of it, as after a
    hand-written sweep; and borrowed runs for the entries that these do not fill.
    """
    if runs.empty:
        return runs
    names = runs["name"].astype(str).str.partition("/")[0]
    own = runs[names == table.name]
    own = runs if own.empty else own
    if table.report != "rows":
        return own
    others = runs[names.isin(table.borrows) & ~runs.index.isin(own.index)]
    unfilled = [where for where in table.wheres if not matching(own, where).any()]
    return pd.concat([own, others[matching(others, *unfilled)]])


def reported(table: Table, runs: pd.DataFrame) -> pd.DataFrame:
    """Return the runs without those whose seeds are only for tuning."""
    return runs[~runs["seed"].isin(table.tuning_seeds)]


def cells_of(table: Table, runs: pd.DataFrame) -> list[Cell]:
    """Return a cell for each entry of `table` that is shown, for every model and task with runs.

    An optional entry is shown if its row and its column have runs of the model, finished or not.
    """
    fits = {label: matching(runs, entry.where) for label, entry in table.entries.items()}
    runs = runs[matching(runs, *table.wheres)]
    found = {*runs["seed"]}
    seeds = sorted(found & {*table.seeds} or found)  # a borrowed row may have more than the table's
    models = runs.groupby("task.name")["model.name"].nunique()
    places = dict(iter(runs.groupby(["model.name", "task.name"])))
    shown = {
        model: _shown(table, [label for label, fit in fits.items() if fit[of_model.index].any()])
        for model, of_model in runs.groupby("model.name")
    }
    cells = []
    for model, task in sorted(places, key=lambda at: (at[0], [*table.tasks, at[1]].index(at[1]))):
        place = f"{task}, {model.split('/')[-1]}" if models[task] > 1 else task
        placed = {"task": place} if len(places) > 1 else {}
        here = finished(places[model, task])
        for entry in shown[model]:
            own = here[fits[entry.label][here.index]].sort_values("seed", kind="stable")
            missing = tuple(seed for seed in seeds if seed not in set(own["seed"]))
            number = table.number(entry.label, model, task)
            names = {"row": entry.label, **placed}
            cells.append(Cell(entry.label, own, entry, model, task, place, names, number, missing))
    return cells


def _shown(table: Table, filled: Collection[str]) -> list[Entry]:
    rows = {table.entries[label].row for label in filled}
    columns = {table.entries[label].column for label in filled}
    return [
        entry
        for entry in table.entries.values()
        if not entry.optional or (entry.row in rows and entry.column in columns)
    ]


def compare(cells: Sequence[Cell], family: Collection[str] = ()) -> list[Comparison]:
    """Make every comparison between a table's cells, and correct p values together.

    Args:
        cells: the cells.
        family: the rows whose comparisons are corrected; all if empty.
    """
    by_label = {(cell.model, cell.task, cell.label): cell for cell in cells}
    found = []
    for cell in cells:
        for role, label in cell.entry.against.items() if cell.runs else ():
            if other := by_label.get((cell.model, cell.task, label)):
                result, size = paired(cell.by_seed(), other.by_seed()), EFFECT
                one, two = cell.published, other.published
                if one and two and one.printed is not None and two.printed is not None:
                    size = round(abs(one.printed - two.printed), 1) or EFFECT
                needed = seeds_needed(size, result.std)
                found.append(Comparison(cell, other, role, result, size, needed))
    tested = [one.paired.p if not family or one.cell.entry.row in family else None for one in found]
    p = pd.Series(tested, dtype=float).dropna()
    corrected = dict(zip(p.index, holm([*p]), strict=True))
    return [replace(one, p_holm=corrected.get(index)) for index, one in enumerate(found)]


def unequal_rows(cells: Iterable[Cell], tuned: str | None) -> Iterator[str]:
    """Yield what differs between the cells of one model and task, besides what defines rows.

    The key `tuned` may differ, because it was chosen for each row.
    """
    runs = pd.concat([cell.frame.assign(label=cell.label) for cell in cells], ignore_index=True)
    values = traits(runs)
    for key in values:
        if not key.startswith(OF_ROWS) and key != tuned and values[key].nunique() > 1:
            # A row whose own runs differ has its own flag.
            by_row = values[key].dropna().groupby(runs["label"], sort=False).unique()
            alike = by_row[by_row.map(len) == 1].explode()
            rows = alike.index.to_series().groupby(alike, sort=False).unique()
            if len(rows) > 1:
                *few, most = rows.map(len).sort_values(kind="stable").index
                said = [f"{value} in {'; '.join(rows[value])}" for value in few]
                yield f"rows differ in {key}: {', '.join(said)}, {most} in the others"


def listed(numbers: Iterable[int]) -> str:
    """Join numbers, such as `0, 13, 42`."""
    return ", ".join(map(str, numbers))
