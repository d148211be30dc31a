"""Entries: the rows of a table, each an arm in its place."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import cached_property

import pandas as pd

from heterolora.harness.reporting.arms import Arm
from heterolora.harness.reporting.frame import finished, listed, matching, mixed
from heterolora.harness.reporting.layout import Cell, Number, Table


@dataclass(frozen=True, eq=False)
class Entry(Arm):
    """The finished runs of one cell of a table, for one model and task.

    Attributes:
        cell: the cell of the table.
        model: the model of the runs.
        task: the task of the runs.
        place: the task; with the model if the table has several models of it.
        names: the first columns of its line in a section: the row, and the place if there are
            several.
        published: the paper's number, if there is one for this model and task.
        missing: the seeds that other entries have and this one lacks; of the table's own seeds, if
            it names any.
    """

    cell: Cell
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
        """Return a count such as `3 of 25`; empty if its runs never searched."""
        searches = self.searches[kind]
        return f"{searches.sum()} of {len(searches)}" if len(searches) else ""

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


def entries_of(table: Table, runs: pd.DataFrame) -> list[Entry]:
    """Return an entry for each cell of `table` that is shown, for every model and task with runs.

    An optional cell is shown if its row and its column have runs of the model, finished or not.
    """
    fits = {label: matching(runs, cell.where) for label, cell in table.cells.items()}
    runs = runs[matching(runs, *table.wheres)]
    found = {*runs["seed"]}
    seeds = sorted(found & {*table.seeds} or found)  # a borrowed row may have more than the table's
    models = runs.groupby("task.name")["model.name"].nunique()
    places = dict(iter(runs.groupby(["model.name", "task.name"])))
    shown = {
        model: _shown(table, [label for label, fit in fits.items() if fit[of_model.index].any()])
        for model, of_model in runs.groupby("model.name")
    }
    entries = []
    for model, task in sorted(places, key=lambda at: (at[0], [*table.tasks, at[1]].index(at[1]))):
        place = f"{task}, {model.split('/')[-1]}" if models[task] > 1 else task
        placed = {"task": place} if len(places) > 1 else {}
        here = finished(places[model, task])
        for cell in shown[model]:
            own = here[fits[cell.label][here.index]].sort_values("seed", kind="stable")
            missing = tuple(seed for seed in seeds if seed not in set(own["seed"]))
            number = table.number(cell.label, model, task)
            names = {"row": cell.label, **placed}
            entries.append(Entry(cell.label, own, cell, model, task, place, names, number, missing))
    return entries


def _shown(table: Table, filled: Collection[str]) -> list[Cell]:
    rows = {table.cells[label].row for label in filled}
    columns = {table.cells[label].column for label in filled}
    return [
        cell
        for cell in table.cells.values()
        if not cell.optional or (cell.row in rows and cell.column in columns)
    ]
