"""Notes: what a reader must know to interpret a table, in words."""

from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby

import pandas as pd

from heterolora.harness.records.read import Run
from heterolora.harness.records.schema import CONTROL
from heterolora.harness.reporting.comparisons import Comparison
from heterolora.harness.reporting.entries import Entry
from heterolora.harness.reporting.frame import in_any_order, listed, matching, traits, unfinished
from heterolora.harness.reporting.layout import Settings, Table
from heterolora.harness.reporting.statistics import (
    ALPHA,
    EXACT,
    RESAMPLES,
    fewest_pairs,
    smallest_p,
)

OF_ROWS = (
    *("strategy.", "proxy.", "selection.", "rank_budget."),
    *("search_space.projections", "search_space.shortcuts", "search_space.pool"),
)
"""Prefixes of the settings in which rows differ on purpose."""


def notes_of(
    table: Table, entries: Sequence[Entry], compared: Sequence[Comparison], runs: pd.DataFrame
) -> list[str]:
    """Return every note on a table's entries and comparisons, made of `runs`, finished or not."""
    own = matching(runs, *table.wheres)
    return [
        *limits(compared),
        *_unpaired(entries, compared),
        *_degenerate(entries),
        *_papers(table, entries),
        *_missing(table, entries),
        *unfinished(runs[own]),
        *_mixed(table, entries),
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


def _unpaired(entries: Sequence[Entry], compared: Sequence[Comparison]) -> Iterator[str]:
    """Yield rows that could not be compared with their baseline or control."""
    done = {(one.role, id(one.entry)) for one in compared if one.paired.n}
    wanting: dict[str, list[Entry]] = {}
    for entry in entries:
        for role in entry.cell.against:
            if entry.runs and (role, id(entry)) not in done:
                wanting.setdefault(role, []).append(entry)
    for role, rows in wanting.items():
        what = "its baseline" if role == "baseline" else f"its control ({role})"
        yield f"not compared with {what}, because they share no seed: {_labels(rows)}"


def _degenerate(entries: Sequence[Entry]) -> Iterator[str]:
    """Yield the rows whose proxy did not decide the allocation."""
    counts = []
    for entry in entries:
        by_proxy = entry.cell.where.get("proxy.name") not in (None, CONTROL)
        if by_proxy and entry.searches["degenerate"].any():
            place = f" ({entry.place})" if "task" in entry.names else ""
            counts.append(f"{entry.label}{place} {entry.of_searches('degenerate')}")
    if counts:
        counted = "; ".join(counts)
        yield f"degenerate searches (all scores equal, so sites were chosen at random): {counted}"


def _papers(table: Table, entries: Sequence[Entry]) -> Iterator[str]:
    """Yield how the paper's numbers were made, and where they do not apply."""
    paper = table.paper
    if paper is None:
        return
    others = sorted({entry.model for entry in entries} - {paper.model})
    if others:
        yield f"the paper's numbers are for {paper.model}; none is shown for {', '.join(others)}"
    published = [entry for entry in entries if entry.published]
    if any(entry.published.printed is None for entry in published if entry.published):
        yield (
            "log: the paper's printed number is lost; this is the mean in its authors' logs (of "
            "one seed where there is no ±)"
        )
    if published and paper.remark:
        yield paper.remark
    for task, here in groupby(published, lambda entry: entry.task):
        rate = paper.learning_rates.get(task)
        used = {value for entry in here for value in entry.frame.get("optimizer.learning_rate", ())}
        if rate is not None and used - {rate}:
            rates = ", ".join(f"{value:g}" for value in sorted(used - {rate}))
            yield f"{task}: learning rate {rates} here, {rate:g} in the paper's logs"


def _missing(table: Table, entries: Sequence[Entry]) -> Iterator[str]:
    """Yield the entries and seeds without a finished run, grouped, and the command to run them."""
    gaps: dict[tuple[int, ...], list[Entry]] = {}
    for entry in entries:
        if entry.missing:
            gaps.setdefault(entry.missing if entry.runs else (), []).append(entry)
    for seeds, rows in gaps.items():
        some = f"seed{'s' * (len(seeds) > 1)} {listed(seeds)} missing"
        yield f"{some if seeds else 'no finished run'}: {_labels(rows)}"
    absent = [task for task in table.tasks if task not in {entry.task for entry in entries}]
    if absent and table.paper and any(entry.model == table.paper.model for entry in entries):
        yield f"no run at all on {', '.join(absent)}, which the paper's table has"
    if gaps:
        same = "" if table.made_by else ", with the same MODEL= and TASK="
        yield f"to run what is missing, run {table.again} again{same}"


def _mixed(table: Table, entries: Sequence[Entry]) -> Iterator[str]:
    """Yield differences that should not be, between runs of one entry or between compared rows."""
    for entry in entries:
        for flag in entry.flags:
            yield f"! {entry.label}, {entry.place}: {flag}"
    for place, here in groupby(entries, lambda entry: entry.place):
        for difference in _unequal_rows(here, table.tuned):
            yield f"{place}: {difference}"
    origins = [run.provenance.code for entry in entries for run in entry.runs]
    if dirty := sum(bool(code and code.dirty) for code in origins):
        yield f"{dirty} runs are from a working tree with uncommitted changes"


def nearest(table: Table, runs: pd.DataFrame) -> str:
    """Return which settings keep the run that is nearest to a cell of a table out of it."""
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


def _unequal_rows(entries: Iterable[Entry], tuned: str | None) -> Iterator[str]:
    """Yield what differs between the entries of one model and task, besides what defines rows.

    The key `tuned` may differ, because it was chosen for each row.
    """
    runs = pd.concat(
        [entry.frame.assign(label=entry.label) for entry in entries], ignore_index=True
    )
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


def _labels(entries: Iterable[Entry]) -> str:
    """Join the labels of entries, grouped by place."""
    return "; ".join(
        f"{place} ({'; '.join(entry.label for entry in here)})"
        for place, here in groupby(entries, lambda entry: entry.place)
    )
