"""How far searches agree: between seeds, between proxies, and from one to the next."""

import math
from collections.abc import Mapping, Sequence
from itertools import combinations, pairwise

import pandas as pd
from scipy import stats

from heterolora.records.read import Run
from heterolora.records.schema import SearchRow
from heterolora.reporting.arms import CONTROL, Arm, labels


def on_sites(search: SearchRow) -> frozenset[str]:
    """The sites that a search switched on."""
    return frozenset(site for site, rank in search.ranks.items() if rank > 0)


def jaccard(first: frozenset[str], second: frozenset[str]) -> float:
    """|A and B| / |A or B|: 1 for the same sites, 0 for none in common; one must not be empty."""
    return len(first & second) / len(first | second)


def jaccard_by_chance(sites: int, on: int) -> float:
    """The mean of `jaccard` over random allocations, both with `on` of `sites` sites on.

    E[x / (2 on - x)], where x, the number of sites in common, is hypergeometric.
    """
    return float(stats.hypergeom(sites, on, on).expect(lambda x: x / (2 * on - x)))


def jaccard_between(runs: Sequence[Run]) -> dict[tuple[int, int], float]:
    """For each pair of seeds, the agreement of the sites that are on after the last search.

    The runs are of one arm; those that never searched are passed over.
    """
    last = {run.seed: on_sites(run.searches[-1]) for run in runs if run.searches}
    return {(a, b): jaccard(last[a], last[b]) for a, b in combinations(sorted(last), 2)}


def churn(run: Run) -> list[float]:
    """For each search but the first, the share of the sites on that were off before it.

    |B without A| / |B|, with A on before the search and B on after it. A search that chose at
    random, without regard to the one before, would have 1 - |A| / |sites| on average.
    """
    chosen = [on_sites(search) for search in run.searches]
    return [len(after - before) / len(after) for before, after in pairwise(chosen)]


def spearman(first: Mapping[str, float], second: Mapping[str, float]) -> float:
    """The rank correlation of two numbers of the same sites; NaN where one ranks nothing."""
    values = pd.DataFrame({"first": first, "second": second})
    if values.nunique().min() < 2:
        return math.nan
    return float(values["first"].corr(values["second"], method="spearman"))


def by_proxy(arms: Sequence[Arm]) -> dict[str, list[Arm]]:
    """Arms that differ in nothing but the proxy, two or more, by a label of what they share.

    The control's scores are all equal by design and rank nothing; it is left out.
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
    """For each two arms of a group of `by_proxy`, the rank correlation of scores, for each seed.

    Only the first search is compared: there the proxies score the very same model. From then on
    each has trained another allocation, and scores that differ may owe it to the weights as well
    as to the proxy. A seed whose scores are all equal under one of the two is left out.
    """
    first = {arm.label: {run.seed: run.searches[0].scores for run in arm.searched} for arm in arms}
    found = {}
    for one, two in combinations(first, 2):
        seeds = sorted(first[one].keys() & first[two].keys())
        values = [spearman(first[one][seed], first[two][seed]) for seed in seeds]
        found[one, two] = [value for value in values if not math.isnan(value)]
    return found
