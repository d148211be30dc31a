"""Open questions of the paper: stability over seeds, a tuned setting, scores and importance."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import pandas as pd

from heterolora.errors import RecordError
from heterolora.harness.records.read import Run
from heterolora.harness.reporting.entries import Entry
from heterolora.harness.reporting.frame import finished, listed, unfinished
from heterolora.harness.reporting.layout import Table
from heterolora.harness.reporting.report import NOTHING, Report, Section, mean_std, section, text
from heterolora.harness.reporting.sites.agreement import jaccard_between, spearman
from heterolora.harness.reporting.sites.standing import by_places, excluded


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


def tuning(entry: Entry, seeds: Sequence[int]) -> pd.DataFrame:
    """Return the runs used for tuning: those of `seeds`, or all if there are none."""
    return entry.frame[entry.frame["seed"].isin(seeds)] if seeds else entry.frame


def chosen(entry: Entry, key: str, seeds: Sequence[int] = ()) -> Any:
    """Return the value of `key` with the best mean over runs of the selection half's best metric.

    The smallest in a tie; None if there are no runs. The report half is not used.

    Args:
        entry: an entry with runs at several values.
        key: the tuned key.
        seeds: the seeds of the runs that choose; all if empty.
    """
    runs = tuning(entry, seeds)
    means = runs["selection"].astype(float).groupby(runs[key]).mean()
    if means.empty:
        return None
    return means.idxmax() if entry.runs[0].higher_is_better else means.idxmin()


def at_best(entry: Entry, key: str, seeds: Sequence[int] = ()) -> Entry:
    """Return the entry with only the runs at the `chosen` value, and without those of `seeds`."""
    reported = (entry.frame[key] == chosen(entry, key, seeds)) & ~entry.frame["seed"].isin(seeds)
    left = tuple(seed for seed in entry.missing if seed not in seeds)
    return replace(entry, frame=entry.frame[reported], missing=left)


def tried(entries: Sequence[Entry], key: str, seeds: Sequence[int] = ()) -> Section:
    """List every value of `key` in every entry, and which was chosen."""
    rows = [
        {
            **entry.names,
            key: f"{value:g}",
            "n": len(found),
            "selection half": mean_std(found.mean(), found.std()),
            "": "chosen" if value == chosen(entry, key, seeds) else "",
        }
        for entry in entries
        for value, found in tuning(entry, seeds)["selection"]
        .astype(float)
        .groupby(entry.frame[key])
    ]
    of = f" (tuning seeds {listed(seeds)}, which are not reported)" if seeds else ""
    explanation = f"The best metric on the selection half, the only one used to choose {key}{of}."
    return section("Values tried", explanation, rows)


def uneven(entries: Sequence[Entry], key: str, seeds: Sequence[int] = ()) -> Iterator[str]:
    """Yield the entries whose values were not tried with the same seeds, in words."""
    for entry in entries:
        if tuning(entry, seeds).groupby(key)["seed"].agg(frozenset).nunique() > 1:
            yield (
                f"{entry.label}, {entry.place}: the values of {key} were not tried with the same "
                "seeds, so the choice compares means over different seeds"
            )


def importance(table: Table, runs: pd.DataFrame) -> Report:
    """Report Spearman's rank correlation of proxies' scores with the cost of leaving sites out.

    Over the sites i of a run, between score_i and the loss without site i minus the loss with all;
    then mean and range over seeds.

    Raises:
        RecordError: if no run measured its sites' importance.
    """
    rows = [
        {
            "model": run.setting("model.name"),
            "task": run.setting("task.name"),
            "row": " ".join(
                filter(None, (run.setting("strategy.name"), run.setting("proxy.name")))
            ),
            "proxy": proxy,
            "seed": run.seed,
            "sites": len(run.importance),
            "spearman": rank_correlation(run, proxy),
        }
        for run in finished(runs)["run"]
        if run.importance and not excluded(run)
        for proxy in run.importance[0].scores
    ]
    if not rows:
        raise RecordError(
            f"no run here measured the importance of its sites; run make {table.name}"
        )
    groups = pd.DataFrame(rows).groupby(["model", "task", "row", "proxy"], sort=False)
    numbers = groups.agg(
        n=("spearman", "count"),
        spearman_mean=("spearman", "mean"),
        spearman_low=("spearman", "min"),
        spearman_high=("spearman", "max"),
        sites=("sites", "first"),
    ).reset_index()
    shown = numbers[["proxy", "row", "task", "model", "n", "sites"]].astype(str)
    for column, name in (("mean", "Spearman"), ("low", "lowest"), ("high", "highest")):
        shown[name] = numbers[f"spearman_{column}"].map(lambda value: text(value, "+.2f"))
    explanation = (
        "Spearman's rank correlation over the sites of a run. 1: a higher score always means a "
        "higher loss when the site is removed; 0: no better than chance; -1: the reverse. Mean "
        "and range over n seeds."
    )
    notes = [
        f"{proxy}, {row}, {task}, seed {listed(equal)}: all scores or all losses are equal, so "
        "there is no rank correlation"
        for (_, task, row, proxy), found in groups
        if len(equal := found["seed"][found["spearman"].isna()])
    ]
    notes += unfinished(runs[runs["name"] == table.name])
    parts = [Section("Rank correlations", explanation, shown), *by_places(finished(runs))]
    return Report(table.title, table.caption, parts, notes, numbers)


def rank_correlation(run: Run, proxy: str) -> float:
    """Correlate one proxy's scores with the loss differences; NaN if either are all equal."""
    rows = [row for row in run.importance if proxy in row.scores]
    costs = {row.site: row.loss_difference for row in rows}
    return spearman({row.site: row.scores[proxy] for row in rows}, costs)
