"""From scores and a budget to an allocation; pure, and without torch."""

from heterolora.allocation.allocation import Allocation
from heterolora.allocation.budget import Pool, enabled_rank, homogeneous_budget, make_pools
from heterolora.allocation.rules import rank_for_sites, some_site, whole_rank
from heterolora.allocation.select import select, select_pools

__all__ = [
    "Allocation",
    "Pool",
    "enabled_rank",
    "homogeneous_budget",
    "make_pools",
    "rank_for_sites",
    "select",
    "select_pools",
    "some_site",
    "whole_rank",
]
