"""Give each rank to the site where it gains most."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import ClassVar

from heterolora.allocation.selection.base import Candidates, Claim, Selection
from heterolora.errors import AllocationError
from heterolora.sites import Site


@dataclass(frozen=True)
class Waterfill(Selection):
    """Ranks are given one at a time, to the site where the next gains most per parameter.

    With gains g_1 >= g_2 >= ... for the ranks of a site, and c parameters in each rank, rank k
    claims g_k / c. Since gains never increase, no other ranks with the same number of parameters
    have a larger sum of gains: the greedy choice is optimal (Fox 1966,
    https://doi.org/10.1287/mnsc.13.3.210), except for the last rank, where the budget may not come
    out even. It needs a proxy that gives the gain of each rank: `gradsvd` or `eva`.
    """

    needs_gains: ClassVar[bool] = True

    def claims(self, candidates: Candidates, sites: Sequence[Site]) -> Iterable[Claim]:
        """Claim every rank above the floor, in the order of the gain per parameter.

        Raises:
            AllocationError: if only whole sites were scored.
        """
        if candidates.gains is None:
            raise AllocationError(
                "selection=waterfill: needs the gain of each rank, but the proxy scores whole "
                "sites; choose proxy=gradsvd or proxy=eva, or selection=proportional"
            )
        for site in sites:
            gains = candidates.gains[site][: candidates.capacities[site]]
            for rank, gain in enumerate(gains[self.floor :], start=self.floor + 1):
                yield Claim((-gain / candidates.unit_costs[site], rank), site, 1)
