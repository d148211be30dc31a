"""The paper's selection (section 2.2): a site is on, with all its ranks, or off."""

import random
from dataclasses import dataclass

from heterolora.allocation.allocation import Allocation
from heterolora.allocation.budget import nearest_prefix
from heterolora.allocation.selection.base import Candidates, Selection
from heterolora.errors import AllocationError


@dataclass(frozen=True)
class Top(Selection):
    """Sites go on in descending score until the parameters are nearest to the budget.

    Sites of equal score stand in random order.
    """

    def select(self, candidates: Candidates, budget: int, rng: random.Random) -> Allocation:
        """Switch the highest-scored sites on, as many as come nearest to `budget` parameters.

        Raises:
            AllocationError: if the budget is nearest to no site at all.
        """
        scores = candidates.scores
        costs = {site: candidates.capacities[site] * candidates.unit_costs[site] for site in scores}
        sites = candidates.shuffled(rng)
        sites.sort(key=lambda site: -scores[site])
        count = nearest_prefix([costs[site] for site in sites], budget)
        if count == 0:
            raise AllocationError(
                f"a budget of {budget} parameters is nearest to no site at all (the first costs "
                f"{costs[sites[0]]}); raise strategy.enable_rate, or add roles to "
                "search_space.projections or search_space.shortcuts"
            )
        on, off = sites[:count], sites[count:]
        ranks = {site: candidates.capacities[site] if site in set(on) else 0 for site in scores}
        cut = scores[on[-1]]
        tie_at_cut = bool(off) and scores[off[0]] == cut
        return Allocation(
            ranks=ranks,
            parameters=candidates.parameters(ranks),
            degenerate=candidates.degenerate,
            tied=sum(score == cut for score in scores.values()) if tie_at_cut else 0,
        )
