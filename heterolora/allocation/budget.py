"""The budget: how many adapter parameters may be on."""

import math
from collections.abc import Mapping, Sequence

from heterolora.sites import Site


def homogeneous_budget(unit_costs: Mapping[Site, int], ranks: Mapping[Site, float]) -> int:
    """Return the parameters of the homogeneous model, `sum_s r_s (d_in + d_out)_s`, rounded.

    Args:
        unit_costs: the number of parameters in one rank at each site, d_in + d_out.
        ranks: the budget's rank at each site. Below 1, there is no such model, but still a budget.
    """
    return round(sum(unit_costs[site] * ranks[site] for site in unit_costs))


def enabled_rank(budget_rank: float, enable_rate: float) -> int | None:
    """Return the rank of a site that is on, budget rank / enable rate; None if it is not whole.

    A relative error of one millionth still counts as whole: 0.3333333 stands for 1/3, which no
    decimal in a YAML file equals.
    """
    rank = budget_rank / enable_rate
    if math.isinf(rank):
        return None
    return round(rank) if math.isclose(rank, round(rank), rel_tol=1e-6) else None


def nearest_prefix(costs: Sequence[int], budget: int) -> int:
    """Return how many of `costs`, taken from the front, add up to the sum nearest to `budget`.

    If two are equally near, return the smaller, so that a tie does not overspend the budget.
    """
    best, total = 0, 0
    distance = budget
    for count, cost in enumerate(costs, start=1):
        total += cost
        if abs(budget - total) < distance:
            best, distance = count, abs(budget - total)
    return best
