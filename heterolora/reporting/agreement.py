"""How far searches agree: between seeds, between proxies, and from one to the next."""

from collections.abc import Mapping, Sequence
from itertools import combinations, pairwise

import numpy as np
from scipy import stats

from heterolora.reporting.arms import CONTROL, Arm, labels
from heterolora.reporting.load import Run
from heterolora.tracking.sinks import Row


def on_sites(search: Row) -> frozenset[str]:
    """The sites that a search switched on."""
    return frozenset(site for site, rank in search["ranks"].items() if rank > 0)


def jaccard(first: frozenset[str], second: frozenset[str]) -> float:
    """|A and B| / |A or B|: 1 for the same sites, 0 for none in common; one must not be empty."""
    return len(first & second) / len(first | second)


def jaccard_by_chance(sites: int, on: int) -> float:
    """The mean of `jaccard` over random allocations, both with `on` of `sites` sites on.

    E[x / (2 on - x)], where x, the number of sites in common, is hypergeometric.
    """
    common = np.arange(on + 1)
    share = stats.hypergeom(sites, on, on).pmf(common)
    return float(np.sum(share * common / (2 * on - common)))


def jaccard_between(runs: Sequence[Run]) -> dict[tuple[int, int], float]:
    """For each pair of seeds, the agreement of the sites that are on after the last search.

    Args:
        runs: of one arm; those that never searched are passed over.
    """
    last = {run.seed: on_sites(run.searches[-1]) for run in runs if run.searches}
    return {
        (first, second): jaccard(last[first], last[second])
        for first, second in combinations(sorted(last), 2)
    }


def churn(run: Run) -> list[float]:
    """For each search but the first, the share of the sites on that were off before it.

    |B without A| / |B|, with A on before the search and B on after it. A search that chose at
    random, without regard to the one before, would have 1 - |A| / |sites| on the average.
    """
    chosen = [on_sites(search) for search in run.searches]
    return [len(after - before) / len(after) for before, after in pairwise(chosen)]


def spearman(first: Mapping[str, float], second: Mapping[str, float]) -> float | None:
    """The rank correlation of two scores of the same sites; None where one ranks nothing."""
    sites = list(first)
    values = [first[site] for site in sites], [second[site] for site in sites]
    if any(len(set(of_proxy)) < 2 for of_proxy in values):
        return None
    return float(stats.spearmanr(*values).statistic)


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
    """For each two arms, by their labels, the rank correlation of their scores, for each seed.

    Only the first search is compared: there the proxies score the very same model. From then on
    each has trained another allocation, and scores that differ may owe it to the weights as well
    as to the proxy. A seed whose scores are all equal under one of the two is left out.

    Args:
        arms: that differ in nothing but the proxy, as from `by_proxy`.
    """
    return {
        (first.label, second.label): _first_search_correlations(first, second)
        for first, second in combinations(arms, 2)
    }


def _first_search_correlations(first: Arm, second: Arm) -> list[float]:
    scores = [
        {run.seed: run.searches[0]["scores"] for run in arm.searched} for arm in (first, second)
    ]
    seeds = sorted(scores[0].keys() & scores[1].keys())
    found = (spearman(scores[0][seed], scores[1][seed]) for seed in seeds)
    return [value for value in found if value is not None]
