"""The budget: how many adapter parameters may be on."""

import math
from collections.abc import Mapping, Sequence

from heterolora.sites import Site


def homogeneous_budget(unit_costs: Mapping[Site, int], ranks: Mapping[Site, float]) -> int:
    """The adapter parameters of the homogeneous model, `sum_s r_s (d_in + d_out)_s`, rounded.

    Args:
        unit_costs: what one rank costs at each site, d_in + d_out.
        ranks: the budget's rank at each site; below 1, no such model exists, but the budget does.
    """
    return round(sum(unit_costs[site] * ranks[site] for site in unit_costs))


def enabled_rank(budget_rank: float, enable_rate: float) -> int | None:
    """The rank of a site that is on, budget / enable rate; None where that is not whole.

    Whole to a millionth: 0.3333333 stands for 1/3, which no decimal of a YAML file equals.
    """
    rank = budget_rank / enable_rate
    if math.isinf(rank):
        return None
    return round(rank) if math.isclose(rank, round(rank), rel_tol=1e-6) else None


def nearest_prefix(costs: Sequence[int], budget: int) -> int:
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
