"""The sections that every table has: the grid of the paper, its cells, comparisons and cost."""

from collections.abc import Sequence

from heterolora.reporting.cells import Cell, Searches, flags
from heterolora.reporting.comparisons import Comparison
from heterolora.reporting.published import SEEDS, Number
from heterolora.reporting.report import Section, section
from heterolora.reporting.statistics import Paired, Spread

NOTHING = "-"
MISSING = "missing"


def grids(cells: Sequence[Cell]) -> list[Section]:
    """The table as the paper lays it out: one for each model, or for each model and task.

    Tasks stand across, unless the arms have columns of their own.
    """
    across = any(cell.arm.column for cell in cells)
    places = dict.fromkeys((cell.model, cell.task if across else None) for cell in cells)
    found = []
    for model, task in places:
        here = [cell for cell in cells if cell.model == model and task in (None, cell.task)]
        metrics = {run.metric.replace("_", " ") for cell in here for run in cell.runs}
        explanation = (
            f"Best validation {' or '.join(sorted(metrics)) or 'metric'} over epochs in %: mean ± "
            "sample standard deviation over seeds (number of seeds). !: see the notes."
        )
        title = f"{model}, {task}" if task else model
        found.append(section(title, explanation, _grid_rows(here, across)))
    return found


def details(cells: Sequence[Cell]) -> Section:
    """Every number of every cell, and the paper's beside."""
    published = any(cell.published for cell in cells)
    rows = []
    for cell in cells:
        row = {
            "row": cell.arm.label,
            **placed(cell, cells),
            "n": str(cell.best.n if cell.best else 0),
            "best epoch": mean_std(cell.best),
            "median": f"{cell.best.median:.1f}" if cell.best else NOTHING,
            "last": f"{cell.last.mean:.1f}" if cell.last else NOTHING,
            "parameters": NOTHING if cell.parameters is None else f"{cell.parameters:,}",
        }
        if published:
            row |= {"printed": _printed(cell.published), "logged": _logged(cell.published)}
        rows.append(row)
    explanation = (
        "Over seeds: the best epoch's mean ± sample standard deviation and median, the last "
        "epoch's mean; adapter parameters that are on at the end."
    )
    if published:
        explanation += (
            " Printed: in the paper. Logged: mean ± std of what its authors' logs hold (number of "
            "seeds, where it is not three)."
        )
    return section("Cells", explanation, rows)


def comparisons(found: Sequence[Comparison], cells: Sequence[Cell]) -> Section:
    """The paired statistics of each comparison."""
    rows = [
        {
            "row": one.cell.arm.label,
            **placed(one.cell, cells),
            "against": one.role,
            "n": str(one.paired.n),
            "difference": NOTHING
            if one.paired.difference is None
            else f"{one.paired.difference:+.2f}",
            "95 % interval": _interval(one.paired),
            "p": _p(one.paired.p),
            "Holm p": _p(one.p_holm),
            "seeds needed": f"{one.seeds_needed} for {one.size:.1f}"
            if one.seeds_needed
            else NOTHING,
        }
        for one in found
        if one.paired.n
    ]
    return section(
        "Comparisons, seed by seed",
        "Difference: the row minus its baseline of equal budget, or minus random allocation, in "
        "points, the mean over the n seeds that both have, with its t interval. p: exact "
        "sign-flip test, two-sided; Holm p: corrected over this table. Seeds needed: to see a "
        "difference of the paper's size (in points) with power 0.8 at 0.05, if the differences "
        "vary as they do here, which few seeds tell only roughly.",
        rows,
    )


def costs(cells: Sequence[Cell]) -> Section:
    """Time and memory of each cell, and how decisive its searches were."""
    rows = []
    for cell in cells:
        cost = cell.cost
        if cost is None:
            continue
        rows.append(
            {
                "row": cell.arm.label,
                **placed(cell, cells),
                "train s": f"{cost.training:,.1f}",
                "search s": f"{cost.searching:,.1f}",
                "eval s": f"{cost.evaluating:,.1f}",
                "overhead": NOTHING if cost.overhead is None else f"{cost.overhead:.1f} %",
                "peak MiB": f"{cost.peak_memory / 2**20:,.0f}",
                "degenerate": share(cell.searches, cell.searches.degenerate),
                "tied": share(cell.searches, cell.searches.tied),
            }
        )
    return section(
        "Cost and searches",
        "Median seconds of a run; overhead: searching as a share of training and evaluating; the "
        "highest peak memory. Degenerate: searches whose scores were all equal, so that chance "
        "chose (always so for random allocation); tied: those decided by chance at the cut.",
        rows,
    )


def mean_std(found: Spread | None) -> str:
    """`84.3 ± 1.0`, as the paper prints it."""
    if found is None:
        return MISSING
    return f"{found.mean:.1f}" if found.std is None else f"{found.mean:.1f} ± {found.std:.1f}"


def place(cell: Cell, cells: Sequence[Cell]) -> str:
    """The cell's task; with its model where there are several."""
    many = len({other.model for other in cells}) > 1
    return f"{cell.task}, {cell.model.split('/')[-1]}" if many else cell.task


def placed(cell: Cell, cells: Sequence[Cell]) -> dict[str, str]:
    """A column for the cell's place, where `cells` have several."""
    places = {place(other, cells) for other in cells}
    return {"task": place(cell, cells)} if len(places) > 1 else {}


def share(searches: Searches, count: int) -> str:
    """`3 of 25`."""
    return f"{count} of {searches.total}" if searches.total else NOTHING


def _grid_rows(cells: Sequence[Cell], across: bool) -> list[dict[str, str]]:
    """A line for each row, and one below it for the paper where it has any."""
    columns = dict.fromkeys(cell.arm.column if across else cell.task for cell in cells)
    lines = []
    for name in dict.fromkeys(cell.arm.row for cell in cells):
        ours, paper = dict.fromkeys(columns, ""), dict.fromkeys(columns, "")
        for cell in cells:
            if cell.arm.row == name:
                column = cell.arm.column if across else cell.task
                ours[column], paper[column] = _entry(cell), _paper(cell.published)
        lines.append({"": name, **ours})
        if any(paper.values()):
            lines.append({"": "  the paper", **paper})
    return lines


def _entry(cell: Cell) -> str:
    if cell.best is None:
        return MISSING
    return f"{mean_std(cell.best)} ({cell.best.n}){'!' if flags(cell) else ''}"


def _paper(number: Number | None) -> str:
    """What is printed; in its place, marked, what is logged."""
    if number is None:
        return ""
    return _printed(number) if number.printed is not None else f"{mean_std(number.logs)} log"


def _printed(number: Number | None) -> str:
    if number is None or number.printed is None:
        return NOTHING
    spread = "" if number.printed_std is None else f" ± {number.printed_std:.1f}"
    return f"{number.printed:.1f}{spread}"


def _logged(number: Number | None) -> str:
    if number is None or number.logs is None:
        return NOTHING
    count = f" ({number.logs.n})" if number.logs.n != len(SEEDS) else ""
    return f"{mean_std(number.logs)}{count}"


def _interval(paired: Paired) -> str:
    if paired.n == 1:
        return "one seed"
    if paired.interval is None:
        return "no spread"
    low, high = paired.interval
    return f"{low:+.2f} to {high:+.2f}"


def _p(value: float | None) -> str:
    if value is None:
        return NOTHING
    return f"{value:.2f}" if value >= 0.01 else f"{value:.1g}"
