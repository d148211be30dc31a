"""Open questions of the paper: stability over seeds, and proxy scores against true importance."""

from collections.abc import Sequence
from statistics import fmean

import pandas as pd
from scipy import stats

from heterolora.errors import RecordError
from heterolora.reporting.agreement import jaccard_between
from heterolora.reporting.cells import Cell
from heterolora.reporting.load import Run
from heterolora.reporting.notes import unfinished
from heterolora.reporting.report import Report, Section, section
from heterolora.reporting.sections import NOTHING, mean_std, placed

IMPORTANCE = "importance"


def stability(cells: Sequence[Cell]) -> Section:
    """How alike the seeds of each cell are: what is on after the last search, and the metric."""
    rows = []
    for cell in cells:
        if not cell.runs:
            continue
        overlaps = list(jaccard_between(cell.runs).values()) if cell.searches.total else []
        values = list(cell.by_seed.values())
        rows.append(
            {
                "row": cell.arm.label,
                **placed(cell, cells),
                "n": str(len(values)),
                "Jaccard": f"{fmean(overlaps):.2f}" if overlaps else NOTHING,
                "lowest": f"{min(overlaps):.2f}" if overlaps else NOTHING,
                "highest": f"{max(overlaps):.2f}" if overlaps else NOTHING,
                "best epoch": mean_std(cell.best),
                "range": f"{max(values) - min(values):.1f}" if len(values) > 1 else NOTHING,
            }
        )
    return section(
        "Stability over seeds",
        "Jaccard: sites on in both seeds / on in either, after the last search, the mean over "
        "pairs of seeds, and its lowest and highest pair; chance gives what the random row "
        "has. Range: highest minus lowest best epoch, in points.",
        rows,
    )


def importance(runs: Sequence[Run]) -> Report:
    """Spearman's rank correlation of each proxy's scores with what leaving a site out costs.

    Over the sites i of a run, between score_i and the loss without site i minus the loss with
    all; then mean and range over seeds.

    Raises:
        RecordError: if no run measured its sites' importance.
    """
    measured = [run for run in runs if run.finished and run.importance]
    if not measured:
        raise RecordError(
            "no run here left its sites out one by one after training; make importance makes such"
        )
    rows, notes = [], list(unfinished([run for run in runs if run.config["name"] == IMPORTANCE]))
    groups: dict[tuple[str, str, str, str], list[Run]] = {}
    for run in measured:
        for proxy in run.importance[0]["scores"]:
            groups.setdefault((*_who(run), proxy), []).append(run)
    for (model, task, row, proxy), members in groups.items():
        found = {run.seed: rank_correlation(run, proxy) for run in members}
        known = [value for value in found.values() if value is not None]
        silent = [str(seed) for seed, value in found.items() if value is None]
        if silent:
            notes.append(
                f"{proxy}, {row}, {task}, seed {', '.join(silent)}: all scores or all losses are "
                "equal, so there is no rank correlation"
            )
        rows.append(
            {"model": model, "task": task, "row": row, "proxy": proxy, "n": len(known)}
            | {"spearman_mean": fmean(known) if known else None}
            | {"spearman_low": min(known, default=None), "spearman_high": max(known, default=None)}
            | {"sites": len(members[0].importance)}
        )
    explanation = (
        "Spearman's rank correlation over the sites of a run: 1 where a higher score always goes "
        "with a site whose absence costs more loss, 0 for chance, -1 for the reverse; mean and "
        "range over n seeds."
    )
    return Report(
        "Scores and true importance",
        "After training, each site is left out once: the loss without it minus the loss with all "
        "is its importance.",
        [section("Rank correlations", explanation, [_as_text(row) for row in rows])],
        notes,
        pd.DataFrame(rows),
    )


def rank_correlation(run: Run, proxy: str) -> float | None:
    """Of one proxy's scores with the loss differences; None where either are all equal."""
    rows = [row for row in run.importance if proxy in row["scores"]]
    scores = [row["scores"][proxy] for row in rows]
    costs = [row["loss_difference"] for row in rows]
    if len(set(scores)) < 2 or len(set(costs)) < 2:
        return None
    return float(stats.spearmanr(scores, costs).statistic)


def _who(run: Run) -> tuple[str, str, str]:
    names = (run.setting("strategy.name"), run.setting("proxy.name"))
    row = " ".join(str(name) for name in names if name)
    return str(run.setting("model.name")), str(run.setting("task.name")), row


def _as_text(row: dict[str, object]) -> dict[str, str]:
    def number(key: str) -> str:
        return NOTHING if row[key] is None else f"{row[key]:+.2f}"

    return {
        "proxy": str(row["proxy"]),
        "row": str(row["row"]),
        "task": str(row["task"]),
        "model": str(row["model"]),
        "n": str(row["n"]),
        "sites": str(row["sites"]),
        "Spearman": number("spearman_mean"),
        "lowest": number("spearman_low"),
        "highest": number("spearman_high"),
    }
