"""The report of a table, made from the records of runs."""

from collections.abc import Callable, Mapping, Sequence

from heterolora.errors import RecordError
from heterolora.reporting import sections
from heterolora.reporting.cells import Cell, cells_of
from heterolora.reporting.comparisons import compare
from heterolora.reporting.entries import Table, runs_of
from heterolora.reporting.layouts import LAYOUTS
from heterolora.reporting.load import Run
from heterolora.reporting.notes import notes_of
from heterolora.reporting.report import Report, Section
from heterolora.reporting.signatures import signatures
from heterolora.reporting.studies import IMPORTANCE, importance, stability
from heterolora.reporting.tidy import tidy
from heterolora.reporting.tuning import at_best, tried, uneven

NAMES = (*LAYOUTS, IMPORTANCE)
"""What can be reported."""

SECTIONS: Mapping[str, Sequence[Callable[[Sequence[Cell]], Section]]] = {"stability": (stability,)}
"""What a table has beside that which all have."""


def runs_for(name: str, runs: Sequence[Run]) -> list[Run]:
    """Those of `runs` that the table called `name` is made of."""
    return list(runs) if name == IMPORTANCE else runs_of(LAYOUTS[name](), runs)


def report(name: str, runs: Sequence[Run]) -> Report:
    """The report called `name`, of `runs_for` it.

    Raises:
        RecordError: if none of the runs belongs to it.
    """
    return importance(runs) if name == IMPORTANCE else table_report(LAYOUTS[name](), runs)


def table_report(table: Table, runs: Sequence[Run]) -> Report:
    """The report of a table of arms.

    Args:
        table: the table.
        runs: its runs, finished or not.

    Raises:
        RecordError: if none of them belongs to one of its rows.
    """
    found = cells_of(table, runs)
    if not found:
        raise RecordError(f"no run here is of {table.title}; make {table.name} makes its runs")
    cells, doubts, choice = found, [], []
    if table.tuned is not None:
        cells = [at_best(cell, table.tuned) for cell in found]
        doubts, choice = uneven(found, table.tuned), [tried(found, table.tuned)]
    compared = compare(table, cells)
    parts = [
        *sections.grids(cells),
        *choice,
        *(own(cells) for own in SECTIONS.get(table.name, ())),
        sections.details(cells),
        sections.comparisons(compared, cells),
        sections.costs(cells),
    ]
    return Report(
        table.title,
        table.caption,
        [part for part in parts if len(part.frame)],
        [*notes_of(table, cells, compared, runs), *doubts, *signatures(runs)],
        tidy(table.name, cells, compared),
    )
