"""Importance: whether proxies' scores foretell what leaving each site out costs."""

import pandas as pd

from heterolora.errors import RecordError
from heterolora.harness.reporting.frame import finished, listed, unfinished
from heterolora.harness.reporting.layout import Table
from heterolora.harness.reporting.report import Report, Section, text
from heterolora.harness.reporting.sites.agreement import spearman
from heterolora.harness.reporting.sites.frame import IMPORTANCE, measured
from heterolora.harness.reporting.sites.standing import by_places, excluded


def report(table: Table, runs: pd.DataFrame) -> Report:
    """Report Spearman's rank correlation of proxies' scores with the cost of leaving sites out.

    Over the sites i of a run, between score_i and the loss without site i minus the loss with all;
    then mean and range over seeds.

    Raises:
        RecordError: if no run measured its sites' importance.
    """
    runs_and_scores = [
        (run, measured([run]))
        for run in finished(runs)["run"]
        if run.importance and not excluded(run)
    ]
    rows = [
        {
            "model": run.setting("model.name"),
            "task": run.setting("task.name"),
            "row": " ".join(
                filter(None, (run.setting("strategy.name"), run.setting("proxy.name")))
            ),
            "proxy": proxy,
            "seed": run.seed,
            "sites": len(scores),
            "spearman": spearman(scores[proxy], scores[IMPORTANCE]),
        }
        for run, scores in runs_and_scores
        for proxy in scores
        if proxy != IMPORTANCE
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
