"""Ranks in proportion to scores."""

import random
from dataclasses import dataclass

from heterolora.allocation.allocation import Allocation
from heterolora.allocation.budget import nearest_prefix
from heterolora.allocation.selection.base import Candidates, Selection
from heterolora.errors import AllocationError
from heterolora.settings import setting
from heterolora.sites import Site


@dataclass(frozen=True)
class Proportional(Selection):
    """Each site a rank of its own between a floor and its capacity, in proportion to its score.

    Ranks are given out one at a time, always where the quotient `score / (k - 1/2)` is highest,
    with k the rank that the site would come to, until the parameters are nearest to the budget:
    Sainte-Lague's method, by which seats follow votes
    (https://en.wikipedia.org/wiki/Sainte-Lagu%C3%AB_method). Where quotients are equal, lower
    ranks come first, and sites of the same rank in random order.
    """

    floor: int = setting(0, help="minimum rank of every site", ge=0)

    def select(self, candidates: Candidates, budget: int, rng: random.Random) -> Allocation:
        """Give every site its floor, and the rest of `budget` by the scores.

        Raises:
            AllocationError: if a site cannot hold the floor, the floors are nearest to more than
                the budget, or the budget is nearest to no rank at all.
        """
        least = min(candidates.capacities[site] for site in candidates.scores)
        ranks = dict.fromkeys(candidates.scores, self.floor)
        rest = budget - candidates.parameters(ranks)
        if self.floor > least or rest < 0:
            raise AllocationError(
                f"selection.floor={self.floor}: costs {budget - rest} parameters of a budget of "
                f"{budget}, and the smallest site holds {least} ranks; lower selection.floor"
            )
        units = self._units(candidates, rng)
        count = nearest_prefix([candidates.unit_costs[site] for _, _, site in units], rest)
        if count == 0 and self.floor == 0:
            raise AllocationError(
                f"a budget of {budget} parameters is nearest to no rank at all; raise "
                "rank_budget.lora_rank or rank_budget.shortcut_rank"
            )
        for _, _, site in units[:count]:
            ranks[site] += 1
        return Allocation(
            ranks=ranks,
            parameters=candidates.parameters(ranks),
            degenerate=candidates.degenerate,
            tied=_tied([unit[:2] for unit in units], count),
        )

    def _units(self, candidates: Candidates, rng: random.Random) -> list[tuple[float, int, Site]]:
        """`(-score / (k - 1/2), k, site)` of every rank above the floor, in order of preference."""
        units = [
            (-candidates.scores[site] / (rank - 0.5), rank, site)
            for site in candidates.shuffled(rng)
            for rank in range(self.floor + 1, candidates.capacities[site] + 1)
        ]
        units.sort(key=lambda unit: unit[:2])
        return units


def _tied(claims: list[tuple[float, int]], count: int) -> int:
    """How many claims equal the last that is granted, if the first that is not does too."""
    if count == 0 or count == len(claims) or claims[count] != claims[count - 1]:
        return 0
    return claims.count(claims[count])
