"""Each rank to where it gains most."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import ClassVar

from heterolora.allocation.selection.base import Candidates, Claim, Selection
from heterolora.errors import AllocationError
from heterolora.sites import Site


@dataclass(frozen=True)
class Waterfill(Selection):
    """Ranks are given one at a time, to the site where the next gains most per parameter.

    With gains g_1 >= g_2 >= ... of the ranks of a site and c the parameters of one rank, the rank
    k claims g_k / c. Since gains never rise, no ranks of the same parameters have a larger sum of
    gains: the greedy choice is optimal (Fox 1966, https://doi.org/10.1287/mnsc.13.3.210), but for
    the last rank, at which the budget may not come out even. It needs a proxy that tells the gain
    of each rank: `gradsvd` or `eva`.
    """

    needs_gains: ClassVar[bool] = True

    def claims(self, candidates: Candidates, sites: Sequence[Site]) -> Iterable[Claim]:
        """Every rank above the floor, at its gain for each parameter.

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
