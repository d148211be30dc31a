"""Who competes for which budget, and the allocation over all of them."""

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
        sites: which.
        budget: the adapter parameters that may be on among them.
    """

    sites: frozenset[Site]
    budget: int


def make_pools(
    kind: str, unit_costs: Mapping[Site, int], ranks: Mapping[Site, float]
) -> list[Pool]:
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


def select_pools(
    selection: Selection, candidates: Candidates, pools: Sequence[Pool], rng: random.Random
) -> Allocation:
    """A selection in each pool by itself, one after another from the same stream.

    The allocations are put together: ranks, parameters and ties are those of all pools, and one
    pool that is degenerate makes the whole so.

    Raises:
        AllocationError: as `selection`, of any pool.
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
