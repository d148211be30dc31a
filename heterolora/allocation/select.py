"""Selection: sites go on in descending score until the parameters are nearest to the budget."""

import math
import random
from collections.abc import Mapping, Sequence

from heterolora.allocation.allocation import Allocation
from heterolora.allocation.budget import Pool, nearest_prefix
from heterolora.errors import AllocationError
from heterolora.sites import Site


def select(
    scores: Mapping[Site, float], costs: Mapping[Site, int], budget: int, rng: random.Random
) -> Allocation:
    """Switch the highest-scored sites on, as many as come nearest to `budget` parameters.

    Sites of equal score stand in uniformly random order, drawn from `rng`. The draw is made
    whether or not there are ties, so that the stream's position depends on the number of searches
    alone.

    Raises:
        AllocationError: if a score is not finite, or the budget is nearest to no site at all.
    """
    assert scores.keys() == costs.keys()
    broken = [str(site) for site, score in scores.items() if not math.isfinite(score)]
    if broken:
        raise AllocationError(
            f"scores of {len(broken)} sites are not finite (first: {broken[0]} = "
            f"{next(s for s in scores.values() if not math.isfinite(s))}); "
            "lower optimizer.learning_rate or set precision=fp32"
        )
    sites = sorted(scores, key=lambda site: (site.layer, site.role))
    rng.shuffle(sites)
    sites.sort(key=lambda site: -scores[site])
    count = nearest_prefix([costs[site] for site in sites], budget)
    if count == 0:
        raise AllocationError(
            f"a budget of {budget} parameters is nearest to no site at all (the first costs "
            f"{costs[sites[0]]}); raise strategy.enable_rate, or add roles to "
            "search_space.projections or search_space.shortcuts"
        )
    on, off = sites[:count], sites[count:]
    cut = scores[on[-1]]
    tie_at_cut = bool(off) and scores[off[0]] == cut
    return Allocation(
        enabled=frozenset(on),
        parameters=sum(costs[site] for site in on),
        degenerate=len(sites) > 1 and len(set(scores.values())) == 1,
        tied=sum(score == cut for score in scores.values()) if tie_at_cut else 0,
    )


def select_pools(
    scores: Mapping[Site, float],
    costs: Mapping[Site, int],
    pools: Sequence[Pool],
    rng: random.Random,
) -> Allocation:
    """`select` in each pool by itself, one after another from the same stream.

    The allocations are put together: what is on, parameters and ties are those of all pools, and
    one pool that is degenerate makes the whole so.

    Raises:
        AllocationError: as `select`, of any pool.
    """
    parts = [
        select(
            {site: scores[site] for site in scores if site in pool.sites},
            {site: costs[site] for site in costs if site in pool.sites},
            pool.budget,
            rng,
        )
        for pool in pools
    ]
    return Allocation(
        enabled=frozenset().union(*(part.enabled for part in parts)),
        parameters=sum(part.parameters for part in parts),
        degenerate=any(part.degenerate for part in parts),
        tied=sum(part.tied for part in parts),
    )
