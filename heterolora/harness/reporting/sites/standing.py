"""Standings: how each site ranks among those of its model, by importance and by each proxy."""

from collections.abc import Iterator, Mapping, Sequence

import pandas as pd

from heterolora.harness.records.read import Run
from heterolora.harness.reporting.frame import matching
from heterolora.harness.reporting.report import Section, section, text
from heterolora.harness.reporting.sites.agreement import spearman
from heterolora.harness.reporting.sites.frame import measured
from heterolora.sites import ROLES, Site

WITHOUT = "trained without"
"""The cost in the metric of training without a site from the start, listed beside the proxies."""
THIRDS = ("early", "middle", "late")
"""The thirds of the layers, in order."""


def standings(runs: Sequence[Run]) -> pd.DataFrame:
    """Return each site's importance and scores as ranks, 0 for the lowest and 1 for the highest.

    `(rank - 1) / (sites - 1)` within a run, where equal numbers share the mean of their ranks, so
    that numbers of different magnitudes can be compared. A row per run and site; a column each.
    """
    return measured(runs).groupby("run").transform(_ranked)


def mean_standings(runs: Sequence[Run], costs: Mapping[str, float] | None = None) -> pd.DataFrame:
    """Return the mean over runs of each site's standings; with `costs`, also by these."""
    found = standings(runs).groupby("site", sort=False).mean()
    if costs:
        found.insert(1, WITHOUT, _ranked(pd.Series(costs).reindex(found.index)))
    return found


def excluded(run: Run) -> tuple[str, ...]:
    """Return the sites at which a run had no adapter; old records lack the setting."""
    return tuple(run.setting("search_space.exclude") or ())


def costs_of_training_without(runs: Sequence[Run]) -> dict[str, float]:
    """Return the cost of training without a site from the start, for each site with such runs.

        mean over seeds of best(all sites) - best(all sites but one)

    with the opposite sign for a metric of which less is better.

    Args:
        runs: finished runs of one model and task, which differ in the seed and in what they
            exclude.
    """
    whole = {run.seed: run.best for run in runs if not excluded(run)}
    costs: dict[str, list[float]] = {}
    for run in runs:
        if len(excluded(run)) == 1 and run.seed in whole:
            sign = 1 if run.higher_is_better else -1
            costs.setdefault(excluded(run)[0], []).append(sign * (whole[run.seed] - run.best))
    return {site: sum(values) / len(values) for site, values in costs.items()}


def places(runs: pd.DataFrame) -> Iterator[tuple[str, list[Run], dict[str, float]]]:
    """Yield each model and task whose runs measured importance: its name, its runs, and costs."""
    homogeneous = runs[matching(runs, {"strategy.name": "homogeneous"})]
    for place, found in homogeneous.groupby(["model.name", "task.name"], sort=False)["run"]:
        measured = [run for run in found if run.importance and not excluded(run)]
        if measured:
            yield ", ".join(reversed(place)), measured, costs_of_training_without(found.tolist())


def by_places(runs: pd.DataFrame) -> list[Section]:
    """Show how the sites of each model and task rank, and what predicts the cost of each."""
    found = list(places(runs))
    return [
        *(by_place(*one) for one in found),
        *(foretold(*one) for one in found if one[2]),
    ]


def by_place(place: str, runs: Sequence[Run], costs: Mapping[str, float]) -> Section:
    """Show the mean standing of the sites of each role and of each third of the layers."""
    found = mean_standings(runs, costs)
    sites = [Site.parse(name) for name in found.index]
    depth = max(site.layer for site in sites) + 1
    third = pd.Index([THIRDS[3 * site.layer // depth] for site in sites])
    role = pd.Index([site.role for site in sites])
    means = pd.concat(
        [
            found.groupby(role).mean().reindex([one for one in ROLES if one in role]),
            found.groupby(third).mean().reindex([one for one in THIRDS if one in third]),
        ]
    )
    shown = means.map(lambda value: text(value, ".2f")).rename_axis("sites").reset_index()
    explanation = (
        "Sites are ranked by importance (how much the loss rises without them after training), "
        "by what training without them costs where that was run, and by each proxy's scores: 0 "
        "is the lowest, 1 the highest. Means over the sites of a role, and over each third of "
        f"the layers, of {len(runs)} runs; 0.50 is the mean of all sites."
    )
    return Section(f"Where sites rank: {place}", explanation, shown)


def foretold(place: str, runs: Sequence[Run], costs: Mapping[str, float]) -> Section:
    """Show how importance and each proxy agree with the cost of training without a site."""
    found = mean_standings(runs, costs)
    rows = [
        {"rule": rule, "Spearman": text(spearman(found[rule], costs), "+.2f")}
        for rule in found.columns
        if rule != WITHOUT
    ]
    low, high = min(costs.values()), max(costs.values())
    explanation = (
        f"Training without a site from the start costs {low:+.1f} to {high:+.1f} points "
        f"({len(costs)} sites, each the mean over the seeds of both). Spearman's rank correlation "
        "of these costs with importance after training, and with each proxy's scores before it."
    )
    return section(f"What training without a site costs: {place}", explanation, rows)


def _ranked(values: pd.Series) -> pd.Series:
    return (values.rank() - 1) / max(1, len(values) - 1)
