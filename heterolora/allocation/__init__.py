"""Turn scores and a budget into an allocation; pure, and without torch."""

from heterolora.allocation import selection
from heterolora.allocation.allocation import Allocation
from heterolora.allocation.budget import enabled_rank, homogeneous_budget
from heterolora.allocation.pools import Pool, make_pools, select_pools
from heterolora.allocation.select import select
from heterolora.allocation.selection import Candidates, Proportional, Selection, Top, Waterfill

__all__ = [
    "Allocation",
    "Candidates",
    "Pool",
    "Proportional",
    "Selection",
    "Top",
    "Waterfill",
    "enabled_rank",
    "homogeneous_budget",
    "make_pools",
    "select",
    "select_pools",
    "selection",
]
