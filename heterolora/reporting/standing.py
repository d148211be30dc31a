"""Where each site stands among those of its run, by importance and by each proxy."""

from collections.abc import Sequence

import pandas as pd

from heterolora.records.read import Run
from heterolora.reporting.report import Section, text
from heterolora.sites import ROLES, Site

IMPORTANCE = "importance"
THIRDS = ("early", "middle", "late")
"""Of the layers, in order."""


def standings(run: Run) -> pd.DataFrame:
    """For each site its importance and scores as ranks, 0 for the lowest and 1 for the highest.

    `(rank - 1) / (sites - 1)`, equal numbers having the mean of their ranks, so that what has
    numbers of different sizes can be compared.
    """
    values = pd.DataFrame(
        {row.site: {IMPORTANCE: row.loss_difference, **row.scores} for row in run.importance}
    ).T
    return (values.rank() - 1) / max(1, len(values) - 1)


def mean_standings(runs: Sequence[Run]) -> pd.DataFrame:
    """The mean over runs of each site's standings."""
    found = pd.concat(map(standings, runs))
    return found.groupby(level=0, sort=False).mean()


def by_places(runs: pd.DataFrame) -> list[Section]:
    """`by_place` of each model and task whose runs measured importance."""
    measured = runs[[bool(run.importance) for run in runs["run"]]]
    groups = measured.groupby(["model.name", "task.name"], sort=False)["run"]
    return [by_place(", ".join(reversed(place)), found.tolist()) for place, found in groups]


def by_place(place: str, runs: Sequence[Run]) -> Section:
    """The mean standing of the sites of each role and of each third of the layers."""
    found = mean_standings(runs)
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
        "Sites are ranked by importance (what leaving them out costs in loss) and by each proxy's "
        f"scores: 0 for the lowest, 1 for the highest. The mean over the sites of a role, and of "
        f"each third of the layers, of {len(runs)} runs; 0.50 is the mean of all."
    )
    return Section(f"Where sites stand: {place}", explanation, shown)
