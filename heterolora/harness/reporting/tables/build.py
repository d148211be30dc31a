"""Make the report of a table from the frame of runs."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import pandas as pd

from heterolora.errors import RecordError
from heterolora.harness.reporting.comparisons import compare
from heterolora.harness.reporting.entries import entries_of
from heterolora.harness.reporting.frame import reported
from heterolora.harness.reporting.layout import Table
from heterolora.harness.reporting.report import Report
from heterolora.harness.reporting.sites import importance, recall
from heterolora.harness.reporting.tables import sections, tuning
from heterolora.harness.reporting.tables.diagnostics import diagnostics
from heterolora.harness.reporting.tables.notes import nearest, notes_of

SPECIAL: Mapping[str, Callable[[Table, pd.DataFrame], Report]] = {
    "importance": importance.report,
    "recall": recall.report,
}
"""The functions that make reports without rows."""


def report(table: Table, runs: pd.DataFrame, left_out: Sequence[str] = ()) -> Report:
    """Make the report of a table.

    Args:
        table: the table.
        runs: its runs (see `runs_of`), finished or not.
        left_out: a line for each record that could not be read.

    Raises:
        RecordError: if none of the runs belongs to it.
    """
    if table.report in SPECIAL:
        made = SPECIAL[table.report](table, runs)
        return replace(made, notes=[*left_out, *made.notes])
    entries = found = entries_of(table, runs)
    if not found:
        raise RecordError(
            f"no run here belongs to {table.title}{nearest(table, runs)}; run {table.again}"
        )
    if table.tuned:
        entries = [tuning.at_best(entry, table.tuned, table.tuning_seeds) for entry in found]
    compared = compare(entries, table.family)
    numbers = sections.numbers(table.name, entries, compared)
    parts = [
        *sections.grids(entries),
        *([tuning.tried(found, table.tuned, table.tuning_seeds)] if table.tuned else []),
        *([sections.stability(entries)] if table.stability else []),
        sections.details(entries, numbers),
        sections.comparisons(compared),
        sections.gains(compared),
        sections.costs(entries, numbers),
    ]
    notes = [
        *left_out,
        *notes_of(table, entries, compared, runs),
        *(tuning.uneven(found, table.tuned, table.tuning_seeds) if table.tuned else []),
        *diagnostics(reported(table, runs)),
    ]
    parts = [part for part in parts if len(part.frame)]
    return Report(table.title, table.caption, parts, notes, numbers, compared)
