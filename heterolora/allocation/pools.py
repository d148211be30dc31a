"""Which sites compete for which budget, and the allocation over all of them."""

import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import get_args

from heterolora.allocation.allocation import Allocation
from heterolora.allocation.budget import homogeneous_budget
from heterolora.allocation.selection import Candidates, Selection
from heterolora.sites import Kind, Site


@dataclass(frozen=True)
class Pool:
    """Sites that compete for one budget.

    Attributes:
        sites: the sites that compete.
        budget: the number of adapter parameters that may be on among them.
    """

    sites: frozenset[Site]
    budget: int


def make_pools(
    kind: str, unit_costs: Mapping[Site, int], ranks: Mapping[Site, float]
) -> list[Pool]:
    """Return one pool of all sites (`combined`), or one for each kind of site (`separated`).

    The budget of each pool is that of its own sites in the homogeneous model.

    Args:
        kind: `combined` or `separated`.
        unit_costs: the number of parameters in one rank at each site.
        ranks: the budget's rank at each site.
    """
    groups = {"combined": _combined, "separated": _separated}[kind](unit_costs)
    return [
        Pool(sites, homogeneous_budget({s: unit_costs[s] for s in sites}, ranks))
        for sites in groups
    ]


def select_pools(
    selection: Selection, candidates: Candidates, pools: Sequence[Pool], rng: random.Random
) -> Allocation:
    """Run a selection on each pool separately, one after another with the same random stream.

    The result combines the allocations: ranks, parameters and ties are those of all pools, and it
    is degenerate if that of any pool is.

    Raises:
        AllocationError: if `selection` raises it for any pool.
    """
    parts = [selection.select(candidates.among(pool.sites), pool.budget, rng) for pool in pools]
    chosen = {site: rank for part in parts for site, rank in part.ranks.items()}
    return Allocation(
        ranks={site: chosen.get(site, 0) for site in candidates.scores},
        parameters=sum(part.parameters for part in parts),
        degenerate=any(part.degenerate for part in parts),
        tied=sum(part.tied for part in parts),
    )


def _combined(sites: Iterable[Site]) -> list[frozenset[Site]]:
    return [frozenset(sites)]


def _separated(sites: Iterable[Site]) -> list[frozenset[Site]]:
    kinds = [frozenset(site for site in sites if site.kind == kind) for kind in get_args(Kind)]
    return [group for group in kinds if group]
