"""How far searches agree: between seeds, between proxies, and from one search to the next."""

import math
from collections.abc import Mapping, Sequence
from itertools import combinations, pairwise

import pandas as pd
from scipy import stats

from heterolora.harness.records.read import Run
from heterolora.harness.records.schema import CONTROL, SearchRow
from heterolora.harness.reporting.arms import Arm, labels


def on_sites(search: SearchRow) -> frozenset[str]:
    """Return the sites that a search switched on."""
    return frozenset(site for site, rank in search.ranks.items() if rank > 0)


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
    last = {run.seed: on_sites(run.searches[-1]) for run in runs if run.searches}
    return {(a, b): jaccard(last[a], last[b]) for a, b in combinations(sorted(last), 2)}


def churn(run: Run) -> list[float]:
    """Return for each search but the first the share of its sites on that were off before.

    |B without A| / |B|, with A on before the search and B on after it. A search that chose at
    random, regardless of the one before, would have 1 - |A| / |sites| on average.
    """
    chosen = [on_sites(search) for search in run.searches]
    return [len(after - before) / len(after) for before, after in pairwise(chosen)]


def spearman(first: Mapping[str, float], second: Mapping[str, float]) -> float:
    """Return the rank correlation of two values per site; NaN if either has all values equal."""
    values = pd.DataFrame({"first": first, "second": second})
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
    first = {arm.label: {run.seed: run.searches[0].scores for run in arm.searched} for arm in arms}
    found = {}
    for one, two in combinations(first, 2):
        seeds = sorted(first[one].keys() & first[two].keys())
        values = [spearman(first[one][seed], first[two][seed]) for seed in seeds]
        found[one, two] = [value for value in values if not math.isnan(value)]
    return found
