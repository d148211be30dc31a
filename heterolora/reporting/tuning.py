"""One setting chosen for each arm, by the half of the validation split that is not reported."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from statistics import fmean
from typing import Any

from heterolora.reporting.cells import Cell
from heterolora.reporting.load import Run
from heterolora.reporting.report import Section, section
from heterolora.reporting.sections import mean_std, place, placed
from heterolora.reporting.statistics import spread


def chosen(cell: Cell, key: str) -> Any:
    """The value of `key` whose mean over seeds of the selection half's best metric is highest.

    Of equal ones the smallest; None where there are no runs. The report half is not read.
    """
    scores = {value: fmean(map(selection, runs)) for value, runs in by_value(cell, key).items()}
    return max(scores, key=lambda value: (scores[value], -value)) if scores else None


def at_best(cell: Cell, key: str) -> Cell:
    """The cell, with the runs at the `chosen` value alone."""
    return replace(cell, runs=tuple(by_value(cell, key).get(chosen(cell, key), ())))


def tried(cells: Sequence[Cell], key: str) -> Section:
    """Every value of `key` in every cell, and which was chosen."""
    rows = []
    for cell in cells:
        best = chosen(cell, key)
        for value, runs in by_value(cell, key).items():
            found = spread(list(map(selection, runs)))
            rows.append(
                {
                    "row": cell.arm.label,
                    **placed(cell, cells),
                    key: f"{value:g}",
                    "n": str(len(runs)),
                    "selection half": mean_std(found),
                    "": "chosen" if value == best else "",
                }
            )
    return section(
        "Values tried",
        f"The best metric in % on the selection half, which alone chooses {key}.",
        rows,
    )


def uneven(cells: Sequence[Cell], key: str) -> list[str]:
    """The cells whose values were not tried with the same seeds, in words."""
    said = []
    for cell in cells:
        seeds = {tuple(sorted(run.seed for run in runs)) for runs in by_value(cell, key).values()}
        if len(seeds) > 1:
            said.append(
                f"{cell.arm.label}, {place(cell, cells)}: the values of {key} were not tried "
                "with the same seeds, so the choice compares unlike means"
            )
    return said


def selection(run: Run) -> float:
    """The task's first metric on the half that chooses, at the best epoch, in percent."""
    return 100 * float(run.result["best"][str(run.config["task"]["metrics"][0])])


def by_value(cell: Cell, key: str) -> Mapping[Any, list[Run]]:
    """The runs of each value of `key`, ascending."""
    values = sorted({run.setting(key) for run in cell.runs})
    return {value: [run for run in cell.runs if run.setting(key) == value] for value in values}
