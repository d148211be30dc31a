"""The sections that every table has: the grid of the paper, its entries, comparisons and cost."""

from collections import defaultdict
from collections.abc import Sequence
from itertools import groupby
from typing import Any

import pandas as pd

from heterolora.harness.reporting.comparisons import Comparison
from heterolora.harness.reporting.entries import Entry
from heterolora.harness.reporting.layout import Number
from heterolora.harness.reporting.report import NOTHING, Section, mean_std, section, text
from heterolora.harness.reporting.sites.agreement import jaccard_between
from heterolora.harness.reporting.statistics import EXACT, RESAMPLES, Paired, Spread, spread

PAPER = "  the paper"
PARTS = ("training", "searching", "evaluating")


def grids(entries: Sequence[Entry]) -> list[Section]:
    """Lay the table out as the paper does: a grid for each model, or for each model and task.

    The columns are tasks, unless the table has columns of its own.
    """
    across = any(entry.cell.column for entry in entries)
    found = []
    for names, group in groupby(entries, lambda entry: (entry.model, entry.task)[: 1 + across]):
        metrics = set()
        lines: dict[tuple[str, str], dict[str, str]] = defaultdict(dict)
        for entry in group:
            column = entry.cell.column if across else entry.task
            lines[entry.cell.row, ""][column] = _entry(entry)
            lines[entry.cell.row, PAPER][column] = _paper(entry.published)
            metrics |= {run.metric_in_words for run in entry.runs}
        shown = {line: row for line, row in lines.items() if line[1] != PAPER or any(row.values())}
        frame = pd.DataFrame(shown.values()).fillna("")
        frame.insert(0, "", [line or name for name, line in shown])
        explanation = (
            f"Best validation {' or '.join(sorted(metrics)) or 'metric'} over epochs: mean ± "
            "sample standard deviation over seeds (number of seeds). !: see the notes."
        )
        found.append(Section(", ".join(names), explanation, frame))
    return found


def numbers(name: str, entries: Sequence[Entry], compared: Sequence[Comparison]) -> pd.DataFrame:
    """Return the entries of table `name`, a row each, and each number in a column; NaN if unknown.

    Metrics are in their units, percent or none; times are in seconds, medians over runs. A
    comparison's columns begin with its role, such as `random_drawn_once_p`.
    """
    return pd.DataFrame([{"table": name} | _numbers(entry, compared) for entry in entries])


def _numbers(entry: Entry, compared: Sequence[Comparison]) -> dict[str, Any]:
    paper = entry.published or Number()
    last = spread([*entry.by_seed("last").values()])
    keys = [f"seconds.{part}" for part in PARTS] + ["parameters.enabled", "peak_memory_bytes"]
    seen = entry.frame.reindex(columns=keys).astype(float)
    other = seen["seconds.training"] + seen["seconds.evaluating"]
    overhead = 100 * seen["seconds.searching"] / other.where(other > 0)
    tested = entry.by_seed("test") if "test" in entry.frame else {}
    row: dict[str, Any] = {
        "model": entry.model,
        "task": entry.task,
        "row": entry.cell.row,
        "column": entry.cell.column,
        "n": len(entry.by_seed()),
        "seeds": " ".join(map(str, entry.by_seed())),
        "missing_seeds": " ".join(map(str, entry.missing)),
        **_spread("best", entry.best, "mean", "std", "median"),
        **_spread("last", last, "mean", "std"),
        **(_spread("test", spread([*tested.values()]), "mean", "std") if tested else {}),
        "parameters_on": seen["parameters.enabled"].median(),
        "printed_mean": paper.printed,
        "printed_std": paper.std,
        **_spread("logged", paper.logs, "n", "mean", "std"),
        "logged_later": paper.later,
        **{f"seconds_{part}": seen[f"seconds.{part}"].median() for part in PARTS},
        "overhead_percent": overhead.median(),
        "peak_memory_bytes": seen["peak_memory_bytes"].max(),
        "searches": len(entry.searches),
        "searches_degenerate": int(entry.searches["degenerate"].sum()),
        "searches_tied": int(entry.searches["tied"].sum()),
    }
    for one in compared:
        if one.entry is entry:
            low, high = one.paired.interval or (None, None)
            own, others = one.seconds
            found = {
                "row": one.other.label,
                "n": one.paired.n,
                "difference": one.paired.difference,
                "difference_std": one.paired.std,
                "low": low,
                "high": high,
                "p": one.paired.p,
                "p_holm": one.p_holm,
                "size": one.size,
                "seeds_needed": one.seeds_needed,
                "gain_ruled_out": one.ruled_out,
                "seconds_own": own,
                "seconds_other": others,
            }
            prefix = "_".join(one.role.replace(",", "").split())
            row |= {f"{prefix}_{key}": value for key, value in found.items()}
    return row | {"flags": "; ".join(entry.flags) or None}


def _spread(prefix: str, found: Spread | None, *keys: str) -> dict[str, float | None]:
    return {f"{prefix}_{key}": getattr(found, key, None) for key in keys}


def stability(entries: Sequence[Entry]) -> Section:
    """Show how alike an entry's seeds are: the sites on after the last search, and the metric."""
    rows = []
    for entry in entries:
        if entry.best is None:
            continue
        overlaps = pd.Series(jaccard_between(entry.runs).values(), dtype=float)
        values = entry.by_seed().values()
        rows.append(
            {
                **entry.names,
                "n": entry.best.n,
                "Jaccard": text(overlaps.mean(), ".2f"),
                "lowest": text(overlaps.min(), ".2f"),
                "highest": text(overlaps.max(), ".2f"),
                "best epoch": mean_std(entry.best.mean, entry.best.std),
                "range": f"{max(values) - min(values):.1f}" if len(values) > 1 else NOTHING,
            }
        )
    explanation = (
        "Jaccard: sites on in both seeds / sites on in either, after the last search; the mean "
        "over pairs of seeds, and the lowest and highest pair. The random row shows what chance "
        "gives. Range: highest minus lowest best epoch, in points."
    )
    return section("Stability over seeds", explanation, rows)


def details(entries: Sequence[Entry], found: pd.DataFrame) -> Section:
    """List every entry beside the paper's numbers; `found` are the entries' `numbers`."""
    published = any(entry.published for entry in entries)
    tested = "test_mean" in found
    rows = []
    for entry, known in zip(entries, found.to_dict("records"), strict=True):
        row = {
            **entry.names,
            "n": known["n"],
            "best epoch": mean_std(known["best_mean"], known["best_std"]),
            "median": text(known["best_median"], ".1f"),
            "last": text(known["last_mean"], ".1f"),
            **({"test": mean_std(known["test_mean"], known["test_std"])} if tested else {}),
            "parameters": text(known["parameters_on"], ",.0f"),
        }
        if published:
            row["printed"] = mean_std(known["printed_mean"], known["printed_std"])
            row["logged"] = mean_std(known["logged_mean"], known["logged_std"])
            if row["logged"] != NOTHING and known["logged_n"] != 3:
                row["logged"] += f" ({known['logged_n']:.0f})"
        rows.append(row)
    explanation = (
        "Over seeds: the best epoch's mean ± sample standard deviation and median, the last "
        "epoch's mean; the adapter parameters that are on at the end."
    )
    if tested:
        explanation += " Test: the best epoch on a split that was not used for selection."
    if published:
        explanation += (
            " Printed: in the paper. Logged: mean ± std in the authors' logs (number of seeds, "
            "if not three)."
        )
    return section("Cells", explanation, rows)


def comparisons(found: Sequence[Comparison]) -> Section:
    """List the paired statistics of each comparison."""
    rows = [
        {
            **one.entry.names,
            "against": one.role,
            "n": one.paired.n,
            "difference": text(one.paired.difference, "+.2f"),
            "95% interval": _interval(one.paired),
            "p": _p(one.paired.p),
            "Holm p": _p(one.p_holm),
            "seeds needed": f"{one.seeds_needed} for {one.size:.1f}"
            if one.seeds_needed
            else NOTHING,
        }
        for one in found
        if one.paired.n
    ]
    tests = sum(one.p_holm is not None for one in found)
    explanation = (
        "Difference: the row minus its baseline of equal budget, or minus random allocation, in "
        "points: the mean over the n seeds that both rows have, with its t interval. p: "
        f"two-sided sign-flip test, exact up to n = {EXACT} and estimated from {RESAMPLES + 1:,} "
        f"sign vectors above that; Holm p: corrected for the {tests} comparisons that have one. "
        "Seeds needed: for a t test to detect a difference of the paper's size (in points) at 0.05 "
        "with power 0.8, if differences vary as they do here (a rough estimate where seeds are "
        "few)."
    )
    return section("Comparisons, seed by seed", explanation, rows)


def gains(found: Sequence[Comparison]) -> Section:
    """List what each comparison gains and at what cost, and which gains it rules out."""
    rows = [
        {
            **one.entry.names,
            "against": one.role,
            "gain": text(one.gain, "+.2f"),
            "ruled out": _ruled_out(one.ruled_out),
            "seconds": text(one.seconds[0], ",.1f"),
            "the other's": text(one.seconds[1], ",.1f"),
        }
        for one in found
        if one.paired.n
    ]
    explanation = (
        "Gain: the difference in the section above, positive where the row is better. Ruled out: "
        "gains above this are outside the 95% interval. Seconds: training and searching, for the "
        "row and for the row that it is compared with; medians over the seeds that both rows "
        "have."
    )
    return section("Gains, their cost, and what is ruled out", explanation, rows)


def costs(entries: Sequence[Entry], found: pd.DataFrame) -> Section:
    """List time and memory of each entry, and how decisive its searches were."""
    rows = [
        {
            **entry.names,
            "train s": text(known["seconds_training"], ",.1f"),
            "search s": text(known["seconds_searching"], ",.1f"),
            "eval s": text(known["seconds_evaluating"], ",.1f"),
            "overhead": text(known["overhead_percent"] / 100, ".1%"),
            "peak MiB": text(known["peak_memory_bytes"] / 2**20, ",.0f"),
            "degenerate": entry.of_searches("degenerate") or NOTHING,
            "tied": entry.of_searches("tied") or NOTHING,
        }
        for entry, known in zip(entries, found.to_dict("records"), strict=True)
        if entry.runs
    ]
    explanation = (
        "Median seconds of a run; overhead: searching as a share of training and evaluating; the "
        "highest peak memory. Degenerate: searches in which all scores were equal, so sites were "
        "chosen at random (always the case where random allocation is redrawn); tied: searches "
        "in which equal scores at the cutoff were decided at random."
    )
    return section("Cost and searches", explanation, rows)


def _entry(entry: Entry) -> str:
    if entry.best is None:
        return "missing"
    return (
        f"{mean_std(entry.best.mean, entry.best.std)} ({entry.best.n}){'!' if entry.flags else ''}"
    )


def _paper(number: Number | None) -> str:
    """Format the printed number or, if there is none, the logged one, marked as such."""
    if number is None:
        return ""
    if number.printed is None and number.logs:
        return f"{mean_std(number.logs.mean, number.logs.std)} log"
    return mean_std(number.printed, number.std)


def _interval(paired: Paired) -> str:
    if paired.interval is None:
        return "one seed" if paired.n == 1 else "no spread"
    return "{:+.2f} to {:+.2f}".format(*paired.interval)


def _ruled_out(bound: float | None) -> str:
    if bound is None:
        return NOTHING
    return f"above {bound:.2f}" if bound > 0 else "any gain"


def _p(value: float | None) -> str:
    return text(value, ".2f" if value is not None and value >= 0.01 else ".1g")
