"""The frame of sites: a row for each site whenever a run scored it."""

from collections.abc import Iterable, Iterator, Mapping

import pandas as pd

from heterolora.harness.records.read import Run

IMPORTANCE = "importance"
"""The rule that knows what leaving out each trained site costs."""


def sites(runs: Iterable[Run]) -> pd.DataFrame:
    """Return a frame with a row for each site whenever one of the runs scored it.

    Its columns are `run`, which is counted from 0 among `runs`; `search`, which is counted from 0
    within the run; `site`; `score`; and `rank`, which is 0 if the site is off.

    If a run measured the importance of its sites, these have further rows, without a rank: where
    `search` is `IMPORTANCE`, the score is the loss without the site minus the loss with all; where
    it is the name of a proxy, it is the proxy's score before training.
    """
    rows = [
        (number, search, site, score, ranks.get(site))
        for number, run in enumerate(runs)
        for search, scores, ranks in _scored(run)
        for site, score in scores.items()
    ]
    return pd.DataFrame(rows, columns=["run", "search", "site", "score", "rank"])


def measured(runs: Iterable[Run]) -> pd.DataFrame:
    """Return the scores that were measured beside searches: a row per run and site, a column each.

    The first column is `IMPORTANCE`; the others are proxies.
    """
    frame = sites(runs)
    scores = frame[frame["rank"].isna()].set_index(["run", "site", "search"])["score"]
    return scores.unstack(sort=False)


def _scored(run: Run) -> Iterator[tuple[int | str, Mapping[str, float], Mapping[str, int]]]:
    for number, search in enumerate(run.searches):
        yield number, search.scores, search.ranks
    if run.importance:
        yield IMPORTANCE, {row.site: row.loss_difference for row in run.importance}, {}
        for proxy in run.importance[0].scores:
            known = (row for row in run.importance if proxy in row.scores)
            yield proxy, {row.site: row.scores[proxy] for row in known}, {}
