"""The paper's selection (section 2.2): a site is on, with all its ranks, or off."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from heterolora.allocation.selection.base import Candidates, Claim, Selection
from heterolora.errors import Problem
from heterolora.settings import Situation
from heterolora.sites import Site


@dataclass(frozen=True)
class Top(Selection):
    """Sites are switched on in descending order of score, each with all its ranks.

    With a floor of f, the sites that are not chosen have f ranks.
    """

    def problems(self, situation: Situation) -> Iterator[Problem]:
        """Yield problems as for any selection, and if no site is nearer to a budget than one."""
        yield from super().problems(situation)
        for pool in situation.pools if situation.capacities else ():
            costs = [situation.capacities[s] * situation.unit_costs[s] for s in pool.sites]
            if max(costs) >= 2 * pool.budget:
                yield Problem(
                    "enable_rate",
                    f"{situation.strategy.enable_rate:g}",
                    f"a site that is on would cost {max(costs)} parameters, so a budget of "
                    f"{pool.budget} is too small for any site",
                    "raise it, for example to `enable_rate=0.25`, or add sites: roles in "
                    "`projections=[...]` or `shortcuts=[...]`",
                )

    def claims(self, candidates: Candidates, sites: Sequence[Site]) -> Iterable[Claim]:
        """Claim all of a site's ranks above the floor at once, in the order of the scores."""
        for site in sites:
            ranks = candidates.capacities[site] - self.floor
            if ranks:
                yield Claim((-candidates.scores[site],), site, ranks)
