"""How far searches agree: between seeds, between proxies, and from one search to the next."""

import math
from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations, pairwise

import pandas as pd
from scipy import stats

from heterolora.harness.records.read import Run
from heterolora.harness.records.schema import CONTROL
from heterolora.harness.reporting.arms import Arm, labels
from heterolora.harness.reporting.sites.frame import sites


def on_sites(frame: pd.DataFrame) -> pd.Series:
    """Return the sites that each search switched on, by run and search, from a frame of sites."""
    return frame[frame["rank"] > 0].groupby(["run", "search"])["site"].agg(frozenset)


def jaccard(first: frozenset[str], second: frozenset[str]) -> float:
    """Return |A and B| / |A or B|: 1 for equal sets, 0 for disjoint ones; one must not be empty."""
    return len(first & second) / len(first | second)


def jaccard_by_chance(sites: int, on: int) -> float:
    """Return the mean `jaccard` of two random allocations, each with `on` of `sites` sites on.

    E[x / (2 on - x)], where x, the number of sites in common, is hypergeometric.
    """
    return float(stats.hypergeom(sites, on, on).expect(lambda x: x / (2 * on - x)))


def jaccard_between(runs: Sequence[Run]) -> dict[tuple[int, int], float]:
    """Return for each pair of seeds the `jaccard` of the sites on after the last search.

    The runs belong to one arm; those that never searched are skipped.
    """
    last = on_sites(sites(runs)).groupby("run").last()
    of_seed = {runs[number].seed: chosen for number, chosen in last.items()}
    return {(a, b): jaccard(of_seed[a], of_seed[b]) for a, b in combinations(sorted(of_seed), 2)}


def churn(runs: Iterable[Run]) -> list[float]:
    """Return for each search but a run's first the share of its sites on that were off before.

    |B without A| / |B|, with A on before the search and B on after it. A search that chose at
    random, regardless of the one before, would have 1 - |A| / |sites| on average.
    """
    return [
        len(after - before) / len(after)
        for _, chosen in on_sites(sites(runs)).groupby("run")
        for before, after in pairwise(chosen)
    ]


def spearman(
    first: Mapping[str, float] | pd.Series, second: Mapping[str, float] | pd.Series
) -> float:
    """Return the rank correlation of two values per site, over the sites that have both.

    NaN if either has all values equal.
    """
    values = pd.DataFrame({"first": first, "second": second}).dropna()
    if values.nunique().min() < 2:
        return math.nan
    return float(values["first"].corr(values["second"], method="spearman"))


def by_proxy(arms: Sequence[Arm]) -> dict[str, list[Arm]]:
    """Group arms that differ only in the proxy, two or more, by a label of what they share.

    The control is left out: by design, its scores are all equal and rank nothing.
    """
    searched = [arm for arm in arms if arm.searched and arm.setting("proxy.name") != CONTROL]
    shared = [
        {key: value for key, value in arm.settings.items() if not key.startswith("proxy.")}
        for arm in searched
    ]
    groups: dict[str, list[Arm]] = {}
    for label, arm in zip(labels(shared), searched, strict=True):
        groups.setdefault(label, []).append(arm)
    return {label: group for label, group in groups.items() if len(group) > 1}


def spearman_between(arms: Sequence[Arm]) -> dict[tuple[str, str], list[float]]:
    """Return the rank correlations of scores, one per seed, for each pair of arms in a group.

    The groups are those of `by_proxy`. Only the first search is compared, where the proxies score
    the very same model. Later, each has trained another allocation, and differences between scores
    may come from the weights as well as from the proxy. A seed is left out if all its scores are
    equal under either proxy.
    """
    first = {arm.label: _first_scores(arm.searched) for arm in arms}
    found = {}
    for one, two in combinations(first, 2):
        seeds = sorted({*first[one]} & {*first[two]})
        values = [spearman(first[one][seed], first[two][seed]) for seed in seeds]
        found[one, two] = [value for value in values if not math.isnan(value)]
    return found


def _first_scores(runs: Sequence[Run]) -> pd.DataFrame:
    """Return the scores of each run's first search: a row for each site, a column for each seed."""
    frame = sites(runs)
    first = frame[frame["search"] == 0].pivot(index="site", columns="run", values="score")
    return first.rename(columns=lambda number: runs[number].seed)
