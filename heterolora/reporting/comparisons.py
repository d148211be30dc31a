"""Each searched row against what it must beat: all sites on, and random allocation."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from heterolora.reporting.cells import Cell
from heterolora.reporting.entries import Table
from heterolora.reporting.published import LARGEST_GAIN
from heterolora.reporting.statistics import Paired, fewest_pairs, holm, paired, seeds_needed
from heterolora.reporting.statistics import smallest_p as smallest


@dataclass(frozen=True)
class Comparison:
    """One cell against another of the same model and task, over the seeds that both have.

    Attributes:
        cell: the one.
        other: the other.
        role: `baseline`, of equal budget, or `random`, the control.
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


def compare(table: Table, cells: Sequence[Cell]) -> list[Comparison]:
    """Every comparison of `table`, its p values corrected together."""
    found = [
        _comparison(cell, other, role)
        for cell in cells
        if cell.runs
        for role, other in _others(table, cell, cells)
    ]
    tested = [index for index, one in enumerate(found) if one.paired.p is not None]
    corrected = holm([p for one in found if (p := one.paired.p) is not None])
    for index, p in zip(tested, corrected, strict=True):
        found[index] = replace(found[index], p_holm=p)
    return found


def limits(comparisons: Sequence[Comparison]) -> list[str]:
    """What the numbers of seeds cannot say, in words."""
    said = []
    counts = sorted({one.paired.n for one in comparisons})
    tests = sum(one.paired.p is not None for one in comparisons)
    for n in (n for n in counts if n > 1):
        if smallest(n) >= 0.05:
            said.append(f"n = {n} cannot give p < {smallest(n):g}, whatever the runs show")
    if said:
        said.append(
            f"{fewest_pairs(1)} seeds are the fewest that can give one p < 0.05, and "
            f"{fewest_pairs(tests)} after Holm's correction over the {tests} "
            f"comparison{'s' if tests > 1 else ''} here"
        )
    if 1 in counts:
        said.append("n = 1: one seed says nothing of chance, so there is no interval and no p")
    return said


def _others(table: Table, cell: Cell, cells: Sequence[Cell]) -> Iterator[tuple[str, Cell]]:
    control = table.control(cell.arm)
    labels = {"baseline": cell.arm.baseline, "random": control.label if control else None}
    for role, label in labels.items():
        for other in cells:
            if (other.model, other.task, other.arm.label) == (cell.model, cell.task, label):
                yield role, other


def _comparison(cell: Cell, other: Cell, role: str) -> Comparison:
    result = paired(cell.by_seed, other.by_seed)
    size = _papers_size(cell, other)
    return Comparison(cell, other, role, result, size, seeds_needed(size, result.std))


def _papers_size(cell: Cell, other: Cell) -> float:
    """The difference of the two printed means; where there is none, the paper's largest gain."""
    one, two = cell.published, other.published
    if one is None or two is None or one.printed is None or two.printed is None:
        return LARGEST_GAIN
    return round(abs(one.printed - two.printed), 1) or LARGEST_GAIN
