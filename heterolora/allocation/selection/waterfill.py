"""Give each rank to the site where it gains most."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from heterolora.allocation.selection.base import Candidates, Claim, Selection
from heterolora.errors import AllocationError, Problem
from heterolora.settings import Situation
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

    def problems(self, situation: Situation) -> Iterator[Problem]:
        """Yield problems as for any selection, and if the proxy gives no gains."""
        yield from super().problems(situation)
        if situation.proxy is not None and not situation.proxy.has_gains:
            yield self._no_gains(f"`proxy={situation.proxy.name}` scores")

    def _no_gains(self, who_scores: str) -> Problem:
        rule = f"needs the gain of each rank, but {who_scores} whole sites"
        remedy = "choose `proxy=gradsvd` or `proxy=eva`, or `selection=proportional`"
        return Problem("selection", self.name, rule, remedy)

    def claims(self, candidates: Candidates, sites: Sequence[Site]) -> Iterable[Claim]:
        """Claim every rank above the floor, in the order of the gain per parameter.

        Raises:
            AllocationError: if only whole sites were scored.
        """
        if candidates.gains is None:
            raise AllocationError(str(self._no_gains("the proxy scores")))
        for site in sites:
            gains = candidates.gains[site][: candidates.capacities[site]]
            for rank, gain in enumerate(gains[self.floor :], start=self.floor + 1):
                yield Claim((-gain / candidates.unit_costs[site], rank), site, 1)
