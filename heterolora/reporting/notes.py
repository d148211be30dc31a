"""What must be known to believe a table, in words."""

from collections.abc import Iterator, Sequence

from heterolora.reporting.cells import Cell, flags, unequal_rows
from heterolora.reporting.comparisons import Comparison, limits
from heterolora.reporting.entries import Table
from heterolora.reporting.load import Run
from heterolora.reporting.published import MODEL, TABLES
from heterolora.reporting.sections import place, placed, share


def notes_of(
    table: Table, cells: Sequence[Cell], compared: Sequence[Comparison], runs: Sequence[Run]
) -> list[str]:
    """Every note of a table.

    Args:
        table: the table.
        cells: its cells.
        compared: its comparisons.
        runs: its runs, finished or not.
    """
    return [
        *limits(compared),
        *_controls(table, cells, compared),
        *_degenerate(cells),
        *_papers(table, cells),
        *_missing(table, cells),
        *unfinished([run for run in runs if any(arm.holds(run) for arm in table.arms)]),
        *_mixed(table, cells),
        *_strangers(table, runs),
    ]


def unfinished(runs: Sequence[Run]) -> Iterator[str]:
    """The runs that are not counted, and why."""
    for run in runs:
        if not run.finished:
            reason = run.result.get("error") or "its process goes on, or was killed"
            yield f"not counted, {run.result['status']}: {run.directory}: {reason}"


def _controls(table: Table, cells: Sequence[Cell], compared: Sequence[Comparison]) -> Iterator[str]:
    """Rows that were not compared with what they must beat."""
    for role in ("baseline", "random"):
        done = {id(one.cell) for one in compared if one.role == role and one.paired.n}
        rows = [
            cell
            for cell in cells
            if cell.runs
            and id(cell) not in done
            and (cell.arm.baseline if role == "baseline" else _scored(cell))
        ]
        if rows:
            what = {"baseline": "its baseline", "random": "random allocation (proxy=constant)"}
            yield f"no seed in common with {what[role]}: {_labels(rows, cells)}"


def _scored(cell: Cell) -> bool:
    """Whether a proxy chose its sites."""
    return cell.arm.settings.get("proxy.name") not in (None, "constant")


def _degenerate(cells: Sequence[Cell]) -> Iterator[str]:
    """The rows whose proxy did not choose."""
    counts = [
        f"{cell.arm.label}{''.join(f' ({task})' for task in placed(cell, cells).values())} "
        f"{share(cell.searches, cell.searches.degenerate)}"
        for cell in cells
        if cell.searches.degenerate and _scored(cell)
    ]
    if counts:
        yield (
            "degenerate searches, in which all scores were equal and chance chose the sites: "
            f"{'; '.join(counts)}"
        )


def _papers(table: Table, cells: Sequence[Cell]) -> Iterator[str]:
    """How the paper's numbers were made, and where they do not apply."""
    if not any(arm.published for arm in table.arms):
        return
    others = sorted({cell.model for cell in cells} - {MODEL})
    if others:
        yield f"the paper's numbers are of {MODEL}; none is shown beside {', '.join(others)}"
    known = [cell for cell in cells if cell.published]
    if not known:
        return
    if any(number.printed is None for cell in known if (number := cell.published)):
        yield (
            "log: the paper's printed number is lost; this is the mean of its authors' logs (one "
            "seed where there is no ±)"
        )
    if remark := TABLES[table.name].remark:
        yield remark
    for task in dict.fromkeys(cell.task for cell in known):
        rate = TABLES[table.name].learning_rates.get(task)
        runs = [run for cell in known if cell.task == task for run in cell.runs]
        rates = sorted({run.setting("optimizer.learning_rate") for run in runs} - {rate})
        if rate is not None and rates:
            here = ", ".join(f"{value:g}" for value in rates)
            yield f"{task}: learning rate {here} here, {rate:g} in the paper's logs"


def _missing(table: Table, cells: Sequence[Cell]) -> Iterator[str]:
    """The cells and seeds without a finished run, grouped, and what makes them."""
    gaps: dict[tuple[int, ...], list[Cell]] = {}
    for cell in cells:
        if cell.missing:
            gaps.setdefault(cell.missing if cell.runs else (), []).append(cell)
    for seeds, rows in gaps.items():
        listed = ", ".join(map(str, seeds))
        what = f"seed{'s' * (len(seeds) > 1)} {listed} missing" if seeds else "no finished run"
        yield f"{what}: {_labels(rows, cells)}"
    absent = [task for task in table.tasks if task not in {cell.task for cell in cells}]
    if absent and any(cell.model == MODEL for cell in cells):
        yield f"no run at all of {', '.join(absent)}, which the paper's table has"
    if gaps:
        yield f"make {table.name} runs what is missing"


def _mixed(table: Table, cells: Sequence[Cell]) -> Iterator[str]:
    """Runs of one cell, or of rows that are compared, that differ in more than they should."""
    for cell in cells:
        for flag in flags(cell):
            yield f"! {cell.arm.label}, {place(cell, cells)}: {flag}"
    for model, task in dict.fromkeys((cell.model, cell.task) for cell in cells):
        here = [cell for cell in cells if (cell.model, cell.task) == (model, task)]
        for difference in unequal_rows(here, table.tuned):
            yield f"{place(here[0], cells)}: {difference}"
    dirty = [run for cell in cells for run in cell.runs if _dirty(run)]
    if dirty:
        yield f"{len(dirty)} runs are of a working tree with uncommitted changes"


def _strangers(table: Table, runs: Sequence[Run]) -> Iterator[str]:
    count = sum(not any(arm.holds(run) for arm in table.arms) for run in runs)
    if count:
        yield f"{count} runs here belong to no row of this table"


def _dirty(run: Run) -> bool:
    return bool(run.provenance.get("code", {}).get("dirty"))


def _labels(rows: Sequence[Cell], cells: Sequence[Cell]) -> str:
    """Which cells: the labels of each task."""
    tasks: dict[str, list[str]] = {}
    for cell in rows:
        tasks.setdefault(place(cell, cells), []).append(cell.arm.label)
    return "; ".join(f"{task} ({'; '.join(labels)})" for task, labels in tasks.items())
