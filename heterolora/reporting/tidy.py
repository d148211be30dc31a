"""A table as numbers: one row for each cell, every number in a column of its own."""

from collections.abc import Sequence
from typing import Any

import pandas as pd

from heterolora.reporting.cells import Cell, flags
from heterolora.reporting.comparisons import Comparison


def tidy(name: str, cells: Sequence[Cell], compared: Sequence[Comparison]) -> pd.DataFrame:
    """The cells of table `name`; a number that is not known is missing.

    Accuracies are in percent, differences in points, times in seconds.
    """
    rows = []
    for cell in cells:
        mine = [one for one in compared if one.cell is cell]
        row: dict[str, Any] = {
            "table": name,
            "model": cell.model,
            "task": cell.task,
            "row": cell.arm.row,
            "column": cell.arm.column,
        }
        row |= _accuracy(cell) | _published(cell) | _cost(cell)
        for role in ("baseline", "random"):
            one = next((found for found in mine if found.role == role), None)
            row |= {f"{role}_{key}": value for key, value in _comparison(one).items()}
        rows.append(row | {"flags": "; ".join(flags(cell)) or None})
    return pd.DataFrame(rows)


def _accuracy(cell: Cell) -> dict[str, Any]:
    best, last = cell.best, cell.last
    return {
        "n": best.n if best else 0,
        "seeds": " ".join(map(str, cell.by_seed)),
        "missing_seeds": " ".join(map(str, cell.missing)),
        "best_mean": best.mean if best else None,
        "best_std": best.std if best else None,
        "best_median": best.median if best else None,
        "last_mean": last.mean if last else None,
        "last_std": last.std if last else None,
        "parameters_on": cell.parameters,
    }


def _published(cell: Cell) -> dict[str, Any]:
    number = cell.published
    logs = number.logs if number else None
    return {
        "printed_mean": number.printed if number else None,
        "printed_std": number.printed_std if number else None,
        "logged_n": logs.n if logs else None,
        "logged_mean": logs.mean if logs else None,
        "logged_std": logs.std if logs else None,
        "logged_later": number.logged_later if number else None,
    }


def _cost(cell: Cell) -> dict[str, Any]:
    cost, searches = cell.cost, cell.searches
    return {
        "seconds_training": cost.training if cost else None,
        "seconds_searching": cost.searching if cost else None,
        "seconds_evaluating": cost.evaluating if cost else None,
        "overhead_percent": cost.overhead if cost else None,
        "peak_memory_bytes": cost.peak_memory if cost else None,
        "searches": searches.total,
        "searches_degenerate": searches.degenerate,
        "searches_tied": searches.tied,
    }


def _comparison(one: Comparison | None) -> dict[str, Any]:
    low, high = (one.paired.interval if one else None) or (None, None)
    return {
        "row": one.other.arm.label if one else None,
        "n": one.paired.n if one else None,
        "difference": one.paired.difference if one else None,
        "difference_std": one.paired.std if one else None,
        "low": low,
        "high": high,
        "p": one.paired.p if one else None,
        "p_holm": one.p_holm if one else None,
        "size": one.size if one else None,
        "seeds_needed": one.seeds_needed if one else None,
    }
