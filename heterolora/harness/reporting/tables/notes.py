"""Notes: what a reader must know to interpret a table, in words."""

from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby

import pandas as pd

from heterolora.harness.records.read import Run
from heterolora.harness.records.schema import CONTROL
from heterolora.harness.reporting.cells import Cell, Comparison, listed, unequal_rows
from heterolora.harness.reporting.frame import in_any_order, matching
from heterolora.harness.reporting.layout import Settings, Table
from heterolora.harness.reporting.statistics import (
    ALPHA,
    EXACT,
    RESAMPLES,
    fewest_pairs,
    smallest_p,
)


def notes_of(
    table: Table, cells: Sequence[Cell], compared: Sequence[Comparison], runs: pd.DataFrame
) -> list[str]:
    """Return every note on a table of `cells` and comparisons, made of `runs`, finished or not."""
    own = matching(runs, *table.wheres)
    return [
        *limits(compared),
        *_unpaired(cells, compared),
        *_degenerate(cells),
        *_papers(table, cells),
        *_missing(table, cells),
        *unfinished(runs[own]),
        *_mixed(table, cells),
        *_in_no_row(runs[~own]),
    ]


def limits(comparisons: Sequence[Comparison]) -> Iterator[str]:
    """Yield what the numbers of seeds cannot show."""
    counts = sorted({one.paired.n for one in comparisons})
    tests = sum(one.p_holm is not None for one in comparisons)
    few = [n for n in counts if n > 1 and smallest_p(n) >= ALPHA]
    for n in few:
        yield f"n = {n} cannot give p < {smallest_p(n):g}, whatever the runs show"
    if few:
        yield (
            f"{fewest_pairs(1)} seeds are the fewest that can give one p < 0.05, and "
            f"{fewest_pairs(tests)} after Holm's correction over the {tests} "
            f"comparison{'s' if tests > 1 else ''} here"
        )
    if 1 in counts:
        yield "n = 1: a single seed says nothing about chance, so there is no interval and no p"
    if many := [n for n in counts if n > EXACT]:
        yield (
            f"n = {listed(many)}: p is a Monte Carlo estimate from {RESAMPLES + 1:,} sign vectors; "
            f"up to n = {EXACT} it is exact"
        )


def unfinished(runs: pd.DataFrame) -> Iterator[str]:
    """Yield the runs that are not counted, and why."""
    for run in runs["run"]:
        if not run.finished:
            reason = run.result.error or "it is still running, or was killed"
            yield f"not counted, {run.result.status}: {run.directory}: {reason}"


def _unpaired(cells: Sequence[Cell], compared: Sequence[Comparison]) -> Iterator[str]:
    """Yield rows that could not be compared with their baseline or control."""
    done = {(one.role, id(one.cell)) for one in compared if one.paired.n}
    wanting: dict[str, list[Cell]] = {}
    for cell in cells:
        for role in cell.entry.against:
            if cell.runs and (role, id(cell)) not in done:
                wanting.setdefault(role, []).append(cell)
    for role, rows in wanting.items():
        what = "its baseline" if role == "baseline" else f"its control ({role})"
        yield f"not compared with {what}, because they share no seed: {_labels(rows)}"


def _degenerate(cells: Sequence[Cell]) -> Iterator[str]:
    """Yield the rows whose proxy did not decide the allocation."""
    counts = []
    for cell in cells:
        by_proxy = cell.entry.where.get("proxy.name") not in (None, CONTROL)
        if by_proxy and cell.searches["degenerate"].any():
            place = f" ({cell.place})" if "task" in cell.names else ""
            counts.append(f"{cell.label}{place} {cell.of_searches('degenerate')}")
    if counts:
        counted = "; ".join(counts)
        yield f"degenerate searches (all scores equal, so sites were chosen at random): {counted}"


def _papers(table: Table, cells: Sequence[Cell]) -> Iterator[str]:
    """Yield how the paper's numbers were made, and where they do not apply."""
    paper = table.paper
    if paper is None:
        return
    others = sorted({cell.model for cell in cells} - {paper.model})
    if others:
        yield f"the paper's numbers are for {paper.model}; none is shown for {', '.join(others)}"
    published = [cell for cell in cells if cell.published]
    if any(cell.published.printed is None for cell in published if cell.published):
        yield (
            "log: the paper's printed number is lost; this is the mean in its authors' logs (of "
            "one seed where there is no ±)"
        )
    if published and paper.remark:
        yield paper.remark
    for task, here in groupby(published, lambda cell: cell.task):
        rate = paper.learning_rates.get(task)
        used = {value for cell in here for value in cell.frame.get("optimizer.learning_rate", ())}
        if rate is not None and used - {rate}:
            rates = ", ".join(f"{value:g}" for value in sorted(used - {rate}))
            yield f"{task}: learning rate {rates} here, {rate:g} in the paper's logs"


def _missing(table: Table, cells: Sequence[Cell]) -> Iterator[str]:
    """Yield the cells and seeds without a finished run, grouped, and the command to run them."""
    gaps: dict[tuple[int, ...], list[Cell]] = {}
    for cell in cells:
        if cell.missing:
            gaps.setdefault(cell.missing if cell.runs else (), []).append(cell)
    for seeds, rows in gaps.items():
        some = f"seed{'s' * (len(seeds) > 1)} {listed(seeds)} missing"
        yield f"{some if seeds else 'no finished run'}: {_labels(rows)}"
    absent = [task for task in table.tasks if task not in {cell.task for cell in cells}]
    if absent and table.paper and any(cell.model == table.paper.model for cell in cells):
        yield f"no run at all on {', '.join(absent)}, which the paper's table has"
    if gaps:
        same = "" if table.made_by else ", with the same MODEL= and TASK="
        yield f"to run what is missing, run {table.again} again{same}"


def _mixed(table: Table, cells: Sequence[Cell]) -> Iterator[str]:
    """Yield differences that should not be, between runs of one cell or between compared rows."""
    for cell in cells:
        for flag in cell.flags:
            yield f"! {cell.label}, {cell.place}: {flag}"
    for place, here in groupby(cells, lambda cell: cell.place):
        for difference in unequal_rows(here, table.tuned):
            yield f"{place}: {difference}"
    origins = [run.provenance.code for cell in cells for run in cell.runs]
    if dirty := sum(bool(code and code.dirty) for code in origins):
        yield f"{dirty} runs are from a working tree with uncommitted changes"


def nearest(table: Table, runs: pd.DataFrame) -> str:
    """Return which settings keep the run that is nearest to an entry of a table out of it."""
    apart = [
        (run.directory, [*_differences(run, where)])
        for run in runs["run"]
        for where in table.wheres
    ]
    if not apart:
        return ""
    directory, differences = min(apart, key=lambda one: len(one[1]))
    return f": the nearest, {directory}, has {', '.join(differences)}"


def _differences(run: Run, where: Settings) -> Iterator[str]:
    for key, value in where.items():
        own = run.setting(key)
        if in_any_order(own) != in_any_order(value):
            yield f"{key}={own} instead of {value}"


def _in_no_row(runs: pd.DataFrame) -> Iterator[str]:
    """Yield the runs that no row of the table shows, by strategy and proxy."""
    if len(runs):
        names = [(run.setting("strategy.name"), run.setting("proxy.name")) for run in runs["run"]]
        counts = pd.Series([" ".join(filter(None, pair)) for pair in names]).value_counts()
        kinds = ", ".join(f"{count} {name}" for name, count in sorted(counts.items()))
        yield f"{len(runs)} runs here belong to no row of this table: {kinds}"


def _labels(cells: Iterable[Cell]) -> str:
    """Join the labels of cells, grouped by place."""
    return "; ".join(
        f"{place} ({'; '.join(cell.label for cell in here)})"
        for place, here in groupby(cells, lambda cell: cell.place)
    )
