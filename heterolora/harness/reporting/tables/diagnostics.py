"""Diagnostics: look for signs that a method fails in the records of its runs."""

from collections.abc import Iterable, Sequence
from itertools import combinations, groupby, pairwise
from statistics import mean

import numpy as np
import pandas as pd
from scipy import stats

from heterolora.harness.records.read import Run
from heterolora.harness.records.schema import CONTROL
from heterolora.harness.reporting.arms import Arm, arms
from heterolora.harness.reporting.sites.agreement import churn
from heterolora.harness.reporting.sites.frame import sites
from heterolora.sites import ROLES, Site

CHURN = 0.5
"""A share of random allocation's churn; above it, an allocation is nearer to random than stable."""

NEVER_ON = 0.1
"""A share of the sites: searches leave some off, but beyond this the search space is too wide."""

JUMP = 3.0
"""In robust standard deviations: with normal noise, one step in 740 rises as much."""

JUMP_LEVEL = 0.01
"""One-sided p of Fisher's exact test: chance seldom passes among the ten arms of a report."""

MORE_PARAMETERS = 1.5
"""A ratio of budgets: closer ones differ because ranks are whole, not by intention."""


def diagnostics(runs: pd.DataFrame) -> list[str]:
    """Return a sentence for each sign of failure in the finished runs; empty if there is none.

    Checked for each arm: churn, sites that are never on, and jumps of the training loss after a
    search; between arms: more parameters without better accuracy.
    """
    found = arms(runs)
    of_one = (churning, never_on, jumping)
    sentences = [sentence for arm in found for look in of_one for sentence in look(arm)]
    return [*sentences, *wasted_parameters(found), *without_steps(found)]


def churning(arm: Arm) -> Iterable[str]:
    """Report an allocation that is replaced from search to search."""
    replaced = churn(arm.searched)
    if not replaced or arm.setting("proxy.name") == CONTROL:
        return
    frame = sites(arm.searched)
    by_chance = 1 - (frame["rank"] > 0).groupby([frame["run"], frame["search"]]).mean().mean()
    if mean(replaced) > CHURN * by_chance:
        yield (
            f"{arm.label}: a search replaces {mean(replaced):.0%} of the sites that are on (mean "
            f"of {len(replaced)}; random allocation: {by_chance:.0%})"
        )


def never_on(arm: Arm) -> Iterable[str]:
    """Report sites that no search of any seed switched on, if runs search more than once."""
    frame = sites(run for run in arm.searched if len(run.searches) > 1)
    highest = frame.groupby("site", sort=False)["rank"].max()
    known = pd.DataFrame(map(Site.parse, highest.index), highest.index, ["layer", "role"])
    never = known[highest == 0]
    if len(never) > NEVER_ON * len(known):
        every = known["role"].value_counts()
        layers = dict(iter(never.groupby("role")["layer"]))
        named = "; ".join(
            f"{role} {'(all)' if len(layers[role]) == every[role] else _ranges(layers[role])}"
            for role in sorted(layers, key=ROLES.index)
        )
        yield (
            f"{arm.label}: {len(never)} of {len(known)} sites ({len(never) / len(known):.0%}) are "
            f"never on ({_seeds(len(arm.searched))}): {named}"
        )


def jumping(arm: Arm) -> Iterable[str]:
    """Report a training loss that jumps after searches more often than elsewhere.

    A logged loss is the mean over the steps since the previous one. The rise over a search that
    changed the allocation is measured from the last loss that ends before it to the first that
    begins after it; any other rise, from one loss to the next. It is a jump if it exceeds the run's
    median by more than `JUMP` robust standard deviations, 1.4826 times the median absolute
    deviation, both computed over the other rises. Fisher's exact test compares the two shares of
    jumps over the arm's runs.
    """
    counts = np.sum([_jumps(run) for run in arm.searched], axis=0, initial=0)
    if not np.any(counts):
        return
    (after, calm_after), (elsewhere, calm_elsewhere) = counts
    test = stats.fisher_exact(counts, alternative="greater")
    if test.pvalue < JUMP_LEVEL:
        yield (
            f"{arm.label}: the training loss jumps after {after} of {after + calm_after} searches "
            f"that changed the allocation, and at {elsewhere} of {elsewhere + calm_elsewhere} "
            f"other logged steps (p = {test.pvalue:.1g})"
        )


def without_steps(arms: Sequence[Arm]) -> Iterable[str]:
    """Report how many arms search but have no losses of steps, as in archived records."""
    blind = sum(
        any(len(run.searches) > 1 and not run.steps for run in arm.searched) for arm in arms
    )
    if blind:
        yield (
            f"{blind} arm{'s' * (blind != 1)} that search repeatedly: the records have no losses "
            "of single steps, so jumps of the training loss could not be checked"
        )


def _jumps(run: Run) -> list[list[int]]:
    """Return [[jumps, others] after reallocations, [jumps, others] elsewhere]."""
    steps, losses = [row.step for row in run.steps], np.array([row.loss for row in run.steps])
    over = set()
    for before, after in pairwise(run.searches):
        # The last row that ends before the search, and the first that begins after it.
        last = int(np.searchsorted(steps, after.step, side="right")) - 1
        first = int(np.searchsorted(steps, after.step, side="left")) + 1
        if before.ranks != after.ranks and last >= 0 and first < len(steps):
            over.add((last, first))
    touched = [row for last, first in over for row in range(last + 1, first + 1)]
    across = np.array([losses[first] - losses[last] for last, first in over])
    usual = np.delete(np.diff(losses), np.array(touched, dtype=int) - 1)
    if not across.size or not usual.size:
        return [[0, 0], [0, 0]]
    threshold = np.median(usual) + JUMP * stats.median_abs_deviation(usual, scale="normal")
    return [[int(sum(r > threshold)), int(sum(r <= threshold))] for r in (across, usual)]


def wasted_parameters(arms: Sequence[Arm]) -> Iterable[str]:
    """Report the larger of two arms that differ only in the budget, if it is no better."""
    parameters = {arm: int(arm.frame["parameters.enabled"].iloc[0]) for arm in arms}
    for pair in combinations(arms, 2):
        small, large = sorted(pair, key=parameters.__getitem__)
        seeds = small.by_seed().keys() & large.by_seed().keys()
        if (
            not seeds
            or parameters[large] < MORE_PARAMETERS * parameters[small]
            or {**small.settings, "rank_budget": None} != {**large.settings, "rank_budget": None}
        ):
            continue
        less, more = (mean(arm.by_seed()[seed] for seed in seeds) for arm in (small, large))
        if more <= less if large.runs[0].higher_is_better else more >= less:
            yield (
                f"{large.label}: {parameters[large]:,} adapter parameters are no better than the "
                f"{parameters[small]:,} of {small.label}: {large.runs[0].metric} {more:.1f} and "
                f"{less:.1f} (mean best of {_seeds(len(seeds))})"
            )


def _ranges(numbers: Iterable[int]) -> str:
    """Join numbers into ranges, such as `0-3, 7`."""
    runs = groupby(enumerate(sorted(numbers)), lambda pair: pair[1] - pair[0])
    ends = [[number for _, number in run] for _, run in runs]
    return ", ".join(f"{run[0]}-{run[-1]}" if len(run) > 1 else f"{run[0]}" for run in ends)


def _seeds(count: int) -> str:
    return f"{count} seed{'s' * (count != 1)}"
