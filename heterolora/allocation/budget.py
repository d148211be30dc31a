"""The budget: how many adapter parameters may be on, and who competes for them."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import get_args

from heterolora.sites import Kind, Site


def homogeneous_budget(unit_costs: Mapping[Site, int], ranks: Mapping[Site, int]) -> int:
    """The adapter parameters of the homogeneous model, `sum_s r_s (d_in + d_out)_s`.

    Args:
        unit_costs: what one rank costs at each site, d_in + d_out.
        ranks: the budget's rank at each site.
    """
    return sum(unit_costs[site] * ranks[site] for site in unit_costs)


def enabled_rank(budget_rank: int, enable_rate: float) -> int | None:
    """The rank of a site that is on, budget / enable rate; None where that is not whole.

    Whole to a millionth: 0.3333333 stands for 1/3, which no decimal of a YAML file equals.
    """
    rank = budget_rank / enable_rate
    return round(rank) if math.isclose(rank, round(rank), rel_tol=1e-6) else None


@dataclass(frozen=True)
class Pool:
    """Sites that compete for one budget.

    Attributes:
        sites: which.
        budget: the adapter parameters that may be on among them.
    """

    sites: frozenset[Site]
    budget: int


def make_pools(kind: str, unit_costs: Mapping[Site, int], ranks: Mapping[Site, int]) -> list[Pool]:
    """One pool of all sites (`combined`), or one for each kind of site (`separated`).

    Each pool has the budget of its own sites in the homogeneous model.

    Args:
        kind: the name of the arrangement.
        unit_costs: what one rank costs at each site.
        ranks: the budget's rank at each site.
    """
    groups = {"combined": _combined, "separated": _separated}[kind](unit_costs)
    return [
        Pool(sites, homogeneous_budget({s: unit_costs[s] for s in sites}, ranks))
        for sites in groups
    ]


def _combined(sites: Iterable[Site]) -> list[frozenset[Site]]:
    return [frozenset(sites)]


def _separated(sites: Iterable[Site]) -> list[frozenset[Site]]:
    kinds = [frozenset(site for site in sites if site.kind == kind) for kind in get_args(Kind)]
    return [group for group in kinds if group]


def nearest_prefix(costs: list[int], budget: int) -> int:
    """How many of `costs`, taken from the front, come nearest to `budget` in their sum.

    Where two are equally near, the smaller: a tie is not spent over budget.
    """
    best, total = 0, 0
    distance = budget
    for count, cost in enumerate(costs, start=1):
        total += cost
        if abs(budget - total) < distance:
            best, distance = count, abs(budget - total)
    return best
